"""`faultline alarms`: what it lists, what it refuses, and what people do reaches the engine and survives a kill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from agents.audit.certificate import CertificateBuilder, read_certificate, write_certificate
from agents.audit.reports.alarm_list import AlarmState, summarize_alarms
from agents.worker.metrics import EngineCollector
from agents.worker.states.metrics import InputCounts
from pipeline.engine.engine import Engine
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Output, Record
from tests.pipeline.test_alarm_life import PatientRunner, engine, frames, ordered, said
from tests.pipeline.test_recovering import JAM, LEAK, NORMAL, T0
from tests.support.builders import ONE_SOURCE, profile
from tests.support.commands import assert_one_line, faultline
from tests.support.delivery_apps import run
from tests.support.plant import Plant
from tests.support.sending import sending_to
from tests.support.topics import topics_of

ENTRIES = "{acknowledge: true}, {fault: jam, latch: true, priority: critical}"
PLANT = ONE_SOURCE.replace("leak", "{name: leak, title: Seal leaks, priority: low}") + f"alarms: [{ENTRIES}]\n"


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    path = tmp_path / "plant.yaml"
    path.write_text(PLANT, encoding="utf-8")
    return path


def outputs_of(stream: Sequence[Record], entries: str = ENTRIES) -> tuple[Engine, list[Output]]:
    one = engine(entries)
    return one, one.process(stream)


def night() -> list[Record]:
    """Machines of which each has an alarm in another state."""
    scripts = {
        "p1": [LEAK] * 9,
        "p2": [LEAK] * 9,
        "p3": [LEAK] * 4 + [NORMAL] * 5,
        "p4": [JAM] * 4 + [NORMAL] * 5,
        "p5": [JAM] * 9,
        "p6": [LEAK] * 9,
        "p7": [NORMAL] * 9,
    }
    people = [
        said("acknowledge", 5, "p2", fault="leak"),
        said("shelve", 5, "p5", fault="jam", duration="2h", by="[red]lee[/red]"),
        said("suppress", 5, "p6"),
        said("suppress", 5, "p7", fault="jam"),
        said("configure", 6, None, settings={"machine": "p9", "latch": True}),
    ]
    return ordered(*(record for name, script in scripts.items() for record in frames(script, name)), *people)


def values(outputs: Sequence[Output]) -> list[bytes | None]:
    return [output.value for output in outputs if output.topic == "alarms"]


def test_every_alarm_is_listed_in_its_state_the_most_urgent_first() -> None:
    _, outputs = outputs_of(night())
    found = values(outputs)
    summary = summarize_alarms([*found, *found, b"{"])
    assert [(one.state, one.machine, one.fault) for one in summary.alarms] == [
        (AlarmState.UNACKNOWLEDGED, "p1", "leak"),
        (AlarmState.RETURNED, "p3", "leak"),
        (AlarmState.LATCHED, "p4", "jam"),
        (AlarmState.ACKNOWLEDGED, "p2", "leak"),
        (AlarmState.SHELVED, "p5", "jam"),
        (AlarmState.OUT_OF_SERVICE, "p6", "leak"),
        (AlarmState.OUT_OF_SERVICE, "p6", "*"),
        (AlarmState.OUT_OF_SERVICE, "p7", "jam"),
    ]
    assert summary.unreadable == 1
    assert len(summary.history) == len(found)
    acknowledged = summary.alarms[3]
    assert (acknowledged.by, acknowledged.why) == ("kim", "seen")
    assert summary.alarms[4].until_ms == acknowledged.since_ms + 7_200_000


def test_alarms_of_another_model_are_over() -> None:
    _, outputs = outputs_of(ordered(*frames([LEAK] * 5)))
    raised = json.loads(values(outputs)[0] or b"")
    other = raised | {"id": raised["id"].replace("5" * 12, "6" * 12), "fault": "jam", "time": T0 + 900_000}
    found = summarize_alarms([json.dumps(one).encode() for one in (raised, other)])
    assert [one.fault for one in found.alarms] == ["jam"]


def test_the_list_shows_titles_and_the_history_who_did_what(plant: Path, tmp_path: Path) -> None:
    recording = tmp_path / "outputs.parquet"
    with RecordingWriter(recording) as writer:
        _, outputs = outputs_of(night())
        for offset, one in enumerate(outputs):
            writer.write([Record(one.topic, 0, offset, one.timestamp_ms, one.key, one.value)])
    command = ("--profile", plant, "--from", recording)
    wide = {"COLUMNS": "220"}
    done = faultline("alarms", "list", *command, env=wide)
    assert done.returncode == 0, done.stderr
    assert "leak Seal leaks" in done.stdout
    assert "[red]lee[/red]" in done.stdout
    assert "8 of 8 alarms, 3 waiting for acknowledgement" in done.stdout
    shown = json.loads(faultline("alarms", "list", *command, "--state", "shelved", "--json").stdout)
    assert [one["machine"] for one in shown["alarms"]] == ["p5"]
    low = json.loads(faultline("alarms", "list", *command, "--priority", "critical", "--json").stdout)
    assert {one["fault"] for one in low["alarms"]} == {"jam"}
    people = faultline("alarms", "history", *command, "--people", env=wide)
    assert "5 of 13 records" in people.stdout
    assert "latch=True" in people.stdout
    assert_one_line(faultline("alarms", "list", "--profile", plant, "--from", plant), "is not a parquet file")


@contextmanager
def broker(monkeypatch: pytest.MonkeyPatch, one: Engine, outputs: Sequence[Output]) -> Iterator[list[Output]]:
    """Topics with what an engine has written; gives what commands send."""
    records = [Record(o.topic, 0, 0, o.timestamp_ms, o.key, o.value) for o in outputs]
    states = [Record("state", 0, 0, 1, name.encode(), state) for name, state in one.checkpoint().items()]
    log = topics_of([*records, *states])
    sent: list[Output] = []
    for module in ("agents.audit.log", "agents.cli.machines"):
        monkeypatch.setattr(f"{module}.kafka_log", log)
    sending_to(monkeypatch, sent, 2)
    yield sent


def test_commands_send_what_the_engine_applies(plant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, outputs = outputs_of(night())
    who = ("--by", "kim", "--why", "on it", "--profile", plant, "--broker", "kafka://broker:9092")
    with broker(monkeypatch, one, outputs) as sent:
        for command in (
            ("ack", "p*", "leak"),
            ("shelve", "p1", "leak", "--for", "1h"),
            ("unshelve", "p5"),
            ("suppress", "p2"),
            ("unsuppress", "p*"),
            ("configure", "on_delay=2m", "latch=true", "--fault", "leak"),
        ):
            done = faultline("alarms", *command, *who)
            assert done.returncode == 0, done.stderr
    bodies = [json.loads(output.value or b"") for output in sent]
    assert [(body["kind"], body.get("machine")) for body in bodies] == [
        *[("acknowledge", name) for name in ("p1", "p3", "p6")],
        ("shelve", "p1"),
        ("unshelve", "p5"),
        ("suppress", "p2"),
        *[("unsuppress", name) for name in ("p6", "p7")],
        *[("configure", None)] * 2,
    ]
    assert {(body["by"], body["why"]) for body in bodies} == {("kim", "on it")}
    assert bodies[-1]["settings"] == {"fault": "leak", "on_delay": "2m", "latch": True}
    control = [Record("control", 0, 100 + offset, T0 + 900_000, o.key, o.value) for offset, o in enumerate(sent[:-1])]
    applied = one.process(control)
    assert [output.topic for output in applied if output.topic == "dead-letter"] == []
    summary = summarize_alarms([*values(outputs), *values(applied)])
    assert {one.machine: one.state.value for one in summary.alarms} == {
        "p1": "shelved",
        "p2": "out-of-service",
        "p4": "latched",
        "p5": "unacknowledged",
        "p6": "unacknowledged",
    }


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("ack", "p7"), "no alarm of every alarm of p7 waits"),
        (("ack", "p1", "leek"), "'leek' is no alarm of p1; did you mean leak?"),
        (("ack", "p1", "--by", " "), "--by and --why are empty"),
        (("shelve", "p1", "--for", "13h"), "is longer than shelve_limit of machine p1, 12 h"),
        (("shelve", "p1", "--for", "soon"), "--for: 'soon' is not a duration"),
        (("suppress", "p8"), "no state of machine 'p8' is saved"),
        (("unshelve", "p1"), "no alarm of p1 is shelved"),
        (("configure", "on_delai=2m"), "on_delai"),
        (("configure", "latch"), "'latch' is no setting; write NAME=VALUE"),
    ],
)
def test_commands_refuse_what_would_have_no_effect(
    plant: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], message: str
) -> None:
    one, outputs = outputs_of(night())
    who = () if "--by" in command else ("--by", "kim")
    with broker(monkeypatch, one, outputs) as sent:
        options = (*who, "--why", "x", "--profile", plant, "--broker", "kafka://broker:9092")
        done = faultline("alarms", *command, *options)
    assert_one_line(done, message)
    assert sent == []


def test_a_killed_worker_is_followed_by_one_with_the_same_alarms() -> None:
    async def test() -> None:
        text = ONE_SOURCE + f"alarms: [{ENTRIES}, {{re_alarm: 40s, escalate_after: 30s}}]\n"
        sent = [record for at in range(12) for record in frames(([LEAK] * 7 + [NORMAL] * 8 + [JAM] * 9) * 3, f"p{at}")]
        people = [
            said("acknowledge", 5, "p0"),
            said("shelve", 20, "p1", duration="2m"),
            said("suppress", 30, "p2", fault="jam"),
            said("configure", 10, "p3", settings={"machine": "p3", "on_delay": "30s"}),
        ]
        stream = sorted([*sent, *people], key=lambda one: one.timestamp_ms)
        calm, plant = Plant(text, chunk_records=16), Plant(text, chunk_records=16)
        calm.append(stream)
        await calm.work(runner=PatientRunner())
        plant.append(stream[: len(stream) // 2])
        worker = plant.worker(PatientRunner())
        await worker.start()
        while not plant.log("state"):
            await asyncio.sleep(0.002)
        await plant.kill(worker)
        plant.append(stream[len(stream) // 2 :])
        await plant.work(runner=PatientRunner())
        assert plant.outputs("alarms") == calm.outputs("alarms")
        states = {json.loads(record.value or b"")["state"] for record in calm.log("alarms")}
        assert states >= {"raised", "returned", "latched", "escalated", "realarmed", "acknowledged", "shelved"}

    run(test())


def test_what_people_did_is_in_the_certificate(tmp_path: Path) -> None:
    def certified(*more: Record, entries: str = "") -> Any:
        builder = CertificateBuilder({})
        builder.add(outputs_of(ordered(*frames([LEAK] * 9), *more), entries)[1])
        path = tmp_path / "certificate.parquet"
        write_certificate(path, builder.certificate)
        return read_certificate(path)

    plain, seen = certified(), certified(said("acknowledge", 5, "p1"))
    assert plain.alarms == {}
    assert seen.differences(certified(said("acknowledge", 5, "p1"))) == []
    assert seen.digest == certified(said("acknowledge", 5, "p1")).digest != plain.digest
    (difference,) = seen.differences(certified(said("acknowledge", 6, "p1")))
    assert "records of alarms differ" in difference


def test_metrics_count_alarms_by_priority_and_what_people_do() -> None:
    one, _ = outputs_of(night())
    registry = CollectorRegistry()
    registry.register(EngineCollector(one, profile(), InputCounts(dict, dict, dict, lambda: T0)))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"faultline_{name}", labels)

    assert value("alarms_raised_total", priority="high") == 4
    assert value("alarms_raised_total", priority="critical") == 2
    assert value("alarms_total", state="shelved") == 1
    assert value("alarms_total", state="escalated") == 0
    assert (value("alarms_active"), value("alarms_standing")) == (4, 0)
    assert value("alarm_acknowledge_seconds_count") == 1
    one.process([record._replace(offset=record.offset + 100) for record in late_frames()])
    assert value("alarms_standing") == 1


def late_frames() -> list[Record]:
    """Machine p1 still leaks more than a day later."""
    later = frames([LEAK] * 3)
    shift = 90_000_000
    moved = []
    for record in later:
        body = json.loads(record.value or b"")
        value = json.dumps(body | {"time": body["time"] + shift}).encode()
        moved.append(record._replace(timestamp_ms=record.timestamp_ms + shift, value=value))
    return ordered(*moved)
