"""The experiment that tests explanations, on a small made-up plant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from models.experiments.base import missing_files
from models.experiments.evidence.explanations import ExplanationsExperiment, disturbance
from models.experiments.load import load_experiment
from models.training.config import load_train_config
from models.training.train import train
from pipeline.errors import DataError
from tests.models.test_detector_training import FRAMES, TINY, readings
from tests.support.models_tiny import PROFILE

RUNS = 24
COLUMNS = [{"score": "first", "heading": "first"}, {"score": "completeness", "heading": "error"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a training, its runs, of which each third has no fault, and its model."""
    folder = tmp_path_factory.mktemp("explained")
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(RUNS):
        values, labels = readings(rng, seed % 3)
        columns = dict(zip(("flow", "load", "heat", "noise"), values.T, strict=True))
        parts.append(pa.table({"seed": np.full(FRAMES, seed), **columns, "label": labels}))
    pa.parquet.write_table(pa.concat_tables(parts), folder / "runs.parquet")
    (folder / "plant.yaml").write_text(PROFILE)
    described: dict[str, Any] = {
        "profile": "plant.yaml",
        "runs": [{"paths": ["runs.parquet"]}],
        "output": "model",
        "plots": False,
        "messages": False,
        "validation": 0.25,
        "test": 0.25,
        "sensors": {"kind": "seq_lstm", "hidden": [8], "head": []},
        "sensor_stage": {"epochs": 3, "learning_rate": 0.01},
        "detector": TINY.model_dump(mode="json"),
        "detector_stage": {"epochs": 2},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(described))
    train(load_train_config(folder / "train.yaml", data=folder, output=folder / "model"))
    return folder


def described(folder: Path, **options: Any) -> ExplanationsExperiment:
    settings: dict[str, Any] = {
        "experiment": "explanations",
        "title": "Why",
        "train": "train.yaml",
        "made_by": "a test",
        "model": "model/pump.faultline",
        "columns": COLUMNS,
        "window": 12,
        "planted": 6,
        "sizes": [25],
        "shapes": ["bias"],
        "horizon": 60,
        "quiet": 60,
        "answers": 2,
        "deleted": 1,
    }
    path = folder / "explanations.yaml"
    path.write_text(yaml.safe_dump(settings | options))
    experiment = load_experiment(path, data=folder, out=folder / "out", work=folder)
    assert isinstance(experiment, ExplanationsExperiment)
    return experiment


def test_each_method_is_scored_on_the_same_alarms(folder: Path, tmp_path: Path) -> None:
    experiment = described(folder)
    assert missing_files(experiment) == []
    told: set[str] = set()
    results = experiment.run((0,), tmp_path, lambda what, progress: told.add(f"{what} {progress.stage}"))
    assert told == {"seed 0 planted", "seed 0 deleted"}
    scores = {row: found[0] for row, found in results.rows.items()}
    assert list(scores) == ["leave one out", "integrated gradients", "detector's deviations"]
    assert {(one["raised"], one["planted"], one["random_drop"]) for one in scores.values()} == {
        (scores["leave one out"]["raised"], 6, scores["leave one out"]["random_drop"])
    }
    assert scores["leave one out"]["raised"] > 0
    assert scores["leave one out"]["first"] >= 0.8
    assert scores["leave one out"]["top_drop"] >= scores["leave one out"]["random_drop"]
    assert scores["integrated gradients"]["completeness_max"] <= 0.02
    assert scores["integrated gradients"]["complete"] == 1


def test_a_plan_that_no_run_fits_is_said(folder: Path, tmp_path: Path) -> None:
    experiment = described(folder, quiet=FRAMES)
    with pytest.raises(DataError, match="no run without faults of over 280 frames"):
        experiment.run((0,), tmp_path, lambda what, progress: None)


def test_disturbances_have_their_sizes() -> None:
    rng = np.random.default_rng(0)
    assert disturbance("bias", -4.0, 3, 60, rng).tolist() == [-4, -4, -4]
    assert disturbance("ramp", 4.0, 6, 4, rng).tolist() == [1, 2, 3, 4, 4, 4]
    assert disturbance("noise", -4.0, 4_000, 60, rng).std() == pytest.approx(4, rel=0.05)
