"""Delivery through a real Faust app on the memory transport: order, commits, restarts, crashes and rebalances."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import faust
import pytest

from agents.delivery.app import Tables
from agents.delivery.groups import install
from agents.delivery.merging import TP, Chunk, Limits
from agents.memory.broker import MemoryBroker
from tests.support.delivery_apps import PREFIX, TOPICS, Reader, memory_broker, places, run, until

SENSORS = PREFIX + "sensors"
EVENTS = PREFIX + "events"


def fill(broker: MemoryBroker, count: int, partitions: int = 2, start: int = 0) -> None:
    """Readings in all partitions, and a text in time with every tenth."""
    for time in range(start, start + count):
        for partition in range(partitions):
            broker.append(SENSORS, partition, b"machine", b"reading", time)
            if time % 10 == 0:
                broker.append(EVENTS, partition, b"machine", b"text", time)


def in_order(reader: Reader, partition: int) -> bool:
    """Whether a partition's records came in the order of time, readings before texts of the same time."""
    order = [(r.timestamp_ms, TOPICS.index(r.topic), r.offset) for r in reader.records if r.partition == partition]
    return order == sorted(order)


def test_topics_come_merged_and_only_what_is_acked_is_not_read_again(tmp_path: Path) -> None:
    run(_merged_and_acked(tmp_path))


async def _merged_and_acked(folder: Path) -> None:
    address, broker = memory_broker()
    fill(broker, 100)
    limits = Limits(chunk_records=40, chunks_in_flight=3)
    async with Reader(address, folder, acks=False, limits=limits).running() as first:
        consumer = first.app.consumer
        # Three chunks are out; no more come until one is processed, and nothing is committed.
        await until(lambda: len(first.chunks) == 3)
        await asyncio.sleep(0.2)
        assert len(first.chunks) == 3
        assert broker.committed("faultline") == {}
        assert sum(consumer.lag().values()) == 220
        first.chunks[0].processed = True
        await until(lambda: len(first.chunks) == 4)
        assert sum(consumer.lag().values()) == 220 - len(first.chunks[0].records)
        assert set(consumer.held_offsets.values()) == {0}
        for chunk in first.chunks[1:]:
            chunk.processed = True
        await until(lambda: len(first.records) == 220)
        for chunk in first.chunks:
            chunk.processed = True
        assert sum(consumer.lag().values()) == 0
        assert in_order(first, 0) and in_order(first, 1)
        # Acks out of order commit nothing past the hole.
        first.events[1].ack()
        first.events[3].ack()
        await asyncio.sleep(0.2)
        assert broker.committed("faultline") == {}
        first.events[0].ack()
        expected = {**first.chunks[0].next_offsets, **first.chunks[1].next_offsets}
        await until(lambda: broker.committed("faultline") == expected)
        assert consumer.held_offsets == {**dict.fromkeys(consumer.positions, 0), **expected}
    assert broker.committed("faultline") == expected
    fill(broker, 20, start=100)
    async with Reader(address, folder, limits=limits).running() as second:
        await until(lambda: not any(second.app.consumer.lag().values()) and second.chunks)
        again = [place for chunk in first.chunks[:2] for place in places(chunk.records)]
        assert set(places(second.records)).isdisjoint(again)
        assert len(second.records) == 220 + 44 - len(again)
        assert in_order(second, 0) and in_order(second, 1)
    assert broker.committed("faultline") == {
        TP(topic, partition): broker.end(TP(topic, partition)) for topic in (SENSORS, EVENTS) for partition in (0, 1)
    }


def test_an_agent_that_raises_loses_nothing(tmp_path: Path) -> None:
    run(_agent_raises(tmp_path))


async def _agent_raises(folder: Path) -> None:
    address, broker = memory_broker()
    fill(broker, 50)

    def fail_on_the_third(chunk: Chunk) -> None:
        if len(first.chunks) == 3:
            raise RuntimeError("the agent is broken")

    limits = Limits(chunk_records=20)
    first = Reader(address, folder, limits=limits, handle=fail_on_the_third)
    async with first.running():
        await until(lambda: len(first.chunks) > 3)  # Faust starts the agent again, after the chunk that failed
        await asyncio.sleep(0.2)
    acked = {**first.chunks[0].next_offsets, **first.chunks[1].next_offsets}
    assert broker.committed("faultline") == acked
    async with Reader(address, folder, limits=limits).running() as second:
        await until(lambda: len(second.records) == 110 - sum(len(chunk.records) for chunk in first.chunks[:2]))
        assert set(places(first.chunks[2].records)) <= set(places(second.records))


def test_two_workers_share_the_partitions_and_lose_nothing_when_one_dies(tmp_path: Path) -> None:
    run(_two_workers(tmp_path))


async def _two_workers(folder: Path) -> None:
    address, broker = memory_broker(partitions=4)
    fill(broker, 20, 4)
    first = Reader(address, folder, topic_partitions=4)
    second = Reader(address, folder, topic_partitions=4)
    dead = Reader(address, folder, topic_partitions=4, acks=False)
    async with first.running():
        await until(lambda: len(first.records) == 88)
        assert first.partitions == {0, 1, 2, 3}
        async with second.running():
            await until(lambda: len(first.partitions) == len(second.partitions) == 2)
            assert first.partitions.isdisjoint(second.partitions)
            # All topics of a partition number are with the same worker.
            assert {tp.topic for tp in second.app.consumer.assignment()} == {PREFIX + topic for topic in TOPICS}
            fill(broker, 20, 4, start=20)
            await until(lambda: len({*places(first.records), *places(second.records)}) == 176)
        await until(lambda: first.partitions == {0, 1, 2, 3})
        epoch = first.chunks[-1].epoch
        async with dead.running():
            await until(lambda: len(dead.partitions) == 2)
            fill(broker, 20, 4, start=40)
            await until(lambda: len(dead.records) == 44)
            taken = places(dead.records)
            broker.kill(dead.app)
            await until(lambda: set(taken) <= set(places(first.records)))
            for event in dead.events:
                event.ack()
            before = broker.committed("faultline")
            await dead.app.consumer.commit()
            assert broker.committed("faultline") == before
        assert first.chunks[-1].epoch > epoch
        await until(lambda: not any(first.app.consumer.lag().values()))
    everything = {(r.topic, r.partition, r.offset) for reader in (first, second) for r in reader.records}
    assert len(everything) == 264
    for topic in (SENSORS, EVENTS):
        for partition in range(4):
            assert broker.committed("faultline")[TP(topic, partition)] == broker.end(TP(topic, partition))


def test_a_commit_that_fails_is_made_up_for(tmp_path: Path) -> None:
    run(_commit_fails(tmp_path))


async def _commit_fails(folder: Path) -> None:
    address, broker = memory_broker(partitions=1)
    fill(broker, 10, 1)
    broker.faults.fail_commits = {1, 2}
    async with Reader(address, folder, topic_partitions=1).running() as reader:
        await until(lambda: broker.committed("faultline").get(TP(SENSORS, 0)) == 10)
        assert broker.faults.commits >= 3
        # No connection for a while: nothing comes, and then what was missed.
        broker.faults.connected = False
        fill(broker, 10, 1, start=10)
        await asyncio.sleep(0.2)
        assert len(reader.records) == 11
        broker.faults.connected = True
        await until(lambda: len(reader.records) == 22)
        assert len(set(places(reader.records))) == 22


def test_tables_recover_beside_chunks(tmp_path: Path) -> None:
    run(_tables(tmp_path))


async def _tables(folder: Path) -> None:
    address, broker = memory_broker()

    def counting(group: str) -> tuple[Reader, Any]:
        def count(chunk: Chunk) -> None:
            for record in chunk.records:
                table[f"{record.topic}-{record.partition}"] = record.offset

        reader = Reader(address, folder, group=group, handle=count)
        table = reader.app.Table("last", default=int, partitions=2, use_partitioner=True)
        return reader, table

    fill(broker, 50)
    first, table = counting("tables")
    async with first.running():
        await until(lambda: len(first.records) == 110)
        expected = {"sensors-0": 49, "sensors-1": 49, "events-0": 4, "events-1": 4}
        assert dict(table.items()) == expected
    second, table = counting("tables")
    async with second.running():
        await until(lambda: dict(table.items()) == expected)
        fill(broker, 1, start=50)
        await until(lambda: len(second.records) == 4)
        assert places(second.records)[0][2] in (50, 5)


def test_plain_streams_ack_by_themselves_and_other_topics_come_as_faust_has_them(tmp_path: Path) -> None:
    run(_plain_streams(tmp_path))


async def _plain_streams(folder: Path) -> None:
    address, broker = memory_broker()
    broker.create("other", 2)
    reader = Reader(address, folder, group="plain", topics=("sensors",), limits=Limits(chunk_records=10))
    plain: list[bytes] = []
    chunks: list[Chunk] = []
    app = faust.App("plain-2", broker=address, datadir=str(folder / "plain"), store="memory://", **_QUIET)
    install(app, [["events"]], PREFIX, Limits(chunk_records=3, chunks_in_flight=1))

    async def each(stream: Any) -> None:
        nonlocal plain
        async for event in stream.events():
            plain += [event.value]

    async def chunked(stream: Any) -> None:
        nonlocal chunks
        async for event in stream.events():
            chunks += [event.value]

    app.agent(app.topic("other", value_type=bytes, value_serializer="raw"))(each)
    app.agent(app.topic(EVENTS, value_type=bytes, value_serializer="raw"))(chunked)
    fill(broker, 100)
    for i in range(7):
        broker.append("other", i % 2, None, str(i).encode(), i)
    async with reader.running():
        await app.start()
        await until(lambda: len(plain) == 7 and sum(len(chunk.records) for chunk in chunks) == 20)
        await until(lambda: len(reader.records) == 200)
        await app.stop()
    assert sorted(plain) == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]
    assert broker.committed("plain-2") == {
        TP("other", 0): 4,
        TP("other", 1): 3,
        TP(EVENTS, 0): 10,
        TP(EVENTS, 1): 10,
    }


_QUIET: dict[str, Any] = {
    "TableManager": Tables,
    "broker_commit_interval": 0.05,
    "stream_wait_empty": False,
    "topic_disable_leader": True,
    "web_enabled": False,
    "autodiscover": False,
    "loghandlers": [],
}


def test_a_topic_is_in_one_group_only() -> None:
    app = faust.App("twice", broker="memory://twice", **_QUIET)
    with pytest.raises(ValueError, match="one group"):
        install(app, [["sensors", "events"], ["events"]], PREFIX)
