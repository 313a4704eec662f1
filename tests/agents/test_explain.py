"""`faultline explain` with the shipped model: disturbances that are planted into a recording come first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agents.audit.why.replayed import DiagnosisId
from agents.cli.main import app
from agents.cli.options import load_runners
from agents.delivery.partitioning import partition_function
from agents.replay.replay import ReplaySource
from agents.replay.shipped import demo_recording
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings
from pipeline.config.topics import ALARMS, DIAGNOSES
from pipeline.engine.engine import Engine
from pipeline.errors import DataError, SettingsError
from pipeline.wire.recording import new_recording, read_recording
from pipeline.wire.records import Output, Record

NORMAL_UNTIL_MS = 1_793_509_000_000
"""Until then the machines below have no fault in the demo's recording."""
START_MS = 1_793_498_400_000
PLANTED = {"te-02": ("xmeas_9", 0.5), "te-03": ("xmeas_12", 30.0), "te-07": ("xmv_10", 12.0)}
"""By machine a variable, and what is added to it from the start on."""


class Planted:
    """A recording of machines in their normal state, one variable of each disturbed, and what the engine says of it."""

    def __init__(self, folder: Path) -> None:
        self.profile: PlantProfile = load_profile("tennessee_eastman")
        self.settings = Settings()
        self.path = folder / "planted.parquet"
        with new_recording(self.path) as writer:
            writer.write(self._disturbed())
        self.outputs = self._outputs()

    def alarm(self, machine: str) -> dict[str, Any]:
        """The first alarm that a machine raises."""
        alarms = [json.loads(one.value or b"") for one in self.outputs if one.topic == ALARMS]
        return next(one for one in alarms if one["machine"] == machine and one["time"] > START_MS)

    def _disturbed(self) -> Iterator[Record]:
        names = self.profile.machine_types[0].variable_names
        for record in read_recording(demo_recording()):
            machine = (record.key or b"").decode()
            if machine not in PLANTED or record.timestamp_ms > NORMAL_UNTIL_MS or record.topic == "labels":
                continue
            if record.topic == "sensors" and record.timestamp_ms >= START_MS:
                body = json.loads(record.value or b"")
                variable, added = PLANTED[machine]
                body["values"][names.index(variable)] += added
                record = record._replace(value=json.dumps(body).encode())
            yield record

    def _outputs(self) -> list[Output]:
        """Of an engine that has all machines."""
        engine = Engine(self.profile, load_runners(self.settings, self.profile, None))
        partition_of = partition_function(self.settings.partitions)
        source = ReplaySource(self.path, self.profile, partition_of, self.settings.partitions)
        return engine.process(
            [
                Record(one.topic, one.partition or 0, offset, one.timestamp_ms, one.key, one.value, one.headers)
                for offset, one in enumerate(source)
            ]
        )


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return Planted(tmp_path_factory.mktemp("planted"))


def explained(planted: Planted, *arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["explain", *arguments, "--from", str(planted.path), "--json"])
    assert done.exit_code == 0, done.exception or done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("machine", PLANTED)
def test_a_disturbed_variable_comes_first(planted: Planted, machine: str) -> None:
    alarm = planted.alarm(machine)
    found = explained(planted, alarm["id"])
    assert found["diagnosis"] == alarm["diagnosis"]
    assert found["fault"] == alarm["fault"]
    variables = [one for one in found["contributions"] if one["kind"] == "variable"]
    assert variables[0]["name"] == PLANTED[machine][0]
    assert [one["contribution"] for one in variables] == sorted(
        (one["contribution"] for one in variables), reverse=True
    )


def test_the_replayed_diagnosis_is_that_of_the_whole_plant(planted: Planted) -> None:
    alarm = planted.alarm("te-02")
    diagnosis = next(
        json.loads(one.value or b"")
        for one in planted.outputs
        if one.topic == DIAGNOSES and alarm["diagnosis"].encode() in (one.value or b"")
    )
    found = explained(planted, alarm["diagnosis"], "--window", "5")
    assert (found["confidence"], found["frame_end"]) == (diagnosis["confidence"], diagnosis["frame_end"])
    assert found["frames"] == 5
    assert found["differs"] is None


def test_both_methods_explain_in_words(planted: Planted) -> None:
    alarm = planted.alarm("te-07")
    for method, said in (("leave-out", "leaving each out"), ("gradients", "integrated gradients")):
        done = CliRunner().invoke(
            app, ["explain", alarm["id"], "--from", str(planted.path), "--method", method, "--window", "10"]
        )
        assert done.exit_code == 0, done.exception or done.output
        assert said in done.stdout
        assert "Reactor cooling water valve" in done.stdout


@pytest.mark.parametrize("text", ["te-07", "te-07:soon:0123:0", "a:b:c:d:e:f", ""])
def test_what_is_no_id_is_said(planted: Planted, text: str) -> None:
    done = CliRunner().invoke(app, ["explain", text, "--from", str(planted.path)])
    assert isinstance(done.exception, SettingsError)
    assert "is no id of a diagnosis or alarm" in str(done.exception)


def test_ids_that_do_not_come_out_are_said(planted: Planted) -> None:
    wanted = DiagnosisId.parse(planted.alarm("te-02")["id"])
    for changed, error, said in (
        (wanted._replace(model="0123456789ab"), SettingsError, "give its file with --model"),
        (wanted._replace(end_ms=wanted.end_ms + 1), DataError, "do not lead to"),
        (wanted._replace(machine="te-11"), DataError, "no record leads to a diagnosis of te-11"),
        (wanted._replace(machine="pump-1"), SettingsError, "no machine type"),
    ):
        done = CliRunner().invoke(app, ["explain", str(changed), "--from", str(planted.path)])
        assert isinstance(done.exception, error)
        assert said in str(done.exception)
