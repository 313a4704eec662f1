"""Drift reports outlive their worker, are in certificates, and `faultline drift` lists them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.audit.certificate import CertificateBuilder, read_certificate, write_certificate
from agents.audit.reports.drift_list import summarize_drift
from pipeline.engine.reports.drift_report import DriftReport
from pipeline.errors import StateError
from pipeline.wire.messages import ModelRef, encode
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Record
from tests.support.commands import assert_one_line, faultline
from tests.support.delivery_apps import run
from tests.support.drifting import PERIOD_MS, WINDOW, ObedientRunner, engine, readings, wobble
from tests.support.plant import Plant

SETTINGS: dict[str, Any] = {"drift_window_ms": WINDOW * PERIOD_MS, "drift_reference_windows": 3}


def drifting(machine: str, frames: range = range(WINDOW * 9)) -> list[Record]:
    """A flow that is higher in windows 4 to 6."""
    return readings(lambda n: [wobble(n, 2.0 * (4 <= n // WINDOW <= 6)), wobble(n)], frames, machine)


def test_a_killed_worker_is_followed_by_one_that_reports_the_same() -> None:
    async def test() -> None:
        sent = sorted(drifting("p5") + drifting("p6"), key=lambda record: record.timestamp_ms)
        calm, plant = Plant(**SETTINGS), Plant(**SETTINGS)
        calm.append(sent)
        await calm.work(runner=ObedientRunner())
        plant.append(sent[: len(sent) // 2])
        worker = plant.worker(ObedientRunner())
        await worker.start()
        while not plant.log("state"):
            await asyncio.sleep(0.002)
        await plant.kill(worker)
        plant.append(sent[len(sent) // 2 :])
        await plant.work(runner=ObedientRunner())
        assert plant.outputs("drift") == calm.outputs("drift")
        assert len(plant.outputs("drift")) == 4

    run(test())


def test_drift_reports_are_in_the_certificate(tmp_path: Path) -> None:
    one = engine()
    outputs = one.process(drifting("p1"))
    whole, without = CertificateBuilder({}), CertificateBuilder({})
    whole.add(outputs)
    without.add(out for out in outputs if out.topic != "drift")
    path = tmp_path / "certificate.parquet"
    write_certificate(path, whole.certificate)
    read = read_certificate(path)
    assert read == whole.certificate and read.digest == whole.certificate.digest
    assert len(read.drift) == 2
    (line,) = read.differences(without.certificate)
    assert line.startswith("2 drift reports differ, such as p1:")
    assert without.certificate.digest != read.digest


def report(state: str, time: int, *, kind: str = "level", machine: str = "p1", model: str = "a") -> bytes:
    variable = "flow" if kind == "level" else None
    return encode(
        DriftReport(
            id=f"{machine}:{time}:{kind}:{state}",
            machine=machine,
            kind=kind,
            variable=variable,
            state=state,  # type: ignore[arg-type]
            time=time,
            since=time - 5,
            direction="up",
            size=1.25,
            value=1.5,
            reference=0.25,
            tolerance=0.25,
            model=ModelRef("m", model * 64),
        )
    )


def test_episodes_are_paired_repeats_count_once_and_another_model_begins_again() -> None:
    summary = summarize_drift(
        [
            report("ended", 5, machine="p0"),
            report("started", 10),
            report("started", 10),
            b"{",
            report("ended", 20),
            report("started", 30, kind="confidence"),
            report("started", 40, machine="p2"),
            report("started", 50, machine="p2", model="b"),
            None,
        ]
    )
    assert summary.unreadable == 2
    assert [(one.machine, one.kind, one.reported_ms, one.ended_ms) for one in summary.episodes] == [
        ("p1", "confidence", 30, None),
        ("p2", "level", 50, None),
        ("p2", "level", 40, 50),
        ("p1", "level", 10, 20),
        ("p0", "level", None, 5),
    ]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "outputs.parquet"
    values = [report("started", 10), report("ended", 20), report("started", 30, machine="q7")]
    with RecordingWriter(path) as writer:
        writer.write([Record("drift", 0, number, number, b"p1", value) for number, value in enumerate(values)])
    return path


def test_the_command_lists_what_stands_first(recording: Path) -> None:
    done = faultline("drift", "--from", recording, "--json")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)["drift"]
    assert [(one["machine"], one["variable"], one["size"], one["ended_ms"]) for one in listed] == [
        ("q7", "flow", 1.25, None),
        ("p1", "flow", 1.25, 20),
    ]
    shown = faultline("drift", "--from", recording, "--standing")
    assert "q7" in shown.stdout and "p1" not in shown.stdout and "1 standing, 0 ended" in shown.stdout
    assert "0 standing, 1 ended" in faultline("drift", "--from", recording, "--machine", "p*").stdout


def test_a_model_without_a_recording_is_refused(tmp_path: Path) -> None:
    assert_one_line(faultline("drift", "--model", tmp_path / "m.faultline"), "--model is for a replay with --from")


def test_a_damaged_drift_state_is_refused_and_one_of_other_windows_is_not_used() -> None:
    one = engine()
    one.process(drifting("p1", range(WINDOW * 5)))
    drift, slots = one.models["pump"].drift, one.slots("pump")
    assert drift is not None
    (state,) = drift.save(slots)
    drift.load(0, state)
    assert drift.save(slots) == [state], "bit for bit"
    for damaged in (state[:-1], state + b"x", b"\x07" + state[1:], state[:40] + b"\xff" * 8 + state[48:]):
        with pytest.raises(StateError, match="saved drift state"):
            drift.load(0, damaged)
    drift.load(0, state[:4] + b"\x19" + state[5:])
    assert drift.save(slots) == [b""], "a window of 25 frames is another one"


def test_the_bytes_of_a_fresh_machine_are_none() -> None:
    one = engine()
    one.process(drifting("p1", range(1)))
    (state,) = one.checkpoint().values()
    assert state is not None and msgspec.msgpack.decode(state)["drift"] == b""
