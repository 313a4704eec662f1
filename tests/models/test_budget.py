"""The budget of a training: stages share the time that is left, by a clock that the test turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.training.budget import PLAN, Budget, epoch_seconds
from models.training.config import TrainConfig
from models.training.loop import EpochRecord, StageConfig
from pipeline.errors import DataError


class Watch:
    """A clock that only moves when work is done."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Work:
    """A stage of ten updates an epoch, of which each takes so long, after a beginning of its own."""

    def __init__(self, watch: Watch, name: str, update: float, beginning: float = 0.0, validation: float = 0.0) -> None:
        self.name = name
        self.module: nn.Module = nn.Linear(2, 1)
        self._watch, self._update, self._beginning, self._validation = watch, update, beginning, validation

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        self._watch.now += self._beginning
        for done in range(1, 11):
            loss = self.module(torch.ones(1, 2)).sum()
            self._watch.now += self._update
            yield done / 10, loss

    def validate(self) -> EpochRecord:
        self._watch.now += self._validation
        return {"score": 0.0, "validation_loss": None}


def test_an_epoch_is_estimated_from_two_updates_and_changes_nothing() -> None:
    watch = Watch()
    stage = Work(watch, "sensors", update=2.0, beginning=5.0, validation=3.0)
    stage.module.eval()
    before = {key: value.clone() for key, value in stage.module.state_dict().items()}
    assert epoch_seconds(stage, watch) == pytest.approx(5 + 10 * 2 + 3)
    assert all(torch.equal(value, before[key]) for key, value in stage.module.state_dict().items())
    assert not stage.module.training
    assert all(parameter.grad is None for parameter in stage.module.parameters())


def test_stages_share_the_time_and_leave_what_they_do_not_need(tmp_path: Path) -> None:
    watch = Watch()
    budget = Budget(tmp_path, 1_000.0, watch, resume=False)
    budget.start(["sensors", "fusion"])
    first = budget.fitting(Work(watch, "sensors", update=1.0), StageConfig(epochs=200))
    assert 45 <= first.epochs <= 61  # about 607 of the 850 seconds, 10 an epoch
    watch.now += 100
    last = budget.fitting(Work(watch, "fusion", update=1.0), StageConfig(epochs=200))
    assert last.epochs > 70  # all that is left
    assert json.loads((tmp_path / PLAN).read_text()) == {"sensors": first.epochs, "fusion": last.epochs}


def test_a_stage_has_at_least_a_few_epochs_and_at_most_its_own(tmp_path: Path) -> None:
    watch = Watch()
    budget = Budget(tmp_path, 10.0, watch, resume=False)
    budget.start(["sensors", "words"])
    assert budget.fitting(Work(watch, "sensors", update=100.0), StageConfig(epochs=50)).epochs == 3
    assert budget.fitting(Work(watch, "words", update=1e-6), StageConfig(epochs=7)).epochs == 3  # the time is over
    unlimited = Budget(tmp_path, None, watch, resume=False)
    unlimited.start(["sensors"])
    assert unlimited.fitting(Work(watch, "sensors", update=100.0), StageConfig(epochs=50)).epochs == 50


def test_a_resumed_training_keeps_to_its_plan(tmp_path: Path) -> None:
    watch = Watch()
    budget = Budget(tmp_path, 100.0, watch, resume=False)
    budget.start(["sensors"])
    planned = budget.fitting(Work(watch, "sensors", update=1.0), StageConfig(epochs=50)).epochs
    slower = Budget(tmp_path, 100.0, watch, resume=True)
    slower.start(["sensors"])
    assert slower.fitting(Work(watch, "sensors", update=50.0), StageConfig(epochs=50)).epochs == planned
    (tmp_path / PLAN).write_text("[1]")
    with pytest.raises(DataError, match="delete it to start again"):
        Budget(tmp_path, 100.0, watch, resume=True).start(["sensors"])


def test_a_budget_has_a_unit(tmp_path: Path) -> None:
    given = {"profile": "skab", "recordings": [tmp_path / "a.parquet"], "output": tmp_path}
    assert TrainConfig.model_validate(given | {"budget": "20m"}).budget_ms == 1_200_000
    with pytest.raises(ValueError, match="unit"):
        TrainConfig.model_validate(given | {"budget": 20})
