"""Foreign topics on a real broker, ingest processes that may die, and what they have committed."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from agents.delivery.partitioning import partition_of
from agents.kafka.admin import create_topics
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.topic_settings import TopicSpec
from agents.kafka.topics import topic_specs
from pipeline.config.profile import parse_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import ingest_topics
from pipeline.wire.letters import origin_of
from pipeline.wire.records import Output, Record
from tests.support.forked_processes import ForkedProcess
from tests.support.mortal_ingest import run_forked
from tests.support.plant import Plant

PARTITIONS = 4
T0_MS = 1_763_600_000_000
FRAME_MS = 10_000

KEPT = {"retention.ms": "-1"}
"""Brokers delete by the records' own time stamps, and these are old."""

_numbers = itertools.count()

PLANT = """
plant: field
machine_types:
  - name: pump
    match: "pump-*"
    frame_period: 10s
    max_gap_frames: 50
    text_ttl_frames: 6
    max_skew: 1h
    state_ttl: 30d
    sources:
      sensors: {topic: sensors, allowed_disorder: 5s, idle_after: 20d}
      lab: {topic: sensors.lab, holds_frames: false}
    faults: [normal, leak, jam]
    variables:
      - {name: flow, tag: F.PV}
      - {name: load, tag: L.PV}
      - {name: water, tag: Lab.H2O, source: lab}
ingest:
  - topic: SITE.values
    form: {machine: dev.id, time: {path: ts, unit: s}, values: m}
  - topic: SITE.tickets
    form: {machine: asset, time: at, template: "{code} {note}", id: nr}
"""


def crc32_partition(key: str, partitions: int) -> int:
    """Where librdkafka's `consistent` partitioner puts a key."""
    return zlib.crc32(key.encode()) % partitions


def fnv1a_partition(key: str, partitions: int) -> int:
    """Where sarama's hash partitioner puts a key."""
    found = 0x811C9DC5
    for byte in key.encode():
        found = (found ^ byte) * 0x01000193 & 0xFFFFFFFF
    signed = found - (1 << 32) if found >= 1 << 31 else found
    return abs(signed) % partitions


class Story(NamedTuple):
    """Foreign records, and what a producer that knew Faultline would have sent instead."""

    foreign: list[Record]
    native: list[Record]
    letters: int


def story(name: str, frames: int, *, partitions: int = 3, machines: int = 6, seed: int = 0) -> Story:
    """Readings with tags, laboratory values and an unknown one in one object, tickets, and records of no use."""
    rng = random.Random(seed)
    foreign: list[Record] = []
    native: list[Record] = []
    letters = 0
    for frame, number in itertools.product(range(frames), range(machines)):
        machine = f"pump-{number}"
        at = crc32_partition(machine, partitions)
        for second in (0, 5):
            time_s = T0_MS // 1000 + 10 * frame + second
            values: dict[str, Any] = {"F.PV": round(rng.gauss(0, 2), 3), "L.PV": round(rng.gauss(1, 1), 3)}
            expected = {"flow": values["F.PV"], "load": values["L.PV"]}
            if rng.random() < 0.2:
                values["F.PV"], expected["flow"] = "Bad", None
            native.append(native_record("sensors", machine, time_s * 1000, {"values": expected}))
            if rng.random() < 0.1:
                values["Lab.H2O"] = round(rng.random(), 3)
                native.append(
                    native_record("sensors.lab", machine, time_s * 1000, {"values": {"water": values["Lab.H2O"]}})
                )
            values["rssi"] = -61
            body = {"dev": {"id": machine}, "ts": time_s, "m": values}
            foreign.append(foreign_record(f"/{name}.values", at, f"gw-{rng.random()}", time_s * 1000, body))
        if rng.random() < 0.1:
            nr, time_ms = f"T{frame}-{number}", T0_MS + FRAME_MS * frame
            ticket = {"asset": machine, "at": time_ms, "code": f"E{rng.randrange(9)}", "note": "leaks", "nr": nr}
            foreign.append(foreign_record(f"/{name}.tickets", at, nr, time_ms, ticket))
            native.append(native_record("events", machine, time_ms, {"text": f"{ticket['code']} leaks", "id": nr}))
        if rng.random() < 0.02:
            letters += 1
            body = {"dev": {"id": "nobody"}, "ts": 1, "m": {}}
            content = rng.choice([b"\x00\x01", b"{", json.dumps(body).encode()])
            stamp = T0_MS + FRAME_MS * frame
            foreign.append(Record(f"/{name}.values", at, 0, stamp, None, content))
    return Story(foreign, native, letters)


def foreign_record(topic: str, partition: int, key: str, stamp_ms: int, body: Mapping[str, Any]) -> Record:
    """A record of somebody else's topic."""
    return Record(topic, partition, 0, stamp_ms, key.encode(), json.dumps(body).encode())


def native_record(topic: str, machine: str, time_ms: int, more: Mapping[str, Any]) -> Record:
    """What a producer that knows Faultline writes."""
    body = json.dumps({"machine": machine, "time": time_ms, **more}).encode()
    return Record(topic, partition_of(machine.encode(), PARTITIONS), 0, time_ms, machine.encode(), body)


class IngestProcess(ForkedProcess):
    """One life of `faultline ingest`."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        super().__init__(run_forked, environment, log)

    def end(self) -> None:
        """Stop in order."""
        self.signal(signal.SIGTERM)
        code = self.wait(20)
        self.kill()
        assert code == 0, f"exit code {code}\n{self.text[-3000:]}"


class IngestSite:
    """A plant whose producers know nothing of Faultline."""

    def __init__(
        self, bootstrap: str, folder: Path, *, plant: str = PLANT, partitions: int = 3, **settings: Any
    ) -> None:
        """`partitions` is how many foreign topics have; braces in `plant` are doubled, {name} is this site's own."""
        self.name = f"field-{os.getpid()}-{next(_numbers)}"
        self.folder = folder
        self.foreign_partitions = partitions
        self.profile_text = plant.replace("SITE", self.name)
        self.profile = parse_profile(self.profile_text, where="test")
        self._profile_file = folder / f"{self.name}.yaml"
        self._profile_file.write_text(self.profile_text)
        self.settings = load_settings(
            **{
                "broker": f"kafka://{bootstrap}",
                "topic_prefix": f"{self.name}.ours.",
                "group": self.name,
                "partitions": PARTITIONS,
                "profile": str(self._profile_file),
                "web_port": 0,
                "chunk_records": 40,
                "commit_interval_ms": 100,
                "session_timeout_ms": 6_000,
                "log_level": "info",
            }
            | settings
        )
        create_topics(bootstrap, topic_specs(self.settings, self.profile))
        names = [topic.removeprefix("/") for topic in ingest_topics(self.profile)]
        create_topics(bootstrap, [TopicSpec(topic, partitions, config=KEPT) for topic in names])

    def write(self, records: Iterable[Record], *, commit: bool | None = None) -> None:
        """Append to topics, foreign ones too, in the given order; with `commit` in a transaction that ends so."""

        async def publish() -> None:
            name = None if commit is None else f"{self.name}-producer"
            publisher = KafkaPublisher(self.settings.address, self.settings.topic_prefix, transactional_id=name)
            await publisher.start()
            producer: Any = publisher._producer
            if commit is not None:
                await producer.begin_transaction()
            await publisher.publish([Output(r.topic, r.partition, r.key, r.value, r.timestamp_ms) for r in records])
            await publisher.flush()
            if commit is not None:
                await (producer.commit_transaction() if commit else producer.abort_transaction())
            await publisher.stop()

        asyncio.run(publish())

    def recreate(self) -> None:
        """Delete the foreign topics, and create them again."""
        names = [topic.removeprefix("/") for topic in ingest_topics(self.profile)]
        admin = KafkaAdminClient(bootstrap_servers=self.settings.address)
        try:
            admin.delete_topics(names)
            wait_until(lambda: not set(names) & set(admin.list_topics()))
        finally:
            admin.close()
        create_topics(self.settings.address, [TopicSpec(name, self.foreign_partitions, config=KEPT) for name in names])

    def environment(self, **settings: Any) -> dict[str, str]:
        wanted: dict[str, Any] = self.settings.model_dump(exclude_none=True, exclude_defaults=True) | settings
        return {
            f"FAULTLINE_{name.upper()}": f"{value}ms" if name.endswith("_ms") else str(value)
            for name, value in wanted.items()
        }

    def ingest(
        self, at: tuple[str, int] | None = None, *, mqtt: str | None = None, pace_s: float = 0.0, **settings: Any
    ) -> IngestProcess:
        """Start a process; it dies when it comes to a point for the n-th time (tests/support/mortal_ingest.py)."""
        environment = self.environment(**settings) | {"CHAOS_PACE_S": str(pace_s)}
        if at is not None:
            environment |= {"CHAOS_POINT": at[0], "CHAOS_HIT": str(at[1])}
        if mqtt is not None:
            environment["CHAOS_MQTT"] = mqtt
        return IngestProcess(environment, self.folder / f"ingest-{next(_numbers)}.log")

    def left(self) -> int:
        """Foreign records whose offsets are not committed yet."""
        consumer = KafkaConsumer(
            bootstrap_servers=self.settings.address, group_id=self.settings.of_ingest.group, enable_auto_commit=False
        )
        try:
            names = [topic.removeprefix("/") for topic in ingest_topics(self.profile)]
            places = [TopicPartition(name, p) for name in names for p in range(self.foreign_partitions)]
            ends = consumer.end_offsets(places)
            return sum(ends[place] - (consumer.committed(place) or 0) for place in places)
        finally:
            consumer.close()

    def committed(self, *topics: str) -> list[Record]:
        """What a reader of committed records finds in our topics, partition after partition."""
        found: list[Record] = []
        consumer = KafkaConsumer(
            bootstrap_servers=self.settings.address,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        try:
            for topic in topics:
                name = self.settings.topic_prefix + topic
                places = [TopicPartition(name, partition) for partition in range(PARTITIONS)]
                consumer.assign(places)
                consumer.seek_to_beginning(*places)
                ends = consumer.end_offsets(places)  # of committed records
                while any(consumer.position(place) < ends[place] for place in places):
                    for records in consumer.poll(timeout_ms=500).values():
                        found += [
                            Record(topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
                            for r in records
                        ]
        finally:
            consumer.close()
        return found

    def finish(self, seconds: float = 60.0, **settings: Any) -> None:
        """Let one process work until everything is committed, then stop it in order."""
        process = self.ingest(chunk_records=1_000, **settings)
        try:
            wait_until(lambda: not process.alive or self.left() == 0, seconds)
            assert process.alive, process.text[-3000:]
            process.end()
        finally:
            process.kill()


def contents(records: Iterable[Record]) -> Counter[Any]:
    """How often each canonical message is there."""
    return Counter((r.topic, r.partition, r.key, r.timestamp_ms, str(json.loads(r.value or b""))) for r in records)


def origins(letters: Iterable[Record]) -> Counter[Any]:
    """How often each dead letter is there, by the place that it names."""
    return Counter(origin.place for letter in letters if (origin := origin_of(letter.headers)) is not None)


def diagnoses_of(plant: str, records: Sequence[Record]) -> dict[str, list[Record]]:
    """What a worker says about records, in memory."""

    async def work() -> dict[str, list[Record]]:
        memory = Plant(plant, PARTITIONS)
        memory.place(records)
        await memory.live(seconds=300)
        return memory.said()

    return asyncio.run(work())


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for what processes bring about."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not so within {seconds:.0f} s")
        time.sleep(0.1)
