"""A plant whose drift is easy to foresee: a runner that answers as it is told, and readings by window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pipeline.engine.engine import Engine
from pipeline.engine.reports.drift_report import DriftReport, decode_drift_report
from pipeline.engine.reports.drift_rule import DriftRule
from pipeline.frames import Frames, StepResult
from pipeline.wire.records import Output, Record
from tests.support.builders import SumRunner, profile, reading

T0 = 1_763_600_000_000
PERIOD_MS = 10_000
WINDOW = 24
"""Frames of a window."""

RULE = DriftRule(window_ms=WINDOW * PERIOD_MS, reference_windows=3)


class ObedientRunner(SumRunner):
    """Scaled readings are the readings; the answer is what `answer` makes of a machine's first variable."""

    def __init__(self, answer: Callable[[float], int] = lambda _: 0) -> None:
        super().__init__()
        self._answer = answer
        self.confidence = 0.9
        self.second = 0.9
        """Probability that the second modality gives the normal state."""

    def step(self, frames: Frames) -> StepResult:
        result = super().step(frames)
        rows, count = len(frames.slots), len(self.classes)
        fused = np.full((rows, count), (1 - self.confidence) / (count - 1), np.float32)
        for row, value in enumerate(np.nan_to_num(frames.values[:, 0]).tolist()):
            fused[row, self._answer(value)] = self.confidence
        second = np.full_like(fused, (1 - self.second) / (count - 1))
        second[:, 0] = self.second
        modalities = np.stack([fused, second])
        return StepResult(fused, modalities, result.weights, result.present, result.scaled)


def engine(runner: SumRunner | None = None, rule: DriftRule | None = RULE) -> Engine:
    """An engine that reports drift after three windows of 24 frames."""
    return Engine(profile(), {"pump": runner or ObedientRunner()}, drift_rule=rule)


def readings(
    values: Callable[[int], Sequence[float | None] | dict[str, float | None] | None],
    frames: Iterable[int],
    machine: str = "p1",
) -> list[Record]:
    """One reading in each frame; none where `values` gives none for the frame."""
    given = ((frame, values(frame)) for frame in frames)
    return [reading(machine, T0 + frame * PERIOD_MS, own, offset=frame) for frame, own in given if own is not None]


def wobble(frame: int, level: float = 0.0, spread: float = 1.0) -> float:
    """A reading that is up and down in turn."""
    return level + (spread if frame % 2 else -spread)


def reports(outputs: Iterable[Output]) -> list[DriftReport]:
    """The drift reports among outputs."""
    return [decode_drift_report(out.value or b"") for out in outputs if out.topic == "drift"]


def changes(outputs: Iterable[Output]) -> list[tuple[int, str, str | None, str, str]]:
    """Of each report the window in which it came, what it is about and what became of it."""
    return [
        ((one.time - T0) // PERIOD_MS // WINDOW, one.kind, one.variable, one.state, one.direction)
        for one in reports(outputs)
    ]
