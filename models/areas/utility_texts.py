"""What a machine model makes of the texts about utilities: its text modality, stepped over each as over a machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.configs.diagnoser import TEXT
from models.stepping.runner import CompiledRunner
from pipeline.areas.frames import AreaFrame
from pipeline.areas.layout import AreaLayout
from pipeline.arrays import Bools, Floats
from pipeline.errors import ModelFileError, StateError
from pipeline.frames import Frames


class UtilityTexts:
    """The state of the texts about every utility, by the slot of its area."""

    def __init__(self, runner: CompiledRunner, variables: int, ttl_frames: int) -> None:
        """`variables` are those of the machine type; a text is forgotten after `ttl_frames`. Raises ModelFileError if
        the model reads no texts."""
        if TEXT not in runner.modalities:
            raise ModelFileError(f"model {runner.name} reads no texts, so a rule with `texts` cannot use it")
        self.hash = runner.hash
        self.classes = runner.classes
        self._runner = runner
        self._text = runner.modalities.index(TEXT)
        self._variables = variables
        self._ttl_frames = ttl_frames
        self._stride = 1

    def knows(self, text: str) -> bool:
        """Whether the model knows a word of the text."""
        return bool(self._runner.text_vectors([text]).any())

    def require(self, layouts: Sequence[AreaLayout]) -> None:
        """Make room for the utilities of these areas."""
        self._stride = max(self._stride, *(len(layout.utilities) for layout in layouts))

    def reserve(self, slots: int) -> None:
        """Make room for so many areas."""
        self._runner.reserve(slots * self._stride)

    def reset(self, slot: int) -> None:
        """Forget the texts of an area."""
        self._runner.reset(self._rows(slot))

    def save(self, slot: int) -> bytes:
        """The state of an area."""
        return b"".join(self._runner.save(self._rows(slot)))

    def load(self, slot: int, state: bytes) -> None:
        """Restore it; raises StateError if the bytes are not a state of this model and number of utilities."""
        size, rest = divmod(len(state), self._stride)
        if rest:
            raise StateError(f"{len(state)} bytes are no state of the texts about {self._stride} utilities")
        for place, row in enumerate(self._rows(slot).tolist()):
            self._runner.load(row, state[place * size : (place + 1) * size])

    def step(self, frame: AreaFrame) -> tuple[Floats, Bools]:
        """(U, C) probabilities by the texts about each utility, and (U,) whether there are any; C as `classes`."""
        utilities = len(frame.layout.utilities)
        if not utilities:
            return np.zeros((0, len(self.classes)), np.float32), np.zeros(0, np.bool_)
        self.reserve(frame.slot + 1)
        if frame.reset:
            self.reset(frame.slot)
        # Texts grow old in the frames that nobody had a diagnosis of, too.
        for _ in range(0 if frame.reset else min(frame.skipped, self._ttl_frames)):
            self._runner.step(self._frames(frame, utilities, with_texts=False))
        frames = self._frames(frame, utilities, with_texts=True)
        self._runner.prepare([frames])
        result = self._runner.step(frames)
        there = result.present[self._text]
        said = np.where(there[:, None], result.modality_probabilities[self._text], np.float32(0))
        return said, there

    def _rows(self, slot: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.arange(slot * self._stride, (slot + 1) * self._stride)

    def _frames(self, frame: AreaFrame, utilities: int, *, with_texts: bool) -> Frames:
        shape = (utilities, self._variables)
        return Frames(
            slots=self._rows(frame.slot)[:utilities],
            start_ms=np.full(utilities, frame.start_ms),
            period_ms=frame.layout.period_ms,
            values=np.full(shape, np.nan, np.float32),
            observed=np.zeros(shape, np.bool_),
            age_ms=np.full(shape, -1, np.int64),
            reset=np.zeros(utilities, np.bool_),
            reset_reason=np.zeros(utilities, np.int64),
            revision=np.zeros(utilities, np.int64),
            texts=list(frame.texts) if with_texts else [],
        )
