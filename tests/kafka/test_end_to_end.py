"""The whole product on a real Kafka: topics, replay, a worker process, diagnoses equal to those of memory://."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pytest
from kafka import KafkaConsumer, TopicPartition

from agents.cli.options import load_runners
from agents.delivery.partitioning import partition_function
from agents.replay.replay import ReplaySource, replay_in_memory
from agents.replay.shipped import demo_recording
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import load_settings
from pipeline.wire.messages import LAST_DECIMAL, Control, Diagnosis, decode_diagnosis, encode
from pipeline.wire.recording import RecordingWriter, read_recording
from pipeline.wire.records import Record
from tests.soak.soak import WorkerProcess
from tests.support.commands import Finished, assert_one_line, faultline
from tests.support.probabilities import probability_difference

pytestmark = pytest.mark.kafka
PARTITIONS = 4
MACHINES, FRAMES, FRAME_MS = 12, 240, 180_000


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first twelve hours of the demo's recording, in which every machine works and its faults begin."""
    path = tmp_path_factory.mktemp("recording") / "twelve_hours.parquet"
    records = list(read_recording(demo_recording()))
    end_ms = records[0].timestamp_ms + FRAMES * FRAME_MS
    with RecordingWriter(path) as tape:
        tape.write([record for record in records if record.timestamp_ms < end_ms])
    return path


def succeed(*arguments: str | Path, env: dict[str, str]) -> Finished:
    """Run a command that must not fail."""
    done = faultline(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done


def environment(bootstrap: str) -> dict[str, str]:
    name = uuid.uuid4().hex[:8]
    return os.environ | {
        "FAULTLINE_BROKER": f"kafka://{bootstrap}",
        "FAULTLINE_TOPIC_PREFIX": f"e2e-{name}.",
        "FAULTLINE_GROUP": f"e2e-{name}",
        "FAULTLINE_WEB_PORT": "0",
        "FAULTLINE_PARTITIONS": str(PARTITIONS),
        "FAULTLINE_CHUNK_RECORDS": "300",
    }


@contextlib.contextmanager
def worker(env: dict[str, str], log: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A worker process; gives it and the address of its web server."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "agents.cli", "run", *options],
            env=env,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+?(?=/metrics)", line)
            assert found, f"{line}\n{log.read_text()}"
            yield process, found[0]
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def read_until(bootstrap: str, topic: str, enough: Callable[[list[bytes]], bool], timeout_s: float) -> list[bytes]:
    """What an ordinary consumer finds in a topic until it is enough, and what comes behind."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, group_id=None)
    found: list[bytes] = []
    try:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        until = time.monotonic() + timeout_s
        while not enough(found) and time.monotonic() < until:
            for records in consumer.poll(timeout_ms=500).values():
                found += [record.value for record in records]
        for records in consumer.poll(timeout_ms=1000).values():  # nothing may come behind the last
            found += [record.value for record in records]
    finally:
        consumer.close()
    return found


def test_a_worker_on_kafka_says_what_the_replay_in_memory_says(kafka: str, recording: Path, tmp_path: Path) -> None:
    settings, plant = load_settings(), load_profile("tennessee_eastman")
    in_memory: dict[str, Diagnosis] = {}
    asyncio.run(
        replay_in_memory(
            recording,
            settings,
            plant,
            load_runners(settings, plant, None),
            partition_function(PARTITIONS),
            on_diagnosis=lambda diagnosis: in_memory.__setitem__(diagnosis.id, diagnosis),
        )
    )
    assert len(in_memory) == MACHINES * FRAMES

    env = environment(kafka)
    prefix = env["FAULTLINE_TOPIC_PREFIX"]
    assert "created" in succeed("topics", "create", env=env).stdout
    assert "set up correctly" in succeed("topics", "check", env=env).stdout
    report = json.loads(succeed("replay", recording, "--to", f"kafka://{kafka}", "--json", env=env).stdout)
    assert report["records"] > len(in_memory)

    live = tmp_path / "live.parquet", tmp_path / "certificate.parquet"
    options = "--record", str(live[0]), "--certify", str(live[1])
    with worker(env, tmp_path / "worker.log", *options) as (process, url):
        published = read_until(kafka, f"{prefix}diagnoses", lambda found: len(found) >= len(in_memory), 90)
        on_kafka = [decode_diagnosis(value) for value in published]
        assert len(on_kafka) == len(in_memory), (tmp_path / "worker.log").read_text()[-2000:]
        assert {diagnosis.id for diagnosis in on_kafka} == set(in_memory)
        for diagnosis in on_kafka:
            twin = in_memory[diagnosis.id]
            assert diagnosis.fault == twin.fault
            assert probability_difference(diagnosis.probabilities, twin.probabilities) < 1.5 * LAST_DECIMAL

        metrics = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
        assert f'faultline_records_total{{topic="sensors"}} {MACHINES * FRAMES}.0' in metrics
        assert f"faultline_frames_total {MACHINES * FRAMES}.0" in metrics
        assert urllib.request.urlopen(f"{url}/readyz", timeout=10).status == 200

        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - began < 10

    consumer = KafkaConsumer(bootstrap_servers=kafka, group_id=env["FAULTLINE_GROUP"], enable_auto_commit=False)
    try:
        for topic in ("sensors", "events", "control"):
            places = [TopicPartition(prefix + topic, partition) for partition in range(PARTITIONS)]
            ends = consumer.end_offsets(places)
            for place in places:
                assert (consumer.committed(place) or 0) == ends[place], place
    finally:
        consumer.close()

    # Out of the topics the machine alone gives the same diagnosis again, and it is explained.
    fault = max((one for one in on_kafka if one.fault.startswith("idv_")), key=lambda one: one.frame_end)
    explained = json.loads(succeed("explain", fault.id, "--json", env=env).stdout)
    assert (explained["fault"], explained["confidence"]) == (fault.fault, fault.confidence)
    assert explained["differs"] is None
    assert {one["kind"] for one in explained["contributions"]} >= {"variable", "component", "modality"}

    # What the live worker read and said is certified: the replay of its recording says the same, states included.
    assert "equal to certificate" in succeed("replay", live[0], "--certify", live[1], "--json", env={}).stderr


PEOPLE = (
    (60, Control("acknowledge", machine="te-05", fault="idv_14", by="kim", why="valve is being freed")),
    (95, Control("shelve", machine="te-01", duration=3_600_000, by="kim", why="known")),
    (140, Control("suppress", machine="te-06", by="lee", why="maintenance")),
    (170, Control("unsuppress", machine="te-06", by="lee", why="maintenance is over")),
)
"""Frames, and what somebody does then."""


def night_shift(recording: Path, plant: PlantProfile) -> list[Record]:
    """The recording as a producer sends it, with its ticks, and what people do with the alarms."""
    partition_of = partition_function(PARTITIONS)
    source = ReplaySource(recording, plant, partition_of, PARTITIONS)
    records = [
        Record(one.topic, one.partition or 0, 0, one.timestamp_ms, one.key, one.value, one.headers) for one in source
    ]
    begin_ms = records[0].timestamp_ms
    for frame, act in PEOPLE:
        key = (act.machine or "").encode()
        time_ms = begin_ms + frame * FRAME_MS
        records.append(Record("control", partition_of(key), 0, time_ms, key, encode(act)))
    return sorted(records, key=lambda one: one.timestamp_ms)


def write(path: Path, records: Sequence[Record]) -> Path:
    with RecordingWriter(path) as tape:
        tape.write(records)
    return path


class Sent(NamedTuple):
    """A night shift as it was sent to topics, and the environment of whoever reads them."""

    records: list[Record]
    file: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def sent(kafka: str, recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    folder = tmp_path_factory.mktemp("sent")
    shipped = resources.files("pipeline.config") / "profiles" / "tennessee_eastman.yaml"
    profile = folder / "plant.yaml"
    alarms = "alarms: [{acknowledge: true, re_alarm: 2h, escalate_after: 1h}]"
    profile.write_text(f"{shipped.read_text(encoding='utf-8')}\n{alarms}\n", encoding="utf-8")
    env = environment(kafka) | {"FAULTLINE_PROFILE": str(profile)}
    records = night_shift(recording, load_profile(str(profile)))
    file = write(folder / "told.parquet", records)
    succeed("topics", "create", env=env)
    assert "records sent to" in succeed("replay", file, "--to", f"kafka://{kafka}", env=env).stdout
    return Sent(records, file, env)


def test_alarms_are_the_same_live_after_a_sigkill_and_replayed(kafka: str, sent: Sent, tmp_path: Path) -> None:
    # Under one name, so that the successor need not wait until the group has given up its predecessor.
    env = sent.environment | {"CHAOS_SHIPPED_MODEL": "1", "FAULTLINE_GROUP_INSTANCE_ID": "one"}
    succeed("replay", sent.file, "--out", tmp_path / "outputs.parquet", "--json", env=env)
    outputs = list(read_recording(tmp_path / "outputs.parquet"))
    replayed = {one.value or b"" for one in outputs if one.topic == "alarms"}
    states = {json.loads(value)["state"] for value in replayed}
    assert states >= {"raised", "acknowledged", "shelved", "suppressed", "escalated", "realarmed", "returned"}

    first = WorkerProcess(env | {"CHAOS_POINT": "output_send", "CHAOS_HIT": "6"}, tmp_path / "first.log")
    try:
        assert first.wait(60) == -signal.SIGKILL, first.text[-2000:]
    finally:
        first.kill()
    second = WorkerProcess(env, tmp_path / "second.log")
    try:
        live = read_until(kafka, env["FAULTLINE_TOPIC_PREFIX"] + "alarms", lambda found: set(found) >= replayed, 90)
        assert set(live) == replayed, second.text[-2000:]
        second.signal(signal.SIGTERM)
        assert second.wait(20) == 0
    finally:
        second.kill()

    # A report on the topics says what one on the same records in a file says, and begins where it is told to.
    published = write(
        tmp_path / "published.parquet", sorted([*sent.records, *outputs], key=lambda one: one.timestamp_ms)
    )
    begin = str(sent.records[0].timestamp_ms + FRAMES // 2 * FRAME_MS)
    whole, file, half = (
        json.loads(succeed("report", *what, "--out", tmp_path / f"{name}.html", "--json", env=env).stdout)["sides"][0]
        for name, what in (
            ("topics", ("--from", f"kafka://{kafka}")),
            ("file", (only(published, "diagnoses", "alarms", "events", "labels"),)),
            ("half", ("--from", f"kafka://{kafka}", "--since", begin)),
        )
    )
    assert whole["operators"]["faults"] > 0
    for key in ("operators", "scores", "answers", "episodes"):
        assert whole[key] == file[key], key
    assert (file["diagnoses"], half["begin_ms"]) == (MACHINES * FRAMES, int(begin) - FRAME_MS)


def only(recording: Path, *topics: str) -> Path:
    """The records of these topics, beside the recording."""
    kept = [one for one in read_recording(recording) if one.topic in topics]
    return write(recording.with_name(f"only-{recording.name}"), kept)


def test_topics_are_recorded_as_they_were_sent(sent: Sent, tmp_path: Path) -> None:
    out = tmp_path / "recorded.parquet"
    assert "records written" in succeed("record", "--out", out, env=sent.environment).stdout

    def content(path: Path) -> list[tuple[str, int, bytes, bytes]]:
        return sorted(
            (one.topic, one.timestamp_ms, one.key or b"", one.value or b"")
            for one in read_recording(path)
            if one.topic != "control"
        )

    assert content(out) == content(sent.file)
    stamps = [one.timestamp_ms for one in read_recording(out)]
    assert stamps == sorted(stamps)


def test_a_worker_without_topics_says_so_in_one_line(kafka: str) -> None:
    assert_one_line(faultline("run", env=environment(kafka)), "topics create")


def test_a_worker_without_a_broker_says_so_in_one_line() -> None:
    assert_one_line(faultline("run", env=environment("127.0.0.1:1")), "127.0.0.1:1")
