"""The broker inside the process: its logs, and rebalances as Faust's own assignor decides them."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiokafka.partitioner import DefaultPartitioner

from agents.delivery.partitioning import partition_of
from agents.memory.broker import MemoryBroker
from agents.memory.transport import register
from pipeline.errors import TopicMismatchError
from tests.support.delivery_apps import PREFIX, Reader, memory_broker, run, until

SENSORS = PREFIX + "sensors"


def test_records_get_offsets_in_the_order_of_appending() -> None:
    broker = MemoryBroker()
    broker.create("topic", 2)
    assert [broker.append("topic", 1, b"k", b"%d" % i, i, (("h", b"v"),)) for i in range(3)] == [0, 1, 2]
    assert broker.log("topic", 0) == []
    last = broker.log("topic", 1)[-1]
    assert last == ("topic", 1, 2, 2, b"k", b"2", (("h", b"v"),))
    broker.log("topic", 1).clear()
    assert len(broker.log("topic", 1)) == 3


def test_keys_go_where_kafka_puts_them() -> None:
    broker = MemoryBroker()
    broker.create("topic", 7)
    partitioner = DefaultPartitioner()
    for i in range(100):
        key = b"machine-%d" % i
        broker.append("topic", None, key, None, 0)
        expected = partitioner(key, [*range(7)], [*range(7)])
        assert partition_of(key, 7) == expected
        assert broker.log("topic", expected)[-1].key == key
    broker.append("topic", None, None, b"no key", 0)
    assert broker.log("topic", 0)[-1].value == b"no key"


def test_what_does_not_exist_is_an_error() -> None:
    broker = MemoryBroker()
    broker.create("topic", 2)
    broker.create("topic", 2)
    with pytest.raises(TopicMismatchError, match="2 partitions, not 3"):
        broker.create("topic", 3)
    with pytest.raises(TopicMismatchError, match="no topic nowhere"):
        broker.append("nowhere", 0, None, None, 0)
    with pytest.raises(TopicMismatchError, match="no partition 2"):
        broker.append("topic", 2, None, None, 0)
    broker.delete("topic")
    assert broker.partitions_for_topic("topic") is None


def test_a_name_stands_for_one_broker_until_it_is_forgotten() -> None:
    broker = MemoryBroker.named("one")
    assert MemoryBroker.named("one") is broker
    MemoryBroker.forget("one")
    assert MemoryBroker.named("one") is not broker
    MemoryBroker.forget("one")
    MemoryBroker.forget("one")


def test_waiting_for_records_ends_with_the_first() -> None:
    async def test() -> None:
        broker = MemoryBroker()
        broker.create("topic", 1)
        waiting = [asyncio.create_task(broker.wait_for_records(10)) for _ in range(2)]
        await asyncio.sleep(0)
        broker.append("topic", 0, None, None, 0)
        began = time.perf_counter()
        await asyncio.gather(*waiting)
        assert time.perf_counter() - began < 1
        await broker.wait_for_records(0.01)

    run(test())


def test_a_group_rebalances_when_members_come_go_and_die(tmp_path: Path) -> None:
    register()
    register()
    run(_members(tmp_path))


async def _members(folder: Path) -> None:
    address, broker = memory_broker(partitions=6)
    first, second, third = (Reader(address, folder, topic_partitions=6) for _ in range(3))
    other = Reader(address, folder, group="other", topic_partitions=6)

    def shared(*readers: Reader) -> bool:
        """Whether each has as many partitions as the others, and all together have all."""
        owned = sorted(partition for reader in readers for partition in reader.partitions)
        return owned == [0, 1, 2, 3, 4, 5] and len({len(reader.partitions) for reader in readers}) == 1

    async with AsyncExitStack() as running:
        for reader in (first, second, third, other):  # all at once: rebalances fall into one another
            running.push_async_callback(reader.app.stop)
            await reader.app.start()
        await until(lambda: shared(first, second, third) and shared(other))
        for partition in range(6):
            broker.append(SENSORS, partition, b"k", b"v", 1)
        await until(lambda: len(first.records + second.records + third.records) == len(other.records) == 6)
        # No interval of polling passes before a record is there.
        began = time.perf_counter()
        broker.append(SENSORS, 0, b"k", b"v", 2)
        await until(lambda: len(other.records) == 7)
        assert time.perf_counter() - began < 0.2
        await first.app.stop()
        await until(lambda: shared(second, third))
        broker.kill(second.app)
        await until(lambda: shared(third))
        broker.append(SENSORS, 3, b"k", b"last", 3)
        await until(lambda: third.records and third.records[-1].value == b"last")
        assert all(record.value != b"last" for record in second.records)
    assert broker.committed("faultline") == broker.committed("other")
