"""Delivery on a real Kafka: catch-up in the order of time, live latency, commits, and two workers of one group."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.delivery.merging import TP, Limits
from agents.kafka.publisher import KafkaPublisher
from pipeline.wire.records import Output
from tests.support.delivery_apps import TOPICS, Reader, places, run, until

pytestmark = pytest.mark.kafka
PARTITIONS = 4
KEEP = {"retention.ms": "-1"}  # a broker deletes records with old time stamps within minutes


async def create_topics(bootstrap: str) -> str:
    """Create the engine's topics under a new prefix and return it."""
    prefix = f"t{uuid.uuid4().hex[:8]}."
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(prefix + topic, PARTITIONS, 1, topic_configs=KEEP) for topic in TOPICS])
    await admin.close()
    return prefix


async def committed(bootstrap: str, group: str, prefix: str) -> dict[TP, int]:
    """What a group has committed."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group)
    await consumer.start()
    offsets = {}
    for topic in TOPICS:
        for partition in range(PARTITIONS):
            offset = await consumer.committed(TopicPartition(prefix + topic, partition))
            if offset is not None:
                offsets[TP(topic, partition)] = offset
    await consumer.stop()
    return offsets


def history(count: int, begin_ms: int = 1_700_000_000_000) -> list[Output]:
    """Readings in all partitions, a text in time with every hundredth, a tick with every thousandth."""
    outputs = []
    for i in range(count):
        partition, now = i % PARTITIONS, begin_ms + i
        outputs.append(Output("sensors", partition, b"machine", b"reading", now))
        if i % 100 < PARTITIONS:
            outputs.append(Output("events", partition, b"machine", b"text", now))
        if i % 1_000 < PARTITIONS:
            outputs.append(Output("control", partition, None, b"tick", now))
    return outputs


async def publish(bootstrap: str, prefix: str, outputs: list[Output]) -> None:
    publisher = KafkaPublisher(bootstrap, prefix)
    await publisher.start()
    await publisher.publish(outputs)
    await publisher.flush()
    await publisher.stop()


def in_order(reader: Reader) -> bool:
    """Whether every partition came in the order of time."""
    return all(
        order == sorted(order)
        for partition in range(PARTITIONS)
        if (order := [(r.timestamp_ms, TOPICS.index(r.topic)) for r in reader.records if r.partition == partition])
    )


def test_a_backlog_in_one_partition_does_not_keep_the_others_waiting(kafka: str, tmp_path: Path) -> None:
    run(_backlogs(kafka, tmp_path))


async def _backlogs(kafka: str, folder: Path) -> None:
    prefix = await create_topics(kafka)
    outputs = [output for output in history(8_000) if output.topic == "sensors"]
    await publish(kafka, prefix, outputs)
    limits = Limits(chunk_records=10, buffered_records=20)
    reader = Reader(f"kafka://{kafka}", folder, group=f"group-{prefix}", prefix=prefix, limits=limits)
    async with reader.running():
        await until(lambda: len(reader.records) >= 800)
        first = Counter(record.partition for record in reader.records[:800])
    assert min(first[partition] for partition in range(PARTITIONS)) >= 100, first


def test_catch_up_is_merged_by_time_and_a_restart_goes_on_where_acks_end(kafka: str, tmp_path: Path) -> None:
    run(_catch_up(kafka, tmp_path))


async def _catch_up(kafka: str, folder: Path) -> None:
    prefix = await create_topics(kafka)
    outputs = history(20_000)
    # Texts first and control last: nothing but time stamps can bring them into order.
    await publish(kafka, prefix, [o for o in outputs if o.topic == "events"])
    await publish(kafka, prefix, [o for o in outputs if o.topic == "sensors"])
    await publish(kafka, prefix, [o for o in outputs if o.topic == "control"])
    group, limits = f"group-{prefix}", Limits(chunk_records=1_000)
    first = Reader(f"kafka://{kafka}", folder, group=group, prefix=prefix, limits=limits, acks=False)
    async with first.running():
        while len(first.records) < len(outputs):
            await asyncio.sleep(0.01)
            for chunk in first.chunks:
                chunk.processed = True
        assert in_order(first)
        assert len(set(places(first.records))) == len(outputs)
        assert not any(first.app.consumer.lag().values())
        first.events[0].ack()
        first.events[1].ack()
        first.events[3].ack()
    acked = first.chunks[0].next_offsets | first.chunks[1].next_offsets
    assert await committed(kafka, group, prefix) == {
        TP(tp.topic[len(prefix) :], tp.partition): n for tp, n in acked.items()
    }
    second = Reader(f"kafka://{kafka}", folder, group=group, prefix=prefix, limits=limits)
    done = {place for chunk in first.chunks[:2] for place in places(chunk.records)}
    async with second.running():
        await until(lambda: len(second.records) >= len(outputs) - len(done))
        assert in_order(second)
        assert done.isdisjoint(places(second.records))
        # Live, with quiet texts: a reading is not kept waiting for longer than a fetch or two.
        publisher = KafkaPublisher(kafka, prefix)
        await publisher.start()
        delays = []
        for i in range(20):
            seen, began = len(second.records), time.perf_counter()
            now = int(time.time() * 1_000)
            await publisher.publish([Output("sensors", i % PARTITIONS, b"machine", b"live", now)])
            await until(lambda: len(second.records) > seen)  # noqa: B023
            delays.append(time.perf_counter() - began)
        await publisher.stop()
        assert sorted(delays)[10] < 0.2
    ends = await committed(kafka, group, prefix)
    assert sum(ends.values()) == len(outputs) + 20


def test_two_workers_share_and_hand_over_without_loss(kafka: str, tmp_path: Path) -> None:
    run(_two_workers(kafka, tmp_path), 90)


async def _two_workers(kafka: str, folder: Path) -> None:
    prefix = await create_topics(kafka)
    group = f"group-{prefix}"
    address = f"kafka://{kafka}"
    # Without standbys and tables stock Faust would deal out partitions without regard for their numbers.
    settings: dict[str, Any] = {"table_standby_replicas": 0, "broker_heartbeat_interval": 0.5}
    first, second, third = (Reader(address, folder, group=group, prefix=prefix, **settings) for _ in range(3))
    total = 0

    async def more() -> None:
        nonlocal total
        outputs = history(2_000, 1_700_000_000_000 + total)
        total += len(outputs)
        await publish(kafka, prefix, outputs)

    def seen() -> set[tuple[str, int, int]]:
        return {*places(first.records), *places(second.records), *places(third.records)}

    await more()
    async with first.running():
        await until(lambda: len(seen()) == total)
        async with second.running():
            await until(lambda: len(first.partitions) == len(second.partitions) == 2, 30)
            assert first.partitions.isdisjoint(second.partitions)
            assert len(second.app.consumer.assignment()) == 2 * len(TOPICS)
            await more()
            await until(lambda: len(seen()) == total)
            assert second.records
            await more()
        await until(lambda: first.partitions == set(range(PARTITIONS)), 30)
        await more()
        await until(lambda: len(seen()) == total)
        # Stopped in the middle of a rebalance, a worker neither hangs nor keeps its partitions.
        rebalances = first.app.rebalancing_count
        await third.app.start()
        await until(lambda: first.app.rebalancing_count > rebalances, 30)
        began = time.perf_counter()
    assert time.perf_counter() - began < 8
    try:
        await until(lambda: third.partitions == set(range(PARTITIONS)), 30)
        await more()
        await until(lambda: len(seen()) == total)
    finally:
        await third.app.stop()
    assert sum((await committed(kafka, group, prefix)).values()) == total
