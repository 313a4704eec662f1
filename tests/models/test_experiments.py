"""Experiments: intervals and tables, trainings compared with baselines, and descriptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from models.evaluation.scoring import Scores
from models.experiments.base import (
    Column,
    Results,
    interval,
    lookup,
    markdown,
    missing_files,
    require_data,
    write_results,
)
from models.experiments.load import load_experiment
from models.experiments.trainings import TrainingsExperiment, merged
from models.model_file import read_model
from models.network_file import build_network
from pipeline.errors import DataError
from tests.models.test_training import plant

pytestmark = pytest.mark.slow

__all__ = ["plant"]


def test_an_interval_is_students() -> None:
    found = interval([0.90, 0.92, 0.94, 0.96, 0.98])
    assert found is not None
    # t(0.975; 4) = 2.7764, deviation 0.031623
    assert found.mean == pytest.approx(0.94)
    assert found.half == pytest.approx(2.7764451 * 0.0316227766 / 5**0.5, rel=1e-6)
    assert interval([0.5]) == (0.5, None, 1)
    assert interval([]) is None


def test_a_table_shows_mean_and_interval_and_what_is_not_known(tmp_path: Path) -> None:
    columns = (Column(score="accuracy", heading="accuracy, %", scale=100, digits=1), Column(score="a.b", heading="b"))
    rows: dict[str, list[Scores]] = {
        "one": [{"accuracy": 0.5, "a": {"b": 1}}, {"accuracy": 0.7, "a": {"b": 1}}],
        "two": [{"accuracy": None}],
    }
    results = Results("Small", (0, 1), rows, columns)
    lines = markdown(results).splitlines()
    assert lines[0] == "|  | accuracy, % | b |"
    assert lines[2] == "| one | 60.0 ± 127.1 | 1.000 ± 0.000 |"
    assert lines[3] == "| two | - | - |"
    written = write_results(results, tmp_path)
    whole = json.loads(written[0].read_text())
    assert whole["scores"] == rows
    assert whole["summary"]["one"]["accuracy"]["mean"] == pytest.approx(0.6)
    assert lookup({"a": {"b": 0}}, "a") is None


def small_training(plant: Path) -> dict[str, Any]:
    """A training configuration for the runs and texts of `plant`."""
    return {
        "profile": str(plant / "plant.yaml"),
        "name": "tiny",
        "runs": [{"paths": ["runs.parquet"]}],
        "texts": ["texts.parquet"],
        "output": "model",
        "validation": 0.25,
        "test": 0.25,
        "plots": False,
        "sensors": {"hidden": [8], "head": []},
        "text": {"embedding": 4, "hidden": 4, "head": [], "ring": 2, "subword_buckets": 32},
        "sensor_stage": {"epochs": 3, "batch_size": 4, "learning_rate": 0.03},
        "word_stage": {"epochs": 2, "batch_size": 8, "learning_rate": 0.03},
        "text_stage": {"epochs": 1},
        "fusion_stage": {"epochs": 1},
    }


def test_trainings_are_compared_with_baselines(plant: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(small_training(plant)))
    described = {
        "experiment": "trainings",
        "title": "Fusions",
        "train": "train.yaml",
        "windows": [5],
        "made_by": "a test",
        "baseline_epochs": 2,
        "rows": {
            "late": {},
            "early": {"options": {"fusion": {"kind": "early", "hidden": [8]}}, "encoders_of": "late"},
            "late, sensors": {"scores_of": "late", "system": "sensors"},
            "late, validation": {"scores_of": "late", "part": "validation"},
            "stack": {"baseline": "stacked_autoencoder"},
            "stack, validation": {"scores_of": "stack", "part": "validation"},
            "hybrid": {"options": {"fusion": {"kind": "hybrid"}}, "encoders": "$OUT/out/late/seed-{seed}"},
        },
        "columns": [{"score": "partition.explained", "heading": "MI/H(Y)"}],
    }
    path = tmp_path / "fusions.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False))
    experiment = load_experiment(path, data=tmp_path, out=tmp_path, work=plant)
    assert isinstance(experiment, TrainingsExperiment)
    assert [need.path for need in missing_files(experiment)] == [tmp_path / "out" / "late"]
    results = experiment.run((3,), tmp_path / "out", lambda what, progress: None)
    assert missing_files(experiment) == []
    rows = ["late", "early", "late, sensors", "late, validation", "stack", "stack, validation", "hybrid"]
    assert list(results.rows) == rows
    assert results.rows["late"] != results.rows["late, validation"]
    assert not (tmp_path / "out" / "late,-sensors").exists()
    for (scores,) in results.rows.values():
        for parts in (scores[name] for name in ("partition", "clusters") if name in scores):
            total = parts["mutual_information"] + parts["conditional_entropy"]
            assert total == pytest.approx(parts["entropy"], abs=1e-9)
    assert (tmp_path / "out" / "epochs_ari.png").is_file()
    epochs = [
        json.loads(line) for line in (tmp_path / "out" / "early" / "seed-3" / "history.jsonl").read_text().splitlines()
    ]
    for epoch in epochs:
        told = epoch["mutual_information"] + epoch["conditional_entropy"]
        assert told == pytest.approx(epoch["entropy"], abs=1e-9)
    encoders = [read_model(next((tmp_path / "out" / row / "seed-3").glob("*.faultline"))) for row in ("late", "hybrid")]
    weights = [build_network(model).sensors.state_dict() for model in encoders]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    path.write_text(yaml.safe_dump({**described, "rows": {"late": {"encoders": "$OUT/{seed}"}}}))
    with pytest.raises(DataError, match="holds 0 model files"):
        load_experiment(path, data=tmp_path, out=tmp_path, work=plant).run((3,), tmp_path, lambda what, progress: None)
    for name in ("encoders_of", "scores_of"):
        path.write_text(yaml.safe_dump({**described, "rows": {"early": {name: "late"}}}))
        wrong = load_experiment(path, data=tmp_path, out=tmp_path, work=plant)
        with pytest.raises(DataError, match="no earlier row 'late'"):
            wrong.run((3,), tmp_path / "out2", lambda what, progress: None)


def test_options_replace_what_is_of_another_kind() -> None:
    base = {"fusion": {"kind": "late", "rule": "product"}, "seed": 1, "stage": {"epochs": 3, "patience": 2}}
    found = merged(base, {"fusion": {"kind": "early"}, "stage": {"epochs": 5}})
    assert found == {"fusion": {"kind": "early"}, "seed": 1, "stage": {"epochs": 5, "patience": 2}}


def test_descriptions_that_ship_are_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTLINE_DATA", str(tmp_path))  # where there is nothing
    folder = Path(__file__).parents[2] / "deploy" / "experiments"
    shipped = sorted(path for path in folder.rglob("*.yaml") if path.parent.name != "trainings")
    assert shipped
    for path in shipped:
        experiment = load_experiment(path, data=tmp_path, out=tmp_path, work=tmp_path)
        assert missing_files(experiment)
        with pytest.raises(DataError, match=r"data is missing: .*"):
            require_data(experiment)


def test_a_wrong_description_says_where(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    for text, what in (("- 1", "mapping"), ("experiment: other", "does not fit"), (": :", "cannot be read")):
        path.write_text(text)
        with pytest.raises(DataError, match=what):
            load_experiment(path, data=tmp_path, out=tmp_path, work=tmp_path)
