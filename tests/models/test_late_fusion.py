"""The late-fusion experiment on small made-up runs and reports: simulation, split, table, and the command."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from typer.testing import CliRunner

from agents.cli.training import evaluate
from models.encoders.tokenizer import normalised
from models.experiments.base import (
    Need,
)
from models.experiments.late_fusion.config import FaultType, LateFusionConfig
from models.experiments.late_fusion.experiment import LateFusionExperiment
from models.experiments.late_fusion.pairs import draw_rows, split_reports, split_runs
from models.experiments.late_fusion.reports import Reports, distinct, read_reports
from models.experiments.load import load_experiment
from models.experiments.simulation import (
    VARIABLES,
    SimulatedRun,
    SimulationConfig,
    run_values,
    simulate_run,
    simulated_table,
)
from pipeline.errors import DataError, FaultlineError, MissingExtraError
from tests.support.plots import leave_plots_undrawn

pytestmark = pytest.mark.slow

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

    leave_plots_undrawn(monkeypatch)
    quiet: list[Any] = []
    again = experiment.run((0, 1), out, lambda what, progress: quiet.append(progress.record))
    assert again.rows == results.rows
    assert not any(quiet)


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
    leave_plots_undrawn(monkeypatch)
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
