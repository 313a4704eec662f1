"""The engine up to the frames: what training and benchmarks need of it, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.alignment.aligner import Aligned
from pipeline.arrays import Ints
from pipeline.config.profile import PlantProfile
from pipeline.engine.engine import Engine
from pipeline.engine.machines import Line
from pipeline.frames import Frames, StepResult
from pipeline.wire.records import Output


class NoModel:
    """Stands where a runner must be; it has no state and is never asked to step."""

    name, hash, modalities = "none", "0" * 64, ("sensors", "text")

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes

    def reserve(self, slots: int) -> None:
        """There is no state."""

    def reset(self, slots: Ints) -> None:
        """There is no state."""

    def save(self, slots: Ints) -> list[bytes]:
        """There is no state: an empty one for each slot."""
        return [b""] * len(slots)

    def load(self, slot: int, state: bytes) -> None:
        """There is no state."""

    def prepare(self, rounds: Sequence[Frames]) -> None:
        """There is nothing to prepare."""

    def step(self, frames: Frames) -> StepResult:
        """Never called by FrameStream."""
        raise TypeError("a frame stream has no model to step")


class FrameStream(Engine):
    """Decodes and aligns like the engine, and hands every round of frames to `take(line, frames)`."""

    def __init__(self, profile: PlantProfile, take: Callable[[Line, Frames], None]) -> None:
        super().__init__(profile, {kind.name: NoModel(kind.faults) for kind in profile.machine_types})
        self._hand_over = take

    def _step(self, line: Line, aligned: Aligned, outputs: list[Output]) -> None:
        for frames in aligned.rounds:
            self._hand_over(line, frames)
