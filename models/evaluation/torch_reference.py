"""TorchRunner: the step as torch computes it, by which the compiled one is tested and timed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.diagnoser import Answer, Diagnoser, RoundTexts
from models.encoders.base import State
from models.stepping.saved_states import StateFormat
from pipeline.arrays import Floats, Ints
from pipeline.frames import Frames, StepResult


class TorchRunner:
    """Implements `pipeline.frames.StepRunner` on the CPU in float32; it reads and writes the same states as
    `models.stepping.runner.CompiledRunner`, and its bits depend on the round. The number of threads is the caller's.

    The arena holds one row per slot in each state tensor. A step gathers the round's rows, advances them together and
    scatters them back, so a round of many machines costs little more than a round of one.
    """

    def __init__(self, network: Diagnoser, *, name: str, digest: str, classes: tuple[str, ...]) -> None:
        """`digest` is the model's hexadecimal SHA-256; it stamps every saved state."""
        self._network = network.eval()
        self._name = name
        self._hash = digest
        self._classes = classes
        with torch.inference_mode():
            self._initial = network.init_state(1)
            self._arena: State = {key: row[:0].clone() for key, row in self._initial.items()}
        self._encoded: dict[str, Tensor] = {}  # texts of the rounds at hand
        self._sizes = [row.numel() for row in self._initial.values()]
        self._state_format = StateFormat(digest, sum(self._sizes))

    @property
    def name(self) -> str:
        return self._name

    @property
    def hash(self) -> str:
        return self._hash

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes

    @property
    def modalities(self) -> tuple[str, ...]:
        return self._network.modalities

    @property
    def capacity(self) -> int:
        """Slots that the arena holds now."""
        return len(next(iter(self._arena.values())))

    def reserve(self, slots: int) -> None:
        """Make room for at least this many slots; capacity doubles, so growing one by one stays cheap."""
        missing = max(slots, 2 * self.capacity) - self.capacity
        if slots <= self.capacity:
            return
        with torch.inference_mode():
            for key, row in self._initial.items():
                fresh = row.expand(missing, *row.shape[1:])
                self._arena[key] = torch.cat([self._arena[key], fresh])

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """Encode the texts of all these rounds in one batch; one by one would cost several times as much."""
        self._encoded.clear()
        if self._network.text is None:
            return
        texts = list(dict.fromkeys(text.text for frames in rounds for _, text in frames.texts))
        self._encoded = self._encode(texts)

    def step(self, frames: Frames) -> StepResult:
        """Advance each machine of the round by one frame; a slot may be in a round only once."""
        answer = self.answer(frames)
        known = set(self._known(frames))
        return StepResult(
            probabilities=answer.probabilities.numpy(),
            modality_probabilities=answer.modality_probabilities.numpy(),
            weights=answer.weights.numpy(),
            present=answer.present.numpy(),
            scaled=answer.scaled.numpy(),
            attention=None if answer.attention is None else answer.attention.numpy(),
            novelty=None if answer.novelty is None else answer.novelty.numpy(),
            deviations=None if answer.deviations is None else answer.deviations.numpy(),
            remaining=None if answer.remaining is None else answer.remaining.numpy(),
            candidates=None if answer.candidates is None else answer.candidates.numpy(),
            unknown_texts=[] if self._network.text is None else sorted(set(range(len(frames.texts))) - known),
        )

    def answer(self, frames: Frames) -> Answer:
        """As `step`, with all outputs of the network: logits, features and the attention over the texts."""
        slots = frames.slots
        if not len(slots):
            raise ValueError("a round needs at least one machine")
        if len(set(slots.tolist())) < len(slots):
            raise ValueError("a slot is in this round twice; give it one frame per round")
        self.reserve(int(slots.max()) + 1)
        if frames.reset.any():
            self.reset(slots[frames.reset])
        index = torch.from_numpy(np.ascontiguousarray(slots))
        with torch.inference_mode():
            state = {key: rows.index_select(0, index) for key, rows in self._arena.items()}
            values, observed = torch.from_numpy(frames.values), torch.from_numpy(frames.observed)
            answer, after = self._network.step(values, observed, self._texts(frames), state, self._messages(frames))
            for key, rows in after.items():
                self._arena[key].index_copy_(0, index, rows)
        return answer

    def reset(self, slots: Ints) -> None:
        """Put the slots back to the initial state."""
        index = torch.from_numpy(np.ascontiguousarray(slots))
        self.reserve(int(slots.max()) + 1 if len(slots) else 0)
        with torch.inference_mode():
            for key, row in self._initial.items():
                self._arena[key][index] = row

    def save(self, slots: Ints) -> list[bytes]:
        """Header and raw little-endian float32 of each slot, always of the same length."""
        index = torch.from_numpy(np.ascontiguousarray(slots))
        with torch.inference_mode():
            parts = [rows.index_select(0, index).flatten(1) for rows in self._arena.values()]
            rows: Floats = torch.cat(parts, dim=1).numpy()
        return self._state_format.write(rows)

    def load(self, slot: int, state: bytes) -> None:
        """Restore one slot; raises StateError if the bytes are not a state of this very model."""
        found = read_state(self._network, state, self._hash)
        self.reserve(slot + 1)
        with torch.inference_mode():
            for key, row in found.items():
                self._arena[key][slot] = row[0]

    def _known(self, frames: Frames) -> list[int]:
        """The indices of the texts with a known word."""
        text = self._network.text
        return [] if text is None else [index for index, (_, one) in enumerate(frames.texts) if text.knows(one.text)]

    def _texts(self, frames: Frames) -> RoundTexts | None:
        known = [frames.texts[index] for index in self._known(frames)]
        if not known:
            return None
        rows = np.array([row for row, _ in known], np.int64)
        written = np.array([text.time_ms for _, text in known], np.int64)
        ages = (frames.end_ms[rows] - written) / frames.period_ms
        texts = [text.text for _, text in known]
        encoded = self._encoded if all(text in self._encoded for text in texts) else self._encode(texts)
        vectors = torch.stack([encoded[text] for text in texts])
        return RoundTexts(torch.from_numpy(rows), vectors, torch.from_numpy(ages.astype(np.float32)))

    def _messages(self, frames: Frames) -> Tensor | None:
        """The messages of the round, (N, 2, K)."""
        counted = self._network.messages
        if counted is None:
            return None
        texts: list[list[tuple[float, str]]] = [[] for _ in frames.slots]
        for row, text in frames.texts:
            texts[row].append((float(np.float32((frames.end_ms[row] - text.time_ms) / frames.period_ms)), text.text))
        return counted.brought(texts)

    def _encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Vectors of the distinct texts with a known word."""
        text = self._network.text
        assert text is not None
        distinct = [one for one in dict.fromkeys(texts) if text.knows(one)]
        if not distinct:
            return {}
        with torch.inference_mode():
            return dict(zip(distinct, text.encode(distinct), strict=True))


def read_state(network: Diagnoser, state: bytes, digest: str) -> State:
    """A saved state as the network's tensors, with B = 1; raises StateError unless it is of the model `digest`."""
    initial = network.init_state(1)
    sizes = [row.numel() for row in initial.values()]
    row = torch.from_numpy(StateFormat(digest, sum(sizes)).read(state).copy())
    parts = torch.split(row, sizes)
    return {key: part.view(like.shape).to(like.dtype) for (key, like), part in zip(initial.items(), parts, strict=True)}
