"""Trainings that leave faults out: what is learnt without them, and how the test part is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from models.experiments.base import lookup
from models.model_file import read_model
from models.training.config import TrainConfig
from models.training.loop import StageConfig
from models.training.prepare import prepare
from models.training.train import TrainReport, train
from pipeline.errors import DataError
from tests.models.test_detector_training import config, runs_table
from tests.support.models_tiny import PROFILE

Trained = tuple[TrainConfig, TrainReport]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough runs of each fault for a detector that learns from those of one."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE)
    pa.parquet.write_table(runs_table(52), folder / "runs.parquet")
    return folder


@pytest.fixture(scope="module")
def trained(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    wanted = config(plant, tmp_path_factory.mktemp("out"), left_out=("jam",), false_alarms=0.01)
    return wanted, train(wanted)


def test_runs_of_a_left_out_fault_are_in_the_test_part_alone(plant: Path, tmp_path: Path) -> None:
    whole, part = prepare(config(plant, tmp_path)), prepare(config(plant, tmp_path, left_out=("jam",)))
    jam = part.faults.index("jam")
    for name in ("train", "validation"):
        kept = [run.name for run in getattr(whole.split, name) if jam not in run.labels]
        assert kept == [run.name for run in getattr(part.split, name)]
        assert len(kept) < len(getattr(whole.split, name))
    assert [run.name for run in part.split.test] == [run.name for run in whole.split.test]
    assert any(jam in run.labels for run in part.split.test)


@pytest.mark.parametrize("name", ["idv_1", "normal", "unknown"])
def test_a_left_out_name_that_is_no_fault_is_refused(plant: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"left_out names '{name}'.*it has leak, jam"):
        prepare(config(plant, tmp_path, left_out=("leak", name)))


def test_left_out_faults_are_scored_as_unknown(trained: Trained) -> None:
    wanted, report = trained
    header = read_model(report.model).header
    assert header.classes[:3] == ("normal", "leak", "jam") and header.training["left_out"] == ["jam"]
    written: dict[str, Any] = json.loads((wanted.output / "scores.json").read_text())
    scores = written["test"]["all"]["all_faults"]["fusion"]
    assert set(scores["per_fault"]) == {"leak", "unknown"}
    found = scores["unknown"]
    # The jam's noise is far from normal: a detector that has seen only normal frames tells it apart.
    assert found["auroc_normal"] > 0.9
    assert set(found["per_fault"]) == {"jam"} and found["per_fault"]["jam"]["auroc_normal"] == found["auroc_normal"]
    assert lookup(scores, "unknown.known_called_unknown") == found["known_called_unknown"] <= 0.2
    assert found["normal_called_unknown"] <= 0.02
    assert header.unknown and found["left_out_called_unknown"] > found["normal_called_unknown"]
    # Being called unknown is the correct diagnosis of a fault that was left out.
    assert scores["per_fault"]["unknown"]["accuracy"] == pytest.approx(found["left_out_called_unknown"])
    shares = [scores["per_fault"][name]["frames"] for name in ("leak", "unknown")]
    data = prepare(wanted)
    labels = np.concatenate([run.labels for run in data.split.test])
    assert shares == [np.count_nonzero(labels == 1), np.count_nonzero(labels == 2)]
    assert written["validation"]["all"]["all_faults"]["fusion"]["unknown"]["auroc_normal"] is None


def test_leaving_nothing_out_changes_no_training(plant: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"sensor_stage": StageConfig(epochs=1), "detector_stage": StageConfig(epochs=1)}
    first = train(config(plant, tmp_path, **quick))
    stages: list[str] = []
    again = config(plant, tmp_path, left_out=(), **quick)
    assert train(again, resume=True, on_progress=lambda progress: stages.append(progress.stage)).hash == first.hash
    assert not stages
    assert "left_out" not in read_model(first.model).header.training
    assert "unknown" not in first.scores["test"]["all"]["all_faults"]["fusion"]
    with pytest.raises(DataError, match=r"checkpoint .* is of another configuration or other data"):
        train(config(plant, tmp_path, left_out=("jam",), **quick), resume=True)
