"""The time that a training may take: how many epochs of each stage fit in, measured and written down beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch

from models.training.loop import Stage, StageConfig
from pipeline.errors import DataError
from pipeline.files.atomic_file import write_text

Clock = Callable[[], float]
"""Seconds since any moment."""

PLAN: Final = "plan.json"
"""Where the output folder has what was decided, so that a resumed training decides the same."""

_SHARES: Final = {
    "statistics": 2.0,
    "trees": 3.0,
    "detector": 1.0,
    "words": 1.0,
    "text": 1.0,
    "fusion": 2.0,
    "joint": 4.0,
}
"""What a stage gets of the time, relative to the others."""
_SHARE_OF_NETWORK: Final = 5.0
_FEWEST_EPOCHS: Final = 3
"""With fewer a stage is of no use, whatever the budget says."""
_SPARED: Final = 0.85
"""Share of the budget that stages may plan with; calibration and scores take the rest."""


@dataclass(slots=True)
class Budget:
    """Shares out the time among stages; without a limit every stage has what its configuration says.

    Stages take their share of what is left, so what one does not need the next ones get.
    """

    folder: Path
    seconds: float | None
    clock: Clock
    resume: bool
    stages: Sequence[str] = ()
    """Names of the stages that are to come, in their order."""
    plan: dict[str, int] = field(default_factory=dict)
    """Epochs of each stage, and `rows` of training frames for trees, as they were decided."""
    _end: float = 0.0

    def start(self, stages: Sequence[str]) -> None:
        """Begin to count the time; `stages` are all that there will be."""
        self.stages = list(stages)
        if self.seconds is None:
            return
        self._end = self.clock() + _SPARED * self.seconds
        path = self.folder / PLAN
        if self.resume and path.is_file():
            try:
                self.plan = {str(name): int(number) for name, number in json.loads(path.read_text()).items()}
            except (ValueError, AttributeError, TypeError) as error:
                raise DataError(f"{path} is not the plan of a training ({error}); delete it to start again") from error

    def allowed_seconds(self, stage: str) -> float:
        """What this stage may take of the time that is left."""
        left = max(self._end - self.clock(), 0.0)
        coming = self.stages[list(self.stages).index(stage) :]
        return left * _share(stage) / sum(map(_share, coming))

    def decided(self, name: str, decide: Callable[[], int]) -> int:
        """A number of the plan; it is decided once, and a resumed training has the same."""
        if name not in self.plan:
            self.plan[name] = decide()
            write_text(self.folder / PLAN, json.dumps(self.plan, indent=1) + "\n")
        return self.plan[name]

    def fitting(self, stage: Stage, config: StageConfig) -> StageConfig:
        """The stage's configuration with as many epochs as fit in, at least a few and at most as many as it says."""
        if self.seconds is None:
            return config

        def decide() -> int:
            epochs = int(self.allowed_seconds(stage.name) / max(epoch_seconds(stage, self.clock), 1e-9))
            return min(config.epochs, max(epochs, _FEWEST_EPOCHS))

        return config.model_copy(update={"epochs": self.decided(stage.name, decide)})


def _share(stage: str) -> float:
    return _SHARES.get(stage.partition("_")[0], _SHARE_OF_NETWORK)


def epoch_seconds(stage: Stage, clock: Clock) -> float:
    """About how long an epoch of a stage takes: its beginning, one more update times their number, and validation.

    Weights and random numbers stay as they are.
    """
    training = stage.module.training
    stage.module.train()
    begun = clock()
    times, done = [begun], 1.0
    with torch.random.fork_rng(devices=[]):
        for after, loss in islice(stage.losses(np.random.default_rng(0)), 2):
            loss.backward()  # type: ignore[no-untyped-call]
            times.append(clock())
            done = after
    stage.module.zero_grad(set_to_none=True)
    stage.module.eval()
    validated = clock()
    stage.validate()
    validation = clock() - validated
    stage.module.train(training)
    if len(times) < 3:
        return times[-1] - begun + validation
    updates = 2 / max(done, 1e-9)
    return (times[1] - begun) + (updates - 1) * (times[2] - times[1]) + validation
