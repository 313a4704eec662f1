"""Robustness of trained models, level by level, on a small made-up plant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from models.data.runs import Run
from models.evaluation.scoring import NO_EVIDENCE
from models.experiments.base import (
    Need,
    missing_files,
)
from models.experiments.load import load_experiment
from models.experiments.robustness import METRICS, RobustnessExperiment, answers, spread
from models.experiments.trainings import merged
from models.training.config import TrainConfig, load_train_config
from models.training.fitting.evidence import Evidence
from models.training.train import train
from pipeline.errors import DataError, FaultlineError
from tests.models.test_experiments import small_training
from tests.models.test_training import plant
from tests.support.models_tiny import network
from tests.support.plots import leave_plots_undrawn

pytestmark = pytest.mark.slow

__all__ = ["plant"]


@pytest.fixture(scope="module")
def trained(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training configuration and, in `out`, a late and an early fusion of the same encoders, with two
    seeds."""
    folder = tmp_path_factory.mktemp("trained")
    stage = {"epochs": 6, "batch_size": 32, "learning_rate": 0.03}
    described = merged(small_training(plant), {"text": {"hidden": 8}, "word_stage": stage, "text_stage": stage})
    (folder / "train.yaml").write_text(yaml.safe_dump(described))
    for seed in (0, 1):
        where = folder / "out" / "late" / f"seed-{seed}"
        config = load_train_config(folder / "train.yaml", data=plant, output=where, seed=seed)
        late = train(config)
        early = merged(config.model_dump(exclude_unset=True), {"fusion": {"kind": "early", "hidden": [8]}})
        early |= {"encoders": late.model, "output": where.parents[1] / f"early-{seed}"}
        train(TrainConfig.model_validate(early))
    return folder


def robustness(trained: Path, plant: Path, **options: Any) -> RobustnessExperiment:
    described: dict[str, Any] = {
        "experiment": "robustness",
        "title": "Hard times",
        "train": str(trained / "train.yaml"),
        "made_by": "a test",
        "models_made_by": "another test",
        "levels": [0, 0.5, 1],
        "runs": 5,
        "reference": "late",
        "rows": {
            "late": {"model": "$OUT/nowhere/../late/seed-{seed}"},
            "early": {"model": "$OUT/early-{seed}"},
            "late beside early": {"model": "$OUT/early-{seed}", "system": "late"},
            "sensors": {"model": "$OUT/late/seed-{seed}", "system": "sensors"},
            "texts": {"model": "$OUT/late/seed-{seed}", "system": "text"},
        },
        "columns": [{"score": "area.macro_f1", "heading": "area"}, {"score": "gain.macro_f1", "heading": "over late"}],
    }
    path = trained / "robustness.yaml"
    path.write_text(yaml.safe_dump(described | options, sort_keys=False))
    experiment = load_experiment(path, data=trained, out=trained / "out", work=plant)
    assert isinstance(experiment, RobustnessExperiment)
    return experiment


def test_robustness_is_scored_level_by_level_and_goes_on_where_it_was(
    trained: Path, plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = robustness(trained, plant)
    assert missing_files(experiment) == []
    told: list[str] = []
    results = experiment.run((0, 1), tmp_path, lambda what, progress: told.append(f"{what} {progress.stage}"))
    rows = {tuple(name.split(": ")): of for name, of in results.rows.items()}
    assert len(rows) == 8 * 5
    names = list(dict.fromkeys(name for name, _ in rows))
    assert names[0] == "white noise, 1 = 2 deviations"
    assert results.notes["runs"] == [5, 5]
    assert {f"seed {seed} {name}" for seed in (0, 1) for name in ("clean", "wrong_text")} <= set(told)
    for (name, system), of in rows.items():
        for seed, scores in enumerate(of):
            assert scores["level_0"] == rows[names[0], system][seed]["level_0"]
            levels = [scores[f"level_{level}"] for level in (0, 50, 100)]
            assert levels[0].keys() == METRICS.keys()
            # Halves of the trapezoids between 0, 0.5 and 1.
            f1 = [level["macro_f1"] for level in levels]
            assert scores["area"]["macro_f1"] == pytest.approx(f1[0] / 4 + f1[1] / 2 + f1[2] / 4)
            assert scores["kept_at_half"]["macro_f1"] == pytest.approx(f1[1] / f1[0])
            assert scores["over_sensors"]["macro_f1"] == pytest.approx(f1[2] - scores["sensors"]["macro_f1"])
            reference = rows[name, "late"][seed]["area"]["macro_f1"]
            gain = scores["area"]["macro_f1"] - reference
            assert ("gain" in scores) == (system != "late")
            assert system == "late" or scores["gain"]["macro_f1"] == pytest.approx(gain)
            if system == "sensors" and ("text" in name or "clock" in name):
                assert levels[0] == levels[1] == levels[2] == scores["sensors"]
    # Without texts a late fusion is its sensors, without sensors they say nothing at all.
    for scores in rows["text absent", "late"]:
        assert scores["level_100"] == scores["sensors"]
        assert scores["over_sensors"]["accuracy"] == 0
    for scores in rows["sensor drop", "sensors"]:
        assert scores["level_100"]["detection_rate"] == 0
    for name in names:
        late, beside = rows[name, "late"], rows[name, "late beside early"]
        assert all(one["level_100"] == other["level_100"] for one, other in zip(late, beside, strict=True))
        touched = "texts" if "text" in name or "clock" in name else "sensors"
        assert all(one["level_100"] != one["level_0"] for one in rows[name, touched]), name
    assert [path.name for path in results.plots] == [f"robustness_{metric}.png" for metric in METRICS]
    assert all(path.stat().st_size > 1000 for path in results.plots)

    leave_plots_undrawn(monkeypatch)
    quiet: list[str] = []
    again = experiment.run((0, 1), tmp_path, lambda what, progress: quiet.append(what))
    assert again.rows == results.rows
    assert quiet == []
    # What another setting found is not taken for what this one asks.
    milder = robustness(trained, plant, settings={"noise_deviations": 0.1}, corruptions=["white_noise"])
    other = milder.run((0,), tmp_path, lambda what, progress: quiet.append(what))
    assert quiet
    assert next(iter(other.rows)) == "white noise, 1 = 0.1 deviations: late"


def test_robustness_can_leave_faults_out_and_use_the_validation_part(
    trained: Path, plant: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_plots_undrawn(monkeypatch)
    options: dict[str, Any] = {"corruptions": ["text_absent"], "rows": {"late": {"model": "$OUT/late/seed-{seed}"}}}
    found = {}
    for part in ("test", "validation"):
        for faults in ([], ["jam"]):
            experiment = robustness(trained, plant, **options, part=part, unscored_faults=faults)
            results = experiment.run((0,), tmp_path / f"{part}{len(faults)}", lambda what, progress: None)
            found[part, len(faults)] = results.rows["text absent: late"][0]["level_0"]
    assert len({json.dumps(scores) for scores in found.values()}) == 4
    unknown = robustness(trained, plant, **options, unscored_faults=["flood"])
    with pytest.raises(DataError, match="'flood', which is no fault"):
        unknown.run((0,), tmp_path, lambda what, progress: None)


def test_robustness_refuses_models_that_may_know_the_runs(trained: Path, plant: Path, tmp_path: Path) -> None:
    def run(**options: Any) -> None:
        robustness(trained, plant, **options).run((0, 1), tmp_path, lambda what, progress: pytest.fail("too late"))

    with pytest.raises(DataError, match="another split"):
        run(rows={"late": {"model": "$OUT/late/seed-0"}})
    with pytest.raises(FaultlineError, match="no model file"):
        run(rows={"late": {"model": "$OUT/late/seed-{seed}0"}})
    above = robustness(trained, plant, rows={"late": {"model": "$OUT/later/seed-{seed}/deep"}})
    assert missing_files(above) == [Need(trained / "out" / "later", "another test")]
    for options, what in (
        ({"levels": [0, 0.5]}, "levels must rise"),
        ({"levels": [0, 0.5, 0.5, 1]}, "levels must rise"),
        ({"reference": "nobody"}, "'nobody' is no row"),
        ({"corruptions": ["earthquake"]}, "corruptions"),
    ):
        with pytest.raises(DataError, match=what):
            robustness(trained, plant, **options)


def test_a_system_answers_for_itself() -> None:
    said = network()
    logits = torch.tensor([[[3.0, 0, 0], [0, 2, 0]], [[0, 0, 9], [0, 9, 0]]])
    labels = np.zeros(2, np.int64)
    evidence = Evidence(logits, torch.tensor([[True, True], [True, False]]), labels, labels)
    assert answers(said, evidence, "sensors").tolist() == [0, 1]
    assert answers(said, evidence, "text").tolist() == [2, NO_EVIDENCE]
    assert answers(said, evidence, "late").tolist() == answers(said, evidence, "fusion").tolist()
    silent = Evidence(logits, torch.zeros(2, 2, dtype=torch.bool), labels, labels)
    assert answers(said, silent, "fusion").tolist() == [NO_EVIDENCE, NO_EVIDENCE]


def test_runs_are_spread_over_files_and_faults() -> None:
    kinds = [("one", 1), ("one", 2), ("two", 1), ("two", 3)]
    runs = [
        Run(f"{at}", f"{at}", source, np.zeros((3, 1), np.float32), np.array([0, fault, fault]))
        for at, (source, fault) in enumerate(kinds * 25)
    ]
    for seed in range(5):
        chosen = spread(runs, 40, seed=seed)
        assert len(set(chosen.tolist())) == 40
        assert [sum((runs[at].source, runs[at].labels[1]) == kind for at in chosen) for kind in kinds] == [10] * 4
        np.testing.assert_array_equal(chosen, spread(runs, 40, seed=seed))
    assert spread(runs, 40, seed=0).tolist() != spread(runs, 40, seed=1).tolist()
    assert spread(runs, 1000, seed=0).tolist() == list(range(100))
