"""`faultline train --from`: what topics hold is recorded first, and what cannot teach a model is refused in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.cli.training import RECORDING
from pipeline.wire.recording import read_recording
from pipeline.wire.records import Record
from tests.support.commands import Finished, assert_one_line, faultline
from tests.support.topics import topics_of

PLANT = """
plant: tiny
machine_types:
  - name: pump
    match: "pump-*"
    frame_period: 10s
    texts: false
    sources: {sensors: {topic: plant.line1, form: {machine: device, time: {path: ts, unit: s}, values: tags}}}
    faults: [normal, leak]
    variables: [{name: flow}, {name: load}]
"""
T = 1_763_600_000_000
PERIOD_MS = 10_000
FRAMES = 60
TOPIC = "/plant.line1"


def readings(machine: str, unit_ms: int = 1_000) -> list[Record]:
    """Ten minutes of a machine, in a form of its own, that arrive a second later."""
    found = []
    for frame in range(FRAMES):
        time = T + frame * PERIOD_MS
        body = {"device": machine, "ts": time // unit_ms, "tags": {"flow": float(frame % 7), "load": 1.0 + frame % 3}}
        found.append(Record(TOPIC, 0, 0, time + 1_000, machine.encode(), json.dumps(body).encode()))
    return found


def label(machine: str, fault: str, begin: int, end: int | None, written: int = FRAMES) -> Record:
    """What is known of some frames of a machine; written at the start of a frame."""
    body = {"machine": machine, "fault": fault, "start": T + begin * PERIOD_MS}
    body |= {} if end is None else {"end": T + end * PERIOD_MS}
    return Record("labels", 0, 0, T + written * PERIOD_MS, machine.encode(), json.dumps(body).encode())


MACHINES = [f"pump-{number}" for number in range(4)]
READINGS = [record for machine in MACHINES for record in readings(machine)]

Train = Callable[..., Finished]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def train(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """The command on topics with the given records; the last options replace those before."""
    (tmp_path / "tiny.yaml").write_text(PLANT, encoding="utf-8")

    def run(records: list[Record], *options: str | Path) -> Finished:
        monkeypatch.setattr("agents.replay.record.kafka_log", topics_of(records))
        given = ("--from", "kafka://broker:9092", "--profile", tmp_path / "tiny.yaml", "--out", out)
        return faultline("train", *given, *options, env={"COLUMNS": "200"})

    return run


def recorded(out: Path, topic: str) -> list[Record]:
    return [record for record in read_recording(out / RECORDING) if record.topic == topic]


def test_what_topics_got_in_a_span_is_recorded_in_the_order_of_time(train: Train, out: Path) -> None:
    since, until = (T + frame * PERIOD_MS for frame in (10, 40))
    done = train(READINGS, "--since", str(since), "--until", str(until))
    stamps = [record.timestamp_ms for record in recorded(out, TOPIC)]
    assert stamps == sorted(stamps)
    assert (len(stamps), stamps[0], stamps[-1]) == (4 * 30, since + 1_000, until - PERIOD_MS + 1_000)
    assert "120 records since 2025-11-20T00:55:00Z until 2025-11-20T01:00:00Z, 0 of them labels" in done.stderr
    for name in ("events", "labels", "control"):
        assert f"topic faultline.{name} does not exist, so nothing is read from it" in done.stderr


def test_data_without_labels_say_what_to_do_and_stay_recorded(train: Train, out: Path) -> None:
    done = train(READINGS)
    assert done.returncode == 1
    assert "no frame has a label" in done.stderr
    assert len(recorded(out, TOPIC)) == len(READINGS)
    again = train(READINGS)
    assert_one_line(again, f"train on it with `faultline train {out / RECORDING} --profile ")
    resumed = train([], "--resume")
    assert f"continuing with {out / RECORDING}" in resumed.stderr
    assert "no frame has a label" in resumed.stderr
    forced = train(READINGS[:FRAMES], "--force")
    assert "60 records, 0 of them labels" in forced.stderr
    assert len(recorded(out, TOPIC)) == FRAMES


def test_labels_about_the_span_are_taken_whenever_they_were_written(train: Train, out: Path) -> None:
    labels = [
        label("pump-0", "normal", 0, 5, written=6),
        label("pump-0", "leak", 12, 20, written=900),
        label("pump-1", "leak", 5, None, written=2),
        label("pump-2", "leak", 2, 10),
        Record("labels", 0, 0, T, b"pump-3", b"{}"),
    ]
    done = train([*READINGS, *labels], "--since", str(T + 10 * PERIOD_MS), "--until", str(T + 30 * PERIOD_MS))
    # Somebody labels the normal state, so time without a label is unknown in this span too.
    assert sorted(json.loads(record.value or b"")["start"] for record in recorded(out, "labels")) == [
        T + frame * PERIOD_MS for frame in (0, 5, 12)
    ]
    assert "3 of them labels" in done.stderr
    assert "1 labels are about other times" in done.stderr
    assert "1 records of labels cannot be read" in done.stderr


def test_labels_come_from_another_topic_if_it_is_named(train: Train, out: Path) -> None:
    other = [label("pump-0", "leak", 12, 20)._replace(topic="/mes.findings")]
    train([*READINGS, *other, label("pump-1", "leak", 5, 9)], "--labels-from", "mes.findings")
    (found,) = recorded(out, "labels")
    assert found.key == b"pump-0"
    assert_one_line(train(READINGS, "--labels-from", "mes.findings", "--force"), "topic /mes.findings does not exist")


def test_a_time_without_readings_is_refused_with_the_newest_one(train: Train, out: Path) -> None:
    done = train(READINGS, "--since", "2026-01-01T00:00:00Z")
    newest = "2025-11-20T01:03:11Z"
    assert_one_line(
        done, f"no reading came to topic plant.line1 since 2026-01-01T00:00:00Z; the newest is of {newest}: name"
    )
    assert not (out / RECORDING).exists()
    assert_one_line(train([READINGS[0]._replace(topic="events")]), "topic /plant.line1 does not exist")


def test_readings_that_cannot_be_decoded_are_refused_with_the_reasons(train: Train) -> None:
    done = train(readings("pump-1", unit_ms=1))
    assert done.returncode == 1
    assert "no frame of machine type pump: its records were refused (bad_time 60; such as: time 1763600" in done.stderr
    assert "looks like milliseconds since 1970" in done.stderr
    assert "Traceback" not in done.stderr


def test_some_readings_that_cannot_be_decoded_are_a_warning(train: Train) -> None:
    done = train([*READINGS, *readings("pump-9", unit_ms=1)])
    assert "topics: 60 records were refused (bad_time 60; such as: time 1763600" in done.stderr
    assert "no frame has a label" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--since", "yesterday"), "--since 'yesterday': "),
        (("--until", "2026-01-01T00:00"), "--until '2026-01-01T00:00': '2026-01-01T00:00' has no UTC offset"),
        (("--since", "1h", "--until", "2h"), "--until 2h is not after --since 1h"),
        (("--epochs", "3"), "--model and --epochs are for a YAML"),
        (("--from", "memory://x"), "exists in one process only"),
        (("--from", "localhost:9092"), "neither kafka://host:port nor memory://name"),
        (("recording.parquet",), "are two sources of data; name one"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_read(
    train: Train, out: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    if "memory://x" in options:
        monkeypatch.undo()
        done = faultline("train", "--profile", out.parent / "tiny.yaml", "--out", out, *options)
    else:
        done = train(READINGS, *options)
    assert_one_line(done, message)
    assert not out.exists()


def test_a_source_is_needed_and_a_span_is_for_topics() -> None:
    assert_one_line(faultline("train"), "there is nothing to train on; name a recording")
    assert_one_line(faultline("train", "x.yaml", "--since", "1h"), "--since, --until and --labels-from are for --from")
    assert_one_line(faultline("train", "--from", "kafka://x:1"), "--profile and --out are needed")
