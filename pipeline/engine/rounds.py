"""A diagnosed round, and the interface of those that want to know of every one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.engine.diagnoses import Answers, DiagnosedMachine
from pipeline.frames import Frames, StepResult
from pipeline.wire.messages import ModelRef


@dataclass(frozen=True, slots=True)
class Round:
    """Frames of one machine type, at most one per machine, with what the model and the diagnoses say about them."""

    model: ModelRef
    classes: Sequence[str]
    modalities: tuple[str, ...]
    machines: Sequence[DiagnosedMachine]  # of each row
    frames: Frames
    result: StepResult
    answers: Answers


class Watcher(Protocol):
    """Sees every diagnosis without decoding it."""

    def diagnosed(self, diagnosed: Round) -> None:
        """A round of frames has been diagnosed."""

    def announced(
        self, model: ModelRef, modalities: tuple[str, ...], machine: DiagnosedMachine, start_ms: int, period_ms: int
    ) -> None:
        """A frame of a silent machine has been announced."""
