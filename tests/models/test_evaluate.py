"""Experiments over several seeds on small made-up data: intervals, leak-free draws, simulation, and the command."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from matplotlib.figure import Figure
from typer.testing import CliRunner

from agents.cli.training import evaluate
from models.data.runs import Run
from models.encoders.tokenizer import normalised
from models.evaluation.scoring import NO_EVIDENCE, Scores
from models.experiments.base import (
    Column,
    Need,
    Results,
    interval,
    lookup,
    markdown,
    missing_files,
    require_data,
    write_results,
)
from models.experiments.late_fusion.config import FaultType, LateFusionConfig
from models.experiments.late_fusion.experiment import LateFusionExperiment
from models.experiments.late_fusion.pairs import draw_rows, split_reports, split_runs
from models.experiments.late_fusion.reports import Reports, distinct, read_reports
from models.experiments.load import load_experiment
from models.experiments.robustness import METRICS, RobustnessExperiment, answers, spread
from models.experiments.simulation import (
    VARIABLES,
    SimulatedRun,
    SimulationConfig,
    run_values,
    simulate_run,
    simulated_table,
)
from models.experiments.trainings import TrainingsExperiment, merged
from models.model_file import read_model
from models.network_file import build_network
from models.training.config import TrainConfig, load_train_config
from models.training.evidence import Evidence
from models.training.train import train
from pipeline.errors import DataError, FaultlineError, MissingExtraError
from tests.models.test_training import plant
from tests.support.models_tiny import network

pytestmark = pytest.mark.slow

__all__ = ["plant"]

CLASSES = {"leak": FaultType(fault=7, category="Leak"), "jam": FaultType(fault=14, category="Mechanical Failure")}
SAID = {
    "Leak": ("Water drips", "puddle below mixer", "seal is wet", "water on floor", "seal drips", "oil below pump"),
    "Mechanical Failure": ("Shaft stuck", "motor hums", "shaft blocked", "motor stuck", "belt torn", "belt blocked"),
}
FRAMES, ONSET = 30, 6


def made_up(config: SimulationConfig, run: int) -> SimulatedRun:
    rng = np.random.default_rng([config.first_seed, run])
    values = rng.standard_normal((config.frames, len(VARIABLES))).astype(np.float32)
    values[config.onset_frame :, config.fault(run) % 5] += 4
    return SimulatedRun(run, config.fault(run), config.first_seed + run, values)


def simulation(runs_per_fault: int = 30) -> SimulationConfig:
    return SimulationConfig(
        faults=(7, 14), runs_per_fault=runs_per_fault, frames=FRAMES, onset_frame=ONSET, first_seed=700_000
    )


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with reports, simulated runs and the description of an experiment on them."""
    monkeypatch.setenv("FAULTLINE_DATA", "the command sets it, and this takes it back")
    with (tmp_path / "reports.csv").open("w", encoding="utf-8-sig", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("Description", "Category", "Cost"))
        for category, texts in SAID.items():
            writer.writerows((f"{text}{end}", category, 1) for text in texts for end in ("", " today", " at noon", "!"))
        writer.writerows([("Strange noise", "Leak", 1), ("strange noise.", "Mechanical Failure", 1)])
    simulated_table(simulation(), tmp_path / "runs.parquet", simulate=made_up)
    described = {
        "experiment": "late_fusion",
        "title": "Small",
        "reports": "reports.csv",
        "cache": "runs.parquet",
        "settings": {
            "classes": {name: kind.model_dump() for name, kind in CLASSES.items()},
            "runs_per_class": 30,
            "frames": FRAMES,
            "onset_frame": ONSET,
            "sensors": {"hidden": [8], "head": [], "mask_inputs": False, "dropout": 0},
            "sensor_stage": {"epochs": 4, "batch_size": 8, "learning_rate": 0.03},
            "text": {"embedding": 8, "hidden": 8, "subword_buckets": 64, "dropout": 0, "unknown_dropout": 0.1},
            "text_stage": {"epochs": 6, "batch_size": 8, "learning_rate": 0.03},
            "text_folds": 2,
            "chunk_frames": 10,
        },
        "baselines": ["pca_logistic", "multimodal_encoder", "tfidf_svm"],
        "windows": [10],
        "columns": [
            {"score": "accuracy", "heading": "accuracy, %", "scale": 100, "digits": 1},
            {"score": "least_auc", "heading": "least AUC"},
            {"score": "explained", "heading": "MI/H(Y)"},
        ],
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return tmp_path


def leave_pictures_undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time of a small experiment, and shows nothing that its first run did not show."""
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)


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


def test_a_simulation_is_kept_resumed_and_cut(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    made: list[int] = []

    def interrupted(config: SimulationConfig, run: int) -> SimulatedRun:
        if run == 50:
            raise KeyboardInterrupt
        made.append(run)
        return made_up(config, run)

    with pytest.raises(KeyboardInterrupt):
        simulated_table(simulation(), path, simulate=interrupted)
    assert not path.exists()
    told: list[tuple[int, ...]] = []
    whole = simulated_table(
        simulation(), path, simulate=made_up, on_runs=lambda done, total: told.append((done, total))
    )
    assert told[0] == (40, 60)
    assert told[-1] == (60, 60)
    straight = simulated_table(simulation(), tmp_path / "other.parquet", simulate=made_up)
    assert whole.equals(straight)
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == []

    def never(config: SimulationConfig, run: int) -> SimulatedRun:
        raise AssertionError(run)

    fewer = simulated_table(simulation(10), path, simulate=never)
    np.testing.assert_array_equal(run_values(fewer, FRAMES), run_values(whole, FRAMES)[:20])
    labels = whole["label"].to_numpy().reshape(-1, FRAMES)
    assert (labels[:, :ONSET] == 0).all()
    assert (labels[::2, ONSET:] == 7).all()
    assert (labels[1::2, ONSET:] == 14).all()
    other = simulation().model_copy(update={"onset_frame": 3})
    with pytest.raises(DataError, match="delete it"):
        simulated_table(other, path, simulate=never)


def test_without_tep_studio_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tep_studio", None)
    with pytest.raises(MissingExtraError, match="demo"):
        simulated_table(simulation(), tmp_path / "runs.parquet")


def test_the_plant_is_normal_up_to_the_onset() -> None:
    pytest.importorskip("tep_studio")
    config = SimulationConfig(faults=(7, 14), runs_per_fault=1, frames=12, onset_frame=5, first_seed=3)
    first, second = simulate_run(config, 0), simulate_run(config.model_copy(update={"faults": (14, 7)}), 0)
    assert first.seed == second.seed == 3
    assert first.values.shape == (12, 52)
    # The disturbance begins half a frame before the onset frame, after the reading of the frame before.
    np.testing.assert_array_equal(first.values[:5], second.values[:5])
    assert np.abs(first.values[6:] - second.values[6:]).max() > 0


def words(text: str) -> str:
    """What the reports of `data` say, without when."""
    return normalised(text).removesuffix(" today").removesuffix(" at noon")


def test_no_report_crosses_the_split_unless_asked(data: Path) -> None:
    reports = read_reports(data / "reports.csv", CLASSES)
    once = distinct(reports)
    assert len(once.texts) == len({normalised(text) for text in once.texts}) == 36
    assert "strange noise" not in {normalised(text) for text in once.texts}
    classes = np.arange(60) % 2
    for seed in range(5):
        config = LateFusionConfig(classes=CLASSES, frames=FRAMES)
        runs = split_runs(config, classes, seed)
        assert sorted(np.concatenate([runs.train, runs.validation, runs.test])) == list(range(60))
        assert np.bincount(classes[runs.test]).tolist() == [6, 6]
        texts = split_reports(config, reports, runs, classes, seed)
        assert texts.seen_share == 0
        assert (texts.test.classes[texts.drawn] == classes[runs.test]).all()
        assert len(texts.validation) == len(runs.validation) * config.validation_draws
        grouped = split_reports(config.model_copy(update={"draw": "paraphrase"}), reports, runs, classes, seed)
        assert not {words(text) for text in grouped.training.texts} & {words(text) for text in grouped.test.texts}
        leaky = config.model_copy(update={"draw": "paper"})
        assert split_reports(leaky, reports, runs, classes, seed).seen_share > 0.5


def test_rows_are_drawn_from_their_class() -> None:
    rng = np.random.default_rng(0)
    of, classes = np.array([0, 1, 1, 0, 2]), rng.integers(0, 3, 50)
    assert (of[draw_rows(of, classes, rng)] == classes).all()


def test_reports_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "reports.csv"
    with pytest.raises(DataError, match="MathWorks"):
        read_reports(path, CLASSES)
    path.write_text("text,kind\nwater,Leak\n")
    with pytest.raises(DataError, match="Description"):
        read_reports(path, CLASSES)
    path.write_text("Description,Category\nwater,Leak\n")
    with pytest.raises(DataError, match="Mechanical"):
        read_reports(path, CLASSES)


def test_late_fusion_fills_its_table_and_goes_on_where_it_was(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(data / "small.yaml", data=data, out=data, work=data)
    assert isinstance(experiment, LateFusionExperiment)
    out = data / "out"
    told: list[str] = []
    results = experiment.run((0, 1), out, lambda what, progress: told.append(what))
    assert {"sequences", "texts", "fused", "fused, product", "texts, paper draw", "fused, paper draw"} <= set(
        results.rows
    )
    assert {f"baseline: {kind}" for kind in experiment.baselines} <= set(results.rows)
    for of in results.rows.values():
        assert len(of) == 2
        for scores in of:
            total = scores["mutual_information"] + scores["conditional_entropy"]
            assert total == pytest.approx(scores["entropy"], abs=1e-9)
    fused = results.interval("fused", "accuracy")
    assert fused is not None
    assert fused.mean > 0.9
    assert results.notes["seen_share"]["distinct"] == [0, 0]
    assert min(results.notes["seen_share"]["paper"]) > 0.5
    assert len(results.plots) == 3 * 3 * 2 + 2
    assert all(path.stat().st_size > 1000 for path in results.plots)
    assert "seed 1, paper draw" in told

    leave_pictures_undrawn(monkeypatch)
    quiet: list[Any] = []
    again = experiment.run((0, 1), out, lambda what, progress: quiet.append(progress.record))
    assert again.rows == results.rows
    assert not any(quiet)


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

    leave_pictures_undrawn(monkeypatch)
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
    leave_pictures_undrawn(monkeypatch)
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


def test_options_replace_what_is_of_another_kind() -> None:
    base = {"fusion": {"kind": "late", "rule": "product"}, "seed": 1, "stage": {"epochs": 3, "patience": 2}}
    found = merged(base, {"fusion": {"kind": "early"}, "stage": {"epochs": 5}})
    assert found == {"fusion": {"kind": "early"}, "seed": 1, "stage": {"epochs": 5, "patience": 2}}


def test_descriptions_that_ship_are_readable(tmp_path: Path) -> None:
    folder = Path(__file__).parents[2] / "deploy" / "experiments"
    shipped = sorted(folder.glob("*.yaml"))
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


def command(*words: str) -> Any:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, list(words))


def test_the_command_says_which_data_it_lacks(data: Path) -> None:
    small = str(data / "small.yaml")
    ready = command(small, "--data", str(data), "--out", str(data / "out"), "--check")
    assert ready.exit_code == 0
    assert "Small: ready" in ready.output
    (data / "reports.csv").unlink()
    missing = command(small, "--data", str(data), "--out", str(data / "out"), "--check")
    assert missing.exit_code == 1
    assert "reports.csv (factoryReports.csv of MathWorks)" in missing.output
    refused = command(small, "--data", str(data), "--out", str(data / "out"))
    assert isinstance(refused.exception, FaultlineError)
    assert "reports.csv" in str(refused.exception)


def test_the_command_writes_the_table(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_pictures_undrawn(monkeypatch)
    out = data / "out"
    found = command(str(data / "small.yaml"), "--data", str(data), "--out", str(out), "--seeds", "1")
    assert found.exit_code == 0, found.exception
    assert "| fused |" in (out / "table.md").read_text()
    assert json.loads((out / "results.json").read_text())["seeds"] == [0]
    assert str(out / "table.md") in found.output.replace("\n", "")


def test_needs_name_file_and_source(data: Path) -> None:
    experiment = load_experiment(data / "small.yaml", data=data, out=data, work=data)
    assert experiment.needs() == [Need(data / "reports.csv", "factoryReports.csv of MathWorks")]


def test_reports_keep_their_order() -> None:
    reports = Reports(("a b", "A, b!", "c"), np.array([0, 0, 1]))
    assert distinct(reports).texts == ("a b", "c")
