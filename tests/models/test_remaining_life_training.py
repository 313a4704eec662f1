"""Remaining life learnt from runs to failure: targets, the interval, the scores, the model file and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.configs.remaining_life import RemainingLifeConfig
from models.configs.sensors import SeqLSTMConfig
from models.data.remaining_life import RemainingLifeChoice, remaining_frames
from models.data.runs import Run, RunFiles
from models.model_file import read_model, write_model
from models.network_file import build_network
from models.stepping.load import load_model
from models.training.config import TrainConfig
from models.training.experts.remaining_life import weighted_quantile
from models.training.loop import StageConfig
from models.training.prepare import prepare
from models.training.stages.remaining_life import lives
from models.training.train import TrainReport, train
from pipeline.errors import DataError, ModelFileError
from tests.models.test_training import StopError, stop_at
from tests.support.models_stepping import LAW
from tests.support.models_tiny import PROFILE, Stream, machine_type

CAP = 40
LIFE = {"cap": f"{CAP} frames", "hidden": (24,), "spans": (3.0, 10.0)}


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with profile and runs: heat rises over the last 40 frames before a leak; some runs end early."""
    folder = tmp_path_factory.mktemp("plant")
    (folder / "plant.yaml").write_text(PROFILE)
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(32):
        frames = int(rng.integers(60, 110))
        remaining = np.arange(frames)[::-1]
        values = np.array([50.0, 20.0, 70.0, 0.0]) + rng.standard_normal((frames, 4))
        values[:, 2] += np.maximum(CAP - remaining, 0) * 0.5
        labels = np.where(remaining < 8, 1, 0)
        if seed % 4 == 3:
            values, labels = values[:-20], labels[:-20]
        columns = dict(zip(machine_type().variable_names, values.T, strict=True))
        count = len(labels)
        parts.append(pa.table(columns | {"seed": [seed] * count, "sample": np.arange(count), "label": labels}))
    pyarrow.parquet.write_table(pa.concat_tables(parts), folder / "runs.parquet")
    return folder


def config(plant: Path, output: Path, **options: Any) -> TrainConfig:
    chosen: dict[str, Any] = {
        "profile": str(plant / "plant.yaml"),
        "runs": (RunFiles(paths=(plant / "runs.parquet",)),),
        "output": output,
        "sensors": SeqLSTMConfig(hidden=(6,), head=()),
        "sensor_stage": StageConfig(epochs=2, batch_size=8),
        "remaining_life": LIFE,
        "remaining_life_stage": StageConfig(epochs=12, batch_size=64, learning_rate=0.01),
        "validation": 0.25,
        "test": 0.25,
        "plots": False,
    }
    return TrainConfig(**chosen | options)


@pytest.fixture(scope="module")
def report(plant: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainReport:
    return train(config(plant, tmp_path_factory.mktemp("life")))


# -- targets -----------------------------------------------------------------------------------------------------


def run_of(labels: list[int]) -> Run:
    return Run("run", "run", "test", np.zeros((len(labels), 1), np.float32), np.array(labels, np.int64))


def targets(labels: list[int], ends: tuple[int, ...] = (1, 2), **choice: Any) -> list[float | None]:
    found = remaining_frames(run_of(labels), RemainingLifeChoice(cap="9 frames", **choice), ends)
    return [None if np.isnan(one) else float(one) for one in found]


def test_a_run_that_ends_with_a_fault_ends_with_the_failure() -> None:
    assert targets([0, 0, 1, 1]) == [3, 2, 1, 0]
    assert targets([0, 1, 1, 0]) == [None] * 4, "a fault that clears is no failure"
    assert targets([0, 0, 0, -1]) == [None] * 4, "what is unknown is none either"
    assert targets([0, 0, 2], ends=(1,)) == [None] * 3


def test_each_onset_ends_a_life_and_the_next_begins_after_the_fault() -> None:
    assert targets([0, 0, 1, 1, 0, 0, 2, 0], end="onset") == [2, 1, 0, None, 2, 1, 0, None]
    assert targets([0, 0, 1, 1, 0, 0, 2, 0], ends=(2,), end="onset") == [6, 5, 4, 3, 2, 1, 0, None]
    assert targets([0, 0, 0], end="onset") == [None] * 3


@given(st.lists(st.integers(-1, 2), max_size=30), st.sampled_from(["run", "onset"]))
def test_a_life_loses_a_frame_in_each_frame_and_ends_at_a_fault(labels: list[int], end: Any) -> None:
    found = targets(labels, end=end)
    for frame, remaining in enumerate(found):
        if remaining:
            assert found[frame + 1] == remaining - 1
        elif remaining == 0:
            assert labels[frame] > 0


@pytest.mark.parametrize(("cap", "frames"), [("125 frames", 125), ("1 frame", 1), ("20m", 120), ("1.5h", 540)])
def test_a_cap_is_given_in_frames_or_as_a_duration(cap: str, frames: int) -> None:
    assert RemainingLifeChoice(cap=cap).cap_frames(machine_type()) == frames


@pytest.mark.parametrize("cap", [125, "125", "many frames", "2 weeks", None])
def test_a_cap_without_a_unit_is_refused(cap: object) -> None:
    with pytest.raises(ValidationError, match="125 frames"):
        RemainingLifeChoice.model_validate({"cap": cap})


@pytest.mark.parametrize("cap", ["0 frames", "3s", "300d", "999999999 frames"])
def test_a_cap_outside_what_a_head_can_state_is_refused(cap: str) -> None:
    with pytest.raises(DataError, match=r"it must be from 1 to 1,000,000|is not a whole"):
        RemainingLifeChoice(cap=cap).cap_frames(machine_type())


# -- training ----------------------------------------------------------------------------------------------------


def test_wear_is_read_and_the_interval_covers_it(report: TrainReport) -> None:
    for part in ("validation", "test"):
        scores = report.scores[part]["all"]["all_faults"]["fusion"]["remaining_life"]
        assert scores["runs"] >= 4
        assert scores["rmse"] < 6
        assert 0.7 < scores["coverage"] <= 1
        assert 0 < scores["width"] < CAP
    written = json.loads((report.model.parent / "scores.json").read_text())
    assert written["test"]["all"]["all_faults"]["fusion"]["remaining_life"] == scores
    record = read_model(report.model).header.training["scores"]["test"]["all"]
    assert record["remaining_life"] == scores


def test_the_model_file_states_what_was_trained_in_order_and_below_the_cap(plant: Path, report: TrainReport) -> None:
    data = prepare(config(plant, report.model.parent))
    network = build_network(read_model(report.model))
    run, runner = data.split.test[0], load_model(report.model, data.machine_type)
    stream = Stream(1, len(run))
    stream.values, stream.observed, stream.texts = run.values[None], ~np.isnan(run.values[None]), {}
    expected = network(*(network.mean.new_tensor(part) for part in (stream.values, stream.observed))).remaining
    assert expected is not None
    for t in range(len(run)):
        found = runner.step(stream.round(t)).remaining
        assert found is not None
        estimate, low, high = found[0].tolist()
        assert 0 <= low <= estimate <= high <= CAP
        np.testing.assert_allclose(found[0], expected[t].detach().numpy(), rtol=0, atol=CAP * LAW)


def test_runs_that_end_before_a_failure_contribute_nothing(plant: Path, tmp_path: Path) -> None:
    runs = prepare(config(plant, tmp_path)).split.train
    learnt = {life.run.name for life in lives(runs, RemainingLifeChoice(**LIFE), (1, 2), CAP)}
    censored = {run.name for run in runs if not run.labels.any()}
    assert censored and learnt == {run.name for run in runs} - censored


def test_an_interrupted_stage_ends_as_if_nothing_had_happened(plant: Path, tmp_path: Path, report: TrainReport) -> None:
    chosen = config(plant, tmp_path)
    with pytest.raises(StopError):
        train(chosen, on_progress=stop_at("remaining_life", 3))
    assert train(chosen, resume=True).hash == report.hash


def test_a_head_on_features_is_trained_and_stepped_too(plant: Path, tmp_path: Path) -> None:
    own = train(config(plant, tmp_path, remaining_life=LIFE | {"inputs": "features"}))
    scores = own.scores["test"]["all"]["all_faults"]["fusion"]["remaining_life"]
    assert scores["rmse"] < CAP / 2
    stated = load_model(own.model, machine_type()).step(Stream(3, 5).round(0)).remaining
    assert stated is not None and stated.shape == (3, 3)


def test_a_head_does_not_change_what_else_is_learnt(plant: Path, tmp_path: Path, report: TrainReport) -> None:
    plain = train(config(plant, tmp_path, remaining_life=None))
    assert "remaining_life" not in read_model(plain.model).header.network.model_dump()
    with_head = read_model(report.model).tensors
    for name, weights in read_model(plain.model).tensors.items():
        np.testing.assert_array_equal(weights, with_head[name], err_msg=name)
    assert load_model(plain.model, machine_type()).step(Stream(2, 3).round(0)).remaining is None


def test_encoders_of_another_model_get_a_head_of_their_own(plant: Path, tmp_path: Path, report: TrainReport) -> None:
    plain = train(config(plant, tmp_path / "plain", remaining_life=None))
    own = train(config(plant, tmp_path / "own", encoders=plain.model))
    taken, expected = read_model(own.model).tensors, read_model(report.model).tensors
    heads = [name for name in taken if name.startswith("remaining_life.")]
    assert heads
    for name in heads:
        np.testing.assert_array_equal(taken[name], expected[name], err_msg=name)
    without = train(config(plant, tmp_path / "without", encoders=report.model, remaining_life=None))
    assert read_model(without.model).header.network.remaining_life is None


@pytest.mark.parametrize(
    ("life", "said"),
    [
        ({"faults": ("jam",)}, "no training run ends while a fault is there"),
        ({"faults": ("jam",), "end": "onset"}, "no training run has the onset of a fault"),
        ({"faults": ("leek",)}, "names 'leek', which is no fault of the profile; did you mean leak"),
        ({"cap": "1s"}, "is 0 frames of machine type pump"),
    ],
)
def test_what_cannot_be_learnt_is_refused(plant: Path, tmp_path: Path, life: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        train(config(plant, tmp_path, remaining_life=LIFE | life))


def test_a_quantile_weighs_each_run_the_same() -> None:
    # One run of a single bad frame and one of nine good ones: the bad one is half of all.
    values, weights = np.array([5.0] + [1.0] * 9), np.array([1.0] + [1 / 9] * 9)
    assert weighted_quantile(values, weights, 0.49) == 1
    assert weighted_quantile(values, weights, 0.9) == 5
    assert weighted_quantile(values, weights, 1.0) == 5


# -- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("life", "said"),
    [
        ({"spans": (3.0,)}, "weight remaining_life.network"),
        ({"hidden": (25,)}, "weight remaining_life.network"),
        ({"hidden": (65_536, 65_536)}, "weight remaining_life.network"),
        ({"inputs": "features"}, "remaining_life.network"),
    ],
)
def test_a_file_whose_head_is_not_what_it_says_is_refused(
    tmp_path: Path, report: TrainReport, life: dict[str, Any], said: str
) -> None:
    model = read_model(report.model)
    described = model.header.network.remaining_life
    assert described is not None
    network = model.header.network.model_copy(update={"remaining_life": described.model_copy(update=life)})
    path = tmp_path / "other.faultline"
    write_model(path, model.tensors, network, None, machine_type(), name="other", training={})
    with pytest.raises(ModelFileError, match=said):
        load_model(path, machine_type())
    with pytest.raises(ModelFileError, match=said):
        build_network(read_model(path))


@pytest.mark.parametrize("tensor", ["remaining_life.margin", "remaining_life.network.shift"])
def test_a_file_without_a_part_of_its_head_is_refused(tmp_path: Path, report: TrainReport, tensor: str) -> None:
    model = read_model(report.model)
    left = {name: weights for name, weights in model.tensors.items() if name != tensor}
    path = tmp_path / "other.faultline"
    write_model(path, left, model.header.network, None, machine_type(), name="other", training={})
    with pytest.raises(ModelFileError, match=f"lacks weight {tensor}"):
        load_model(path, machine_type())


@pytest.mark.parametrize("cap", [0, -1, 2**31, "many"])
def test_a_head_with_an_impossible_cap_is_refused(cap: object) -> None:
    with pytest.raises(ValidationError, match="cap_frames"):
        RemainingLifeConfig.model_validate({"cap_frames": cap})
