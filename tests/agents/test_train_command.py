"""`faultline train` and `baseline` as newcomers use them, and a replay of what trained the model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from models.model_file import read_model
from tests.models.test_split_checks import PERIOD_MS, START_MS, Site
from tests.support.commands import Finished, assert_one_line, faultline

TRAINING = """
profile: tiny.yaml
recordings: [data.parquet]
output: elsewhere
validation: 0.25
test: 0.25
plots: false
sensors: {hidden: [8], head: [8]}
sensor_stage: {epochs: 2, batch_size: 2, learning_rate: 0.01}
"""
FRAMES = 80


@pytest.fixture(scope="module", autouse=True)
def _data_lies_beside_the_configuration() -> Iterator[None]:
    """Whoever runs the tests may have set where other data lie."""
    with mock.patch.dict(os.environ):
        os.environ.pop("FAULTLINE_DATA", None)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A folder with a configuration and its model in `model`, and what the command said."""
    folder = tmp_path_factory.mktemp("newcomer")
    site = Site(folder)
    site.record(8, FRAMES, [(20, 30, "leak"), (50, 60, "leak")])
    (folder / "training.yaml").write_text(TRAINING, encoding="utf-8")
    return folder, faultline("train", folder / "training.yaml", "--out", folder / "model")


@pytest.mark.slow
def test_training_shows_its_data_first_and_its_scores_beside_baselines_last(trained: tuple[Path, Finished]) -> None:
    folder, done = trained
    assert done.returncode == 0, done.stderr
    first = done.stderr.index("episodes and frames")
    assert first < done.stderr.index("sensors epoch 1")
    for row in ("normal │  12 / 240 │        6 / 120 │  6 / 120", "leak   │    8 / 80 │         4 / 40 │   4 / 40"):
        assert row in done.stderr
    assert "warning: leak has few episodes (8 in train, 4 in validation, 4 in test)" in done.stderr
    assert "warning: jam never occurs: a model cannot learn it" in done.stderr
    table = done.stdout[done.stdout.index("scores of the test part") :]
    assert all(system in table for system in ("fused", "sensors", "gradient", "plain LSTM"))
    compared = json.loads((folder / "model" / "comparison.json").read_text())
    scores = json.loads((folder / "model" / "scores.json").read_text())["test"]["all"]["all_faults"]
    assert compared["part"] == "test"
    assert compared["scores"].keys() == {"fused", "sensors", "gradient boosting", "plain LSTM"}
    assert compared["importance"].keys() == {"flow", "load"}
    assert "most important variables, by the macro-F1 that the sensors lose without them: " in done.stdout
    for name in ("accuracy", "macro_f1", "detection_rate", "false_alarm_rate"):
        assert compared["scores"]["fused"][name] == scores["fusion"][name]
        assert compared["scores"]["sensors"][name] == scores["sensors"][name]
    assert f"{compared['scores']['gradient boosting']['accuracy']:.4f}" in table


@pytest.mark.slow
def test_the_model_file_remembers_which_machines_it_has_seen_and_when(trained: tuple[Path, Finished]) -> None:
    folder, _ = trained
    machines = read_model(folder / "model" / "pump.faultline").header.training["machines"]
    assert len(machines) == 6
    assert set(map(tuple, machines.values())) == {(START_MS, START_MS + (FRAMES - 1) * PERIOD_MS)}
    files = ("--profile", folder / "tiny.yaml", "--model", folder / "model" / "pump.faultline")
    done = faultline("replay", folder / "data.parquet", *files)
    assert f"6 of 8 machines trained this model ({', '.join(list(machines)[:5])} and 1 more)" in done.stdout
    assert f"with {6 * FRAMES} of {8 * FRAMES} frames here: their scores are too good" in done.stdout
    report = json.loads(faultline("replay", folder / "data.parquet", *files, "--json").stdout)
    assert report["trained"] == {"machines": sorted(machines), "frames": 6 * FRAMES, "frames_scored": 8 * FRAMES}
    # What is left are the machines of the test part.
    scores = json.loads((folder / "model" / "scores.json").read_text())["test"]["all"]["all_faults"]["fusion"]
    assert report["scores"]["fused, unseen"]["accuracy"] == pytest.approx(scores["accuracy"])


@pytest.mark.slow
def test_a_used_folder_is_kept_unless_it_is_to_be_replaced(trained: tuple[Path, Finished], tmp_path: Path) -> None:
    folder, _ = trained
    shutil.copytree(folder / "model", tmp_path / "model")
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    command = ("train", folder / "training.yaml", "--out", tmp_path / "model", "--no-compare")
    assert_one_line(faultline(*command), "has results of a training (comparison.json, history.jsonl")
    assert {path: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    model = before[tmp_path / "model" / "pump.faultline"]
    for option in ("--resume", "--force"):
        done = faultline(*command, option)
        assert done.returncode == 0, done.stderr
        assert "gradient" not in done.stdout
        assert (tmp_path / "model" / "pump.faultline").read_bytes() == model


@pytest.mark.slow
def test_a_recording_and_its_profile_are_enough(trained: tuple[Path, Finished], tmp_path: Path) -> None:
    folder, _ = trained
    command = ("train", folder / "data.parquet", "--profile", folder / "tiny.yaml", "--out", tmp_path / "model")
    done = faultline(*command, "--budget", "5s")
    assert done.returncode == 0, done.stderr
    assert "weights of the experts on the sensors: 1 seq_lstm " in done.stderr
    plan = json.loads((tmp_path / "model" / "plan.json").read_text())
    assert plan.keys() == {"seq_lstm_1", "statistics_2", "rows of trees_3"}
    record = read_model(tmp_path / "model" / "pump.faultline").header.training
    assert record["plan"] == plan
    assert record["experts"].keys() == {"1 seq_lstm", "2 statistics", "3 trees"}
    assert_one_line(faultline(*command), "has results of a training (comparison.json, history.jsonl")


def test_training_from_a_recording_says_what_it_lacks(tmp_path: Path) -> None:
    Site(tmp_path).record(8, 20, [(0, 20, "normal")])
    recording, out = tmp_path / "data.parquet", ("--out", tmp_path / "model")
    assert_one_line(faultline("train", recording, *out), "--profile and --out are needed")
    profile = ("--profile", tmp_path / "tiny.yaml")
    assert_one_line(faultline("train", recording, *profile, *out, "--epochs", "3"), "are for a YAML of a training")
    assert_one_line(faultline("train", recording, *profile, *out, "--budget", "20"), "unit")
    (tmp_path / "training.yaml").write_text(TRAINING, encoding="utf-8")
    assert_one_line(faultline("train", tmp_path / "training.yaml", *profile), "names its own profile")


@pytest.mark.slow
def test_a_baseline_shows_its_progress(trained: tuple[Path, Finished]) -> None:
    folder, _ = trained
    done = faultline("baseline", folder / "training.yaml", "--windows", "5")
    assert json.loads(done.stdout)["test"]["accuracy"] > 0
    assert "boosting: fit" in done.stderr


def test_a_training_that_cannot_be_is_one_line_with_all_counts(tmp_path: Path) -> None:
    Site(tmp_path).record(8, 20, [(0, 20, "normal")])
    (tmp_path / "training.yaml").write_text(TRAINING, encoding="utf-8")
    for command in ("train", "baseline"):
        assert_one_line(faultline(command, tmp_path / "training.yaml"), "only normal frames")
    assert not (tmp_path / "elsewhere").exists()


def test_a_profile_is_looked_for_beside_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "training.yaml").write_text(TRAINING, encoding="utf-8")
    assert_one_line(faultline("train", tmp_path / "training.yaml"), f"profile {tmp_path / 'tiny.yaml'}: No such file")


@pytest.mark.slow
def test_a_recording_of_normal_data_trains_a_detector_and_promises_nothing(tmp_path: Path) -> None:
    Site(tmp_path).record(1, 4_000, [])
    command = ("train", tmp_path / "data.parquet", "--profile", tmp_path / "tiny.yaml", "--out", tmp_path / "model")
    done = faultline(*command, "--normal", "--budget", "5s")
    assert done.returncode == 0, done.stderr
    assert "1.000" not in done.stdout and "macro" not in done.stdout + done.stderr
    assert "normal frames above the detector's alarm limit, which is set for 0.050% of them" in done.stderr
    assert "nothing says how many faults the detector finds" in done.stderr
    header = read_model(tmp_path / "model" / "pump.faultline").header
    assert header.network.sensors.kind == "no_classifier" and header.training["detector"]["test_normal"]["frames"] > 100
    files = ("--profile", tmp_path / "tiny.yaml", "--model", tmp_path / "model" / "pump.faultline")
    assert faultline("replay", tmp_path / "data.parquet", *files).returncode == 0


def test_normal_is_said_of_recordings_alone(tmp_path: Path) -> None:
    (tmp_path / "training.yaml").write_text(TRAINING, encoding="utf-8")
    assert_one_line(faultline("train", tmp_path / "training.yaml", "--normal"), "write `normal_data: true` into")
