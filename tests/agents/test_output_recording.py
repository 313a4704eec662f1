"""`faultline replay --out`: every output of a replay as a recording, complete or not there at all."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from agents.cli.options import load_runners
from agents.delivery.partitioning import partition_function
from agents.replay.output_recording import OutputRecorder
from agents.replay.replay import replay_in_memory
from agents.replay.shipped import demo_recording
from pipeline.config.profile import load_profile, parse_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.errors import FaultlineError, RecordingError
from pipeline.wire.recording import RecordingWriter, new_recording, read_recording
from pipeline.wire.records import OnProgress, Output, Record
from tests.support.builders import ONE_SOURCE, SumRunner, reading
from tests.support.commands import assert_one_line, faultline


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The beginning of the shipped recording, with texts that are no JSON and with readings that come late."""
    records = list(islice(read_recording(demo_recording()), 4_000))
    newest = records[-1].timestamp_ms
    bad = Record("events", 0, 0, newest, records[0].key, b"no JSON")
    late = [record._replace(timestamp_ms=newest) for record in records[:50]]
    path = tmp_path_factory.mktemp("replay") / "recording.parquet"
    with RecordingWriter(path) as writer:
        writer.write([*records, bad, *late])
    return path


def expected_outputs(recording: Path) -> list[Output]:
    settings = load_settings()
    plant = load_profile(settings.profile)
    outputs: list[Output] = []
    asyncio.run(
        replay_in_memory(
            recording,
            settings,
            plant,
            load_runners(settings, plant, None),
            partition_function(settings.partitions),
            on_output=outputs.append,
        )
    )
    return outputs


def test_every_output_is_a_record_with_its_place_in_a_topic(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "out.parquet"
    done = faultline("replay", recording, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    records = list(read_recording(out))
    assert f"{len(records):,} output records written to {out}" in done.stderr
    count = Counter(record.topic for record in records)
    assert count["diagnoses"] == report["diagnoses"] > 1_000
    assert count["late"] == report["late"] > 0
    assert count["dead-letter"] == report["dead_letters"] == 1
    assert count["alarms"] > 0
    assert count["metrics"] > 0
    assert Counter((r.topic, r.key, r.value, r.timestamp_ms, r.headers) for r in records) == Counter(
        (o.topic, o.key, o.value, o.timestamp_ms, o.headers) for o in expected_outputs(recording)
    )
    partition_of = partition_function(load_settings().partitions)
    next_offset: Counter[tuple[str, int]] = Counter()
    for record in records:
        if record.topic in ("diagnoses", "alarms"):
            assert record.key is not None
            assert record.partition == partition_of(record.key)
        assert record.offset == next_offset[record.topic, record.partition]
        next_offset[record.topic, record.partition] += 1
    assert len({partition for topic, partition in next_offset if topic == "diagnoses"}) > 1
    assert list(out.parent.iterdir()) == [out]


def test_a_disturbed_and_paced_replay_is_recorded_too(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    done = faultline(
        "replay", recording, "--out", out, "--json", "--stress", "late=0.1:10h,no-text", "--speed", "100000"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    count = Counter(record.topic for record in read_recording(out))
    assert count["diagnoses"] == report["diagnoses"]
    assert count["late"] == report["late"] > 100


def test_an_existing_file_is_only_replaced_with_force(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    out.write_text("mine")
    for command in (["replay", recording], ["record"]):
        assert_one_line(faultline(*command, "--out", out), "or replace it with --force")
        assert_one_line(faultline(*command, "--out", tmp_path), "is a folder")
    assert out.read_text() == "mine"
    done = faultline("replay", recording, "--out", out, "--force")
    assert done.returncode == 0, done.stderr
    assert len(list(read_recording(out))) > 1_000


def test_the_recording_itself_is_never_replaced(recording: Path) -> None:
    before = recording.read_bytes()
    assert_one_line(faultline("replay", recording, "--out", recording, "--force"), "is the file that is read")
    assert recording.read_bytes() == before
    to = faultline("replay", recording, "--out", "out.parquet", "--to", "kafka://localhost:1")
    assert_one_line(to, "without --to")


def test_a_replay_that_fails_leaves_no_file(tmp_path: Path) -> None:
    foreign, out = tmp_path / "foreign.parquet", tmp_path / "out.parquet"
    with RecordingWriter(foreign) as writer:
        writer.write([Record("readings", 0, 0, 5, b"p", b"{}")])
    assert_one_line(faultline("replay", foreign, "--out", out), "'readings'")
    assert list(tmp_path.iterdir()) == [foreign]
    out.write_text("old")
    assert_one_line(faultline("replay", foreign, "--out", out, "--force"), "'readings'")
    assert out.read_text() == "old"
    assert_one_line(faultline("replay", foreign, "--out", foreign / "out.parquet"), "cannot write recording")


def test_records_are_flushed_in_groups_and_a_failing_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    with new_recording(path) as writer:
        recorder = OutputRecorder(writer, lambda key: 3)
        for number in range(40_000):
            recorder.add(Output("diagnoses", None, b"p", b"{}", number))
        assert writer.count >= 32_768  # on the disk before the end
        recorder.add(Output("metrics", None, None, b"{}", 1))
        assert not path.exists()
    *_, last, metric = read_recording(path)
    assert (last.partition, last.offset) == (3, 39_999)
    assert (metric.partition, metric.offset) == (0, 0)
    full = Path("/dev/full")
    if full.exists():
        with pytest.raises(RecordingError, match="/dev/full"), RecordingWriter(full) as writer:
            writer.write([Record("sensors", 0, 0, 5, b"p", b"{}")])


def test_a_worker_that_cannot_record_stops(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with RecordingWriter(path) as tape:
        tape.write([reading("p1", 1_763_600_000_000 + 1_000 * second, [1.0, 2.0]) for second in range(60)])

    def refuse(output: Output) -> None:
        raise RecordingError("cannot write recording out.parquet: no space left on device")

    replaying = replay_in_memory(
        path,
        load_settings(),
        parse_profile(ONE_SOURCE, where="test"),
        {"pump": SumRunner()},
        partition_function(4),
        on_output=refuse,
    )
    with pytest.raises(FaultlineError, match="no space left"):
        asyncio.run(replaying)


class InterruptedLog:
    """Topics that someone stops reading with Ctrl-C after three records."""

    def merged(self, *topics: str, follow_seconds: float | None) -> Iterator[Record]:
        for number in range(3):
            yield Record("sensors", 0, number, number, b"p", b"{}")
        raise KeyboardInterrupt


@contextmanager
def interrupted_log(settings: Settings, topics: Sequence[str], on_progress: OnProgress) -> Iterator[InterruptedLog]:
    yield InterruptedLog()


def test_ctrl_c_ends_a_recording_that_follows_topics_and_drops_one_that_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.replay.record.kafka_log", interrupted_log)
    out = tmp_path / "out.parquet"
    done = faultline("record", "--out", out, "--for", "60")
    assert done.stdout == f"3 records written to {out}\n"
    assert len(list(read_recording(out))) == 3
    assert faultline("record", "--out", tmp_path / "other.parquet").returncode == 130
    assert list(tmp_path.iterdir()) == [out]
