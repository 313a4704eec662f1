"""A small plant on a real Kafka: its topics made, deleted and made again, any producer's records, and a worker."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from agents.delivery.partitioning import partition_function
from agents.kafka.admin import create_topics
from agents.kafka.log import kafka_log
from agents.kafka.topics import WANTED_LIMITS, RecordLimits, topic_specs
from agents.worker.service import kafka_worker
from agents.worker.worker import Worker
from pipeline.config.profile import parse_profile
from pipeline.config.settings import load_settings
from pipeline.wire.messages import Diagnosis, decode_diagnosis
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, SumRunner, reading

FRAME_MS = 10_000
T = 1_763_600_000_000

_numbers = itertools.count()


class KafkaSite:
    """The topics of a plant with one source, and workers that diagnose its machines."""

    def __init__(self, bootstrap: str, *, partitions: int = 2, text: str = ONE_SOURCE, **settings: Any) -> None:
        name = f"site-{os.getpid()}-{next(_numbers)}"
        self.settings = load_settings(
            **{
                "broker": f"kafka://{bootstrap}",
                "topic_prefix": f"{name}.",
                "group": name,
                "partitions": partitions,
                "web_port": 0,
                "chunk_records": 50,
                "checkpoint_interval_ms": 100,
                "commit_interval_ms": 50,
                "tick_interval_ms": 3_600_000,
            }
            | settings
        )
        self.bootstrap = bootstrap
        self.profile = parse_profile(text, where="test")
        self.partition_of: Callable[[bytes], int] = partition_function(partitions)
        self.create()

    def name(self, topic: str) -> str:
        """A topic's name on the broker."""
        return self.settings.topic_prefix + topic

    def create(self) -> None:
        """Create the topics that are missing."""
        create_topics(self.bootstrap, topic_specs(self.settings, self.profile))

    def delete(self, *topics: str) -> None:
        """Delete topics, and wait until they are gone."""
        delete_topics(self.bootstrap, [self.name(topic) for topic in topics])

    def widen(self, partitions: int, *topics: str) -> None:
        """Give topics more partitions, all of them if none is named, as `kafka-topics --alter` does."""
        names = [self.name(topic) for topic in topics]
        names = names or [spec.name for spec in topic_specs(self.settings, self.profile)]
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            counts = {one["name"]: len(one["partitions"]) for one in admin.describe_topics(names)}
            admin.create_partitions({name: partitions for name in names if counts[name] < partitions})
            deadline = time.monotonic() + 20
            while any(len(one["partitions"]) < partitions for one in admin.describe_topics(names)):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            admin.close()

    def recreate(self, *topics: str) -> None:
        """Delete topics and create them again."""
        self.delete(*topics)
        self.create()

    def configure(self, topic: str, settings: dict[str, str]) -> None:
        """Change settings of a topic, and wait until they are in force."""
        name, deadline = self.name(topic), time.monotonic() + 20
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, settings)])
            wanted = ConfigResource(ConfigResourceType.TOPIC, name, list(settings))
            while settings != {
                key: one["value"] for key, one in admin.describe_configs([wanted], "all")["topic"][name].items()
            }:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            admin.close()

    async def send(self, records: Iterable[Record], **producer: Any) -> None:
        """Produce with a client of its own, `producer` being its settings."""
        async with self.producer(**producer) as client:
            for record in records:
                await self.send_one(client, record)

    @asynccontextmanager
    async def producer(self, **settings: Any) -> AsyncIterator[AIOKafkaProducer]:
        """A producer that knows nothing of us."""
        client = AIOKafkaProducer(bootstrap_servers=self.bootstrap, **settings)
        await client.start()
        try:
            yield client
        finally:
            await client.stop()

    async def send_one(self, client: AIOKafkaProducer, record: Record) -> None:
        """Into the partition of its key."""
        assert record.key is not None
        await client.send(
            self.name(record.topic),
            record.value,
            key=record.key,
            partition=self.partition_of(record.key),
            timestamp_ms=record.timestamp_ms,
        )

    @asynccontextmanager
    async def working(
        self, limits: RecordLimits = WANTED_LIMITS, wall_seconds: Callable[[], float] = time.time
    ) -> AsyncIterator[Worker]:
        """A worker, stopped in order in the end."""
        runners = {"pump": SumRunner()}
        worker = kafka_worker(
            self.settings, self.profile, runners, self.partition_of, limits=limits, wall_seconds=wall_seconds
        )
        await worker.start()
        try:
            yield worker
        finally:
            await worker.stop()

    async def diagnoses(self) -> list[Diagnosis]:
        """All that are in the topic, by machine and time."""
        records = await asyncio.to_thread(self.records, "diagnoses")
        found = [decode_diagnosis(record.value) for record in records if record.value is not None]
        return sorted(found, key=lambda one: (one.machine, one.frame_end))

    def records(self, topic: str) -> list[Record]:
        """All records of a topic, as our commands read them."""
        with kafka_log(self.settings, [topic]) as log:
            return list(log.records(topic))


def delete_topics(bootstrap: str, names: Sequence[str]) -> None:
    """Delete topics, and wait until they are gone."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.delete_topics(names)
        deadline = time.monotonic() + 20
        while any(topic["partitions"] for topic in admin.describe_topics(names)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        admin.close()


def readings(machine: str, frames: int, *, start_ms: int = T, value: float = 1.0) -> list[Record]:
    """One reading a second for so many frames, and one behind the disorder that is allowed."""
    times = range(start_ms, start_ms + frames * FRAME_MS, 1_000)
    last = start_ms + frames * FRAME_MS + 6_000
    return [reading(machine, time_ms, [value, value + (time_ms % 7)]) for time_ms in (*times, last)]


def event(machine: str, time_ms: int, text: str) -> Record:
    """An operator's text."""
    value = json.dumps({"machine": machine, "time": time_ms, "text": text, "id": f"e{time_ms}"}).encode()
    return Record("events", 0, 0, time_ms, machine.encode(), value)


def metric(worker: Worker, name: str, **labels: str) -> float:
    """The value of a metric."""
    value = worker.registry.get_sample_value(name, labels)
    assert value is not None, f"no metric {name} {labels}"
    return value


async def processed(worker: Worker, records: int, topic: str = "sensors", seconds: float = 30.0) -> None:
    """Wait until the worker has read so many records of a topic, and has saved and committed that."""
    deadline = time.monotonic() + seconds
    while metric(worker, "faultline_records_total", topic=topic) < records or any(worker.lag().values()):
        assert worker.life.failure is None, worker.life.failure
        assert time.monotonic() < deadline, (metric(worker, "faultline_records_total", topic=topic), worker.lag())
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.4)


def ends(found: Sequence[Diagnosis], machine: str) -> list[Any]:
    """The ends of the frames of a machine that were diagnosed, each once: repeats are allowed."""
    return list(dict.fromkeys(one.frame_end for one in found if one.machine == machine))
