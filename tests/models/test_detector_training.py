"""Trainings with a detector: beside a classifier, which it backs, and of normal data alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from pydantic import ValidationError

from models.configs.detector import DetectorConfig
from models.configs.sensors import SeqLSTMConfig
from models.data.runs import RunFiles
from models.diagnoser import Diagnoser
from models.model_file import read_model
from models.network_file import build_network
from models.stepping.load import load_model
from models.training.config import TrainConfig
from models.training.fitting.backing import WEIGHTS
from models.training.fitting.evidence import sensor_answers
from models.training.fitting.false_alarms import fault_free_folds
from models.training.loop import StageConfig
from models.training.prepare import prepare
from models.training.stages.untrained import build_untrained
from models.training.train import TrainReport, train
from pipeline.config.profile import load_profile
from pipeline.errors import DataError
from tests.support.models_tiny import PROFILE

NORMAL_PROFILE = PROFILE.replace("[normal, leak, jam]", "[normal]")
RUNS, FRAMES, ONSET = 32, 220, 160
TINY = DetectorConfig(hidden=8, mean_spans=(3.0,), square_spans=(10.0,))


def readings(rng: np.random.Generator, fault: int) -> tuple[np.ndarray, np.ndarray]:
    """A run: load follows flow; a leak lowers the flow slowly, a jam makes the heat noisy."""
    values = rng.standard_normal((FRAMES, 4)) * 0.3
    flow = np.convolve(rng.standard_normal(FRAMES + 20), np.ones(20) / 4, "valid")[:FRAMES]
    values[:, 0] += flow
    values[:, 1] += flow
    labels = np.zeros(FRAMES, np.int64)
    labels[ONSET:] = fault
    later = np.arange(FRAMES - ONSET)
    if fault == 1:
        values[ONSET:, 1] -= np.minimum(later / 8, 3)
    if fault == 2:
        values[ONSET:, 2] *= 4
    return np.array([50.0, 20, 70, 0]) + values * [2, 1, 5, 1], labels


def runs_table(runs: int) -> pa.Table:
    """Runs of the two faults in turn."""
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(runs):
        values, labels = readings(rng, 1 + seed % 2)
        names = ("flow", "load", "heat", "noise")
        columns = {"seed": np.full(FRAMES, seed), **dict(zip(names, values.T, strict=True)), "label": labels}
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE)
    (folder / "normal.yaml").write_text(NORMAL_PROFILE)
    table = runs_table(RUNS)
    pa.parquet.write_table(table, folder / "runs.parquet")
    frames = np.tile(np.arange(FRAMES), RUNS)
    unlabelled = table.filter(frames < ONSET)
    no_label = pa.array(np.full(len(unlabelled), -1))
    unlabelled = unlabelled.set_column(unlabelled.column_names.index("label"), "label", no_label)
    pa.parquet.write_table(unlabelled, folder / "unlabelled.parquet")
    return folder


def config(plant: Path, output: Path, *, runs: str = "runs", **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "profile": str(plant / "plant.yaml"),
        "runs": (RunFiles(paths=(plant / f"{runs}.parquet",)),),
        "output": output,
        "plots": False,
        "validation": 0.25,
        "test": 0.25,
        "sensors": SeqLSTMConfig(hidden=(8,), head=()),
        "sensor_stage": StageConfig(epochs=3, learning_rate=1e-2),
        "detector": TINY,
        "detector_stage": StageConfig(epochs=2),
        "messages": False,
    }
    return TrainConfig(**settings | changes)


@pytest.fixture(scope="module")
def trained(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, TrainReport]:
    wanted = config(plant, tmp_path_factory.mktemp("out"), false_alarms=0.01)
    return wanted, train(wanted)


@pytest.fixture(scope="module")
def normal_only(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, TrainReport]:
    output = tmp_path_factory.mktemp("normal")
    wanted = config(plant, output, runs="unlabelled", profile=str(plant / "normal.yaml"), normal_data=True)
    return wanted, train(wanted)


def network_of(report: TrainReport) -> Diagnoser:
    return build_network(read_model(report.model))


def novelty(network: Diagnoser, values: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(values.astype(np.float32))[None]
    with torch.inference_mode():
        return network.detect(batch, ~batch.isnan()).novelty[0].numpy()


def test_a_training_fits_a_detector_beside_the_classifier(trained: tuple[TrainConfig, TrainReport]) -> None:
    _, report = trained
    assert report.detector is not None
    assert report.detector.share == 0.01
    assert report.detector.weight in WEIGHTS and set(report.detector.backing) == set(WEIGHTS)
    assert 0 <= report.detector.normal["validation"][1] <= 0.011
    network = network_of(report)
    assert network.detector is not None
    assert network.detector.backing[0] == 0
    record = read_model(report.model).header.training["detector"]
    assert record["weight"] == report.detector.weight and record["test_normal"]["frames"] > 0


def test_faults_are_novel_and_normal_frames_are_not(trained: tuple[TrainConfig, TrainReport]) -> None:
    network, rng = network_of(trained[1]), np.random.default_rng(77)
    for fault, variable in ((1, {0, 1}), (2, {2})):
        values, labels = readings(rng, fault)
        found = novelty(network, values)
        assert (found[labels == 0] > 1).mean() < 0.1
        assert (found[ONSET + 30 :] > 1).mean() > 0.8
        batch = torch.from_numpy(values.astype(np.float32))[None]
        with torch.inference_mode():
            deviations = network.detect(batch, ~batch.isnan()).deviations[0, ONSET + 30 :].mean(dim=0)
        assert int(deviations.argmax()) in variable


def test_missing_readings_are_no_novelty(trained: tuple[TrainConfig, TrainReport]) -> None:
    network, rng = network_of(trained[1]), np.random.default_rng(78)
    values, _ = readings(rng, 0)
    for lost in ([2], [3], [2, 3]):
        partial = values.copy()
        partial[60:, lost] = np.nan
        assert (novelty(network, partial) > 1).mean() < 0.1


def test_margins_are_fitted_with_the_detector_armed_throughout(trained: tuple[TrainConfig, TrainReport]) -> None:
    wanted, report = trained
    network, data = network_of(report), prepare(wanted)
    assert network.detector is not None
    network.detector.backing[1:] = 3.0
    runs = data.split.validation
    always = sensor_answers(network, runs, data.hold_limit, armed=True)
    armed = sensor_answers(network, runs, data.hold_limit)
    alone = sensor_answers(network, runs, data.hold_limit, network.sensors)
    for most, backed, least in zip(always, armed, alone, strict=True):
        assert (most.logits >= backed.logits).all() and (backed.logits >= least.logits).all()
    folds = fault_free_folds(network, runs, None, wanted.events, hold_limit=data.hold_limit, seed=0)
    wide = folds[0].logits[0]
    assert any(torch.equal(wide[: ONSET // 2], torch.from_numpy(answer.logits[: ONSET // 2])) for answer in always)


def test_backing_raises_no_more_false_alarms_than_were_allowed(trained: tuple[TrainConfig, TrainReport]) -> None:
    _, report = trained
    assert report.scores["validation"]["all"]["all_faults"]["fusion"]["false_alarm_rate_before"] <= 0.01


def test_a_training_without_a_detector_is_what_it_was(plant: Path, tmp_path: Path) -> None:
    report = train(config(plant, tmp_path, detector=None, sensor_stage=StageConfig(epochs=1)))
    assert report.detector is None
    header = read_model(report.model).header
    assert header.network.detector is None and "detector" not in header.training


def test_an_interrupted_training_goes_on_with_the_same_result(plant: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"sensor_stage": StageConfig(epochs=1)}
    whole = train(config(plant, tmp_path / "a", **quick))
    stopped = config(plant, tmp_path / "b", **quick)

    def stop(progress: Any) -> None:
        if progress.stage == "detector" and progress.record is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, on_progress=stop)
    assert train(stopped, resume=True).hash == whole.hash


def test_checkpoints_of_encoders_serve_with_and_without_a_detector(plant: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"sensor_stage": StageConfig(epochs=1)}
    train(config(plant, tmp_path, detector=None, **quick))
    stages = []
    train(
        config(plant, tmp_path, **quick),
        resume=True,
        on_progress=lambda progress: stages.append(progress.stage),
    )
    assert set(stages) == {"detector"}


def test_normal_data_without_labels_train_a_detector_alone(
    normal_only: tuple[TrainConfig, TrainReport], plant: Path
) -> None:
    wanted, report = normal_only
    assert report.scores == {}
    assert report.detector is not None and report.detector.weight == 0
    assert {record["stage"] for record in report.history} == {"detector"}
    written = json.loads((wanted.output / "scores.json").read_text())
    assert written["detector"]["validation_normal"]["frames"] > 400
    assert "validation" not in written
    network = network_of(report)
    assert network.config.sensors.kind == "no_classifier" and network.config.classes == 1
    values, labels = readings(np.random.default_rng(79), 2)
    found = novelty(network, values)
    assert (found[labels == 0] > 1).mean() < 0.1 and (found[ONSET + 20 :] > 1).mean() > 0.8
    kind = load_profile(str(plant / "normal.yaml")).machine_types[0]
    assert load_model(report.model, kind).classes == ("normal", "unknown")


def test_normal_data_of_a_plant_with_faults_answer_normal_in_its_classes(plant: Path, tmp_path: Path) -> None:
    report = train(config(plant, tmp_path, runs="unlabelled", normal_data=True))
    network = network_of(report)
    assert network.config.classes == 3
    batch = torch.zeros(1, 5, 4)
    with torch.inference_mode():
        answer = network(batch, torch.ones_like(batch, dtype=torch.bool))
    assert bool((answer.probabilities.argmax(dim=1) == 0).all())


def test_a_fault_among_normal_data_is_refused(plant: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labelled leak; leave normal_data out"):
        prepare(config(plant, tmp_path, normal_data=True))


def test_too_few_normal_frames_are_refused_where_a_detector_is_wanted(plant: Path, tmp_path: Path) -> None:
    wanted = config(plant, tmp_path)
    data = prepare(wanted)
    few = replace(data, split=replace(data.split, train=data.split.train[:2]))
    with pytest.raises(DataError, match="a detector needs 2,000 normal frames"):
        build_untrained(wanted, few)
    unasked = TrainConfig(**{**wanted.model_dump(exclude={"detector", "budget_ms"})})
    assert build_untrained(unasked, few).detector is None


def test_normal_data_need_a_detector() -> None:
    with pytest.raises(ValidationError, match="normal_data trains a detector"):
        TrainConfig(profile="x", output=Path("x"), normal_data=True, detector=None)
