"""One contract for publishers, proved on the memory broker and on a real Kafka; and Kafka's own ways to fail."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import DefaultPartitioner

from agents.delivery.publisher import Publisher
from agents.kafka.publisher import KafkaPublisher
from agents.memory.broker import MemoryBroker
from agents.memory.publisher import MemoryPublisher
from pipeline.errors import BrokerUnavailableError, DeliveryError
from pipeline.wire.records import Output, Record
from tests.support.delivery_apps import run

PARTITIONS = 4
KEEP = {"retention.ms": "-1"}  # a broker deletes records with old time stamps within minutes


class Place:
    """Somewhere to publish: makes publishers for a topic `out` under a prefix of its own, and reads it back."""

    def __init__(self, kafka: str | None) -> None:
        self.kafka = kafka
        self.prefix = f"t{uuid.uuid4().hex[:8]}."
        self.memory = MemoryBroker()

    async def publisher(self) -> Publisher:
        if self.kafka is None:
            self.memory.create(self.prefix + "out", PARTITIONS)
            return MemoryPublisher(self.memory, self.prefix)
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        await admin.create_topics([NewTopic(self.prefix + "out", PARTITIONS, 1, topic_configs=KEEP)])
        await admin.close()
        return KafkaPublisher(self.kafka, self.prefix, timeout_s=3)

    async def log(self, partition: int) -> list[Record]:
        topic = self.prefix + "out"
        if self.kafka is None:
            return self.memory.log(topic, partition)
        consumer = AIOKafkaConsumer(bootstrap_servers=self.kafka, auto_offset_reset="earliest")
        await consumer.start()
        tp = TopicPartition(topic, partition)
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        records: list[Record] = []
        while len(records) < end:
            for found in (await consumer.getmany(timeout_ms=1_000)).values():
                records += [
                    Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in found
                ]
        await consumer.stop()
        return records


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.getfixturevalue("kafka") if request.param == "kafka" else None)


def with_publisher(place: Place, test: Callable[[Publisher], Awaitable[None]]) -> None:
    async def started() -> None:
        publisher = await place.publisher()
        await publisher.start()
        try:
            await test(publisher)
        finally:
            await publisher.stop()

    run(started())


def test_everything_arrives_in_order_as_it_was(place: Place) -> None:
    async def test(publisher: Publisher) -> None:
        outputs = [
            Output("out", i % 3, b"key-%d" % i, b"value-%d" % i, 1_700_000_000_000 + i, (("reason", b"\x00x"),))
            for i in range(5_000)
        ]
        for begin in range(0, len(outputs), 700):
            await publisher.publish(outputs[begin : begin + 700])
        await publisher.publish([])
        await publisher.publish([Output("out", 3, None, None, 5)])
        await publisher.flush()
        for partition in range(3):
            log = await place.log(partition)
            mine = [output for output in outputs if output.partition == partition]
            assert [record[3:] for record in log] == [output[4:5] + output[2:4] + output[5:] for output in mine]
        assert [record[3:] for record in await place.log(3)] == [(5, None, None, ())]

    with_publisher(place, test)


def test_without_a_partition_the_key_decides_as_with_kafkas_own_producers(place: Place) -> None:
    keys = [b"machine-%d" % i for i in range(50)] + [b"", "Kühlung-7".encode()]

    async def test(publisher: Publisher) -> None:
        await publisher.publish([Output("out", None, key, key, 1) for key in keys])
        await publisher.publish([Output("out", None, None, b"no key", 1)])
        await publisher.flush()
        partitioner = DefaultPartitioner()
        for partition in range(PARTITIONS):
            values = [record.value for record in await place.log(partition)]
            mine = [key for key in keys if partitioner(key, [*range(PARTITIONS)], [*range(PARTITIONS)]) == partition]
            assert values == ([*mine, b"no key"] if partition == 0 else mine)

    with_publisher(place, test)


@pytest.mark.parametrize("bad", [Output("nowhere", None, b"k", b"v", 1), Output("out", PARTITIONS, b"k", b"v", 1)])
def test_what_has_no_place_raises_now_and_ever_after(place: Place, bad: Output) -> None:
    async def test(publisher: Publisher) -> None:
        await publisher.publish([Output("out", 0, b"k", b"good", 1)])
        with pytest.raises(DeliveryError, match=place.prefix + bad.topic):
            await publisher.publish([bad])
            await publisher.flush()
        with pytest.raises(DeliveryError, match=place.prefix + bad.topic):
            await publisher.flush()
        with pytest.raises(DeliveryError, match=place.prefix + bad.topic):
            await publisher.publish([Output("out", 0, b"k", b"after", 1)])

    with_publisher(place, test)


def test_the_memory_broker_fails_as_it_is_told() -> None:
    broker = MemoryBroker()
    broker.create("out", 1)
    broker.faults.fail_sends = {3}

    async def test() -> None:
        publisher = MemoryPublisher(broker)
        await publisher.start()
        with pytest.raises(DeliveryError, match="send 3"):
            await publisher.publish([Output("out", 0, None, b"%d" % i, i) for i in range(5)])
        with pytest.raises(DeliveryError, match="send 3"):
            await publisher.flush()
        again = MemoryPublisher(broker)
        await again.publish([Output("out", 0, None, b"again", 9)])
        await again.flush()
        assert [record.value for record in broker.log("out", 0)] == [b"0", b"1", b"again"]

    run(test())


@pytest.mark.kafka
def test_a_record_too_large_for_the_broker_is_named_with_its_size(kafka: str) -> None:
    place = Place(kafka)

    async def test(publisher: Publisher) -> None:
        await publisher.publish([Output("out", 0, None, b"x" * 900_000, 1), Output("out", 0, None, b"x", 2)])
        await publisher.flush()
        with pytest.raises(DeliveryError, match=rf"{place.prefix}out: a record of 2000\d\d\d bytes"):
            await publisher.publish([Output("out", 0, None, b"x" * 2_000_000, 1)])
        assert [len(record.value or b"") for record in await place.log(0)] == [900_000, 1]

    with_publisher(place, test)


@pytest.mark.kafka
def test_what_the_broker_refuses_raises_from_flush(kafka: str) -> None:
    place = Place(kafka)

    async def test() -> None:
        await place.publisher()
        publisher = KafkaPublisher(kafka, place.prefix, record_bytes=5_000_000)  # more than the broker takes
        await publisher.start()
        await publisher.publish([Output("out", 1, None, b"x" * 2_000_000, 1)])
        with pytest.raises(DeliveryError, match=rf"{place.prefix}out: a batch to partition 1 \(1 records, 2000\d\d\d"):
            await publisher.flush()
        await publisher.stop()

    run(test())


@pytest.mark.kafka
def test_memory_is_bounded_while_the_broker_is_slow(kafka: str) -> None:
    place = Place(kafka)

    async def test() -> None:
        await place.publisher()
        publisher = KafkaPublisher(kafka, place.prefix, in_flight_bytes=50_000)
        await publisher.start()
        for i in range(40):
            await publisher.publish([Output("out", j % PARTITIONS, None, b"x" * 1_000, i) for j in range(20)])
            assert publisher.in_flight <= 50_000
        await publisher.flush()
        assert publisher.in_flight == 0
        assert sum([len(await place.log(partition)) for partition in range(PARTITIONS)]) == 800
        await publisher.stop()

    run(test())


def test_without_a_broker_it_says_so() -> None:
    async def test() -> None:
        publisher = KafkaPublisher("127.0.0.1:1")
        with pytest.raises(DeliveryError, match="not started"):
            await publisher.publish([Output("out", 0, None, b"v", 1)])
        began = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
            await publisher.start()
        assert time.monotonic() - began < 30
        await publisher.stop()
        await asyncio.sleep(0)

    run(test())
