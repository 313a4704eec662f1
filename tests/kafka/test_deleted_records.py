"""Records that the broker deleted before they could be read, and topics whose time stamps are the broker's."""

from __future__ import annotations

import asyncio

import pytest
from kafka import KafkaAdminClient, TopicPartition

from agents.bench.local_kafka.broker import KafkaBroker
from pipeline.wire.records import Record
from tests.support.delivery_apps import run
from tests.support.kafka_plant import FRAME_MS, KafkaSite, T, ends, metric, processed, readings

pytestmark = pytest.mark.kafka


def delete_before(site: KafkaSite, offsets: dict[int, int]) -> None:
    """Delete the oldest records of partitions of `sensors`, as retention does."""
    admin = KafkaAdminClient(bootstrap_servers=site.bootstrap)
    try:
        admin.delete_records({TopicPartition(site.name("sensors"), part): at for part, at in offsets.items()})
    finally:
        admin.close()


def test_what_retention_deleted_before_it_was_read_is_counted_and_said(
    kafka: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(_overtaken(kafka, caplog))


async def _overtaken(bootstrap: str, caplog: pytest.LogCaptureFixture) -> None:
    site = KafkaSite(bootstrap)
    first, more = readings("p1", 2), readings("p1", 6, start_ms=T + 2 * FRAME_MS + 7_000)
    await site.send(first)
    async with site.working() as worker:
        await processed(worker, len(first))
        assert metric(worker, "faultline_records_lost_total", topic="sensors") == 0
    await site.send(more)
    partition = site.partition_of(b"p1")
    await asyncio.to_thread(delete_before, site, {partition: len(first) + 30})
    caplog.clear()
    async with site.working() as worker:
        await processed(worker, len(more) - 30)
        assert metric(worker, "faultline_records_lost_total", topic="sensors") == 30
        assert metric(worker, "faultline_records_lost_total", topic="events") == 0
        assert metric(worker, "faultline_topics_recreated_total", topic="sensors") == 0
    lines = [one for one in caplog.messages if "deleted before they could be read" in one]
    (line,) = lines
    assert line.endswith(
        f"topic {site.name('sensors')}, partition {partition}: 30 records "
        f"(offsets {len(first)} to {len(first) + 29}) were deleted before they could be read"
    )
    # The machine goes on with its state, and what follows is diagnosed.
    found = await site.diagnoses()
    assert ends(found, "p1")[-1] >= more[-1].timestamp_ms - 2 * FRAME_MS
    assert all(one.reset is None for one in found[1:])


def test_markers_of_transactions_are_no_lost_records(kafka: str) -> None:
    run(_markers(kafka))


async def _markers(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    records = readings("p1", 3)
    async with site.working() as worker, site.producer(transactional_id=site.settings.group) as client:
        for part in (records[:8], records[8:20], records[20:]):
            async with client.transaction():
                for one in part:
                    await site.send_one(client, one)
            await client.begin_transaction()
            await site.send_one(client, part[0]._replace(value=b"never"))
            await client.flush()
            await client.abort_transaction()
            await asyncio.sleep(0.3)  # so that some fetches bring nothing but a marker
        await processed(worker, len(records))
        assert metric(worker, "faultline_records_lost_total", topic="sensors") == 0
    assert len(await site.diagnoses()) == 3


def test_time_stamps_of_the_broker_are_as_good(kafka: str) -> None:
    run(_stamped(kafka))


async def _stamped(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    await asyncio.to_thread(site.configure, "sensors", {"message.timestamp.type": "LogAppendTime"})
    await site.send(readings("p1", 3), compression_type="zstd")
    async with site.working() as worker:
        await processed(worker, len(readings("p1", 3)))
        assert metric(worker, "faultline_late_total", topic="sensors") == 0
    assert ends(await site.diagnoses(), "p1") == [T + n * FRAME_MS for n in range(1, 4)]


def test_a_record_without_a_time_stamp_is_a_dead_letter_that_says_so(kafka: str) -> None:
    run(_unstamped(kafka))


async def _unstamped(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    records = readings("p1", 2)
    async with site.producer() as client:
        batch = client.create_batch()
        batch.append(timestamp=-1, key=records[0].key, value=records[0].value)
        batch.close()
        sent = await client.send_batch(batch, site.name("sensors"), partition=site.partition_of(b"p1"))
        await sent
    await site.send(records[1:])
    async with site.working() as worker:
        await processed(worker, len(records))
    (letter,) = site.records("dead-letter")
    assert dict(letter.headers)["faultline-reason"] == b"bad_time"
    assert b"-1" in dict(letter.headers)["faultline-detail"]
    assert len(await site.diagnoses()) == 2


def test_a_broker_that_restarts_is_not_another_one(broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.worker.stateful.LOOK_SECONDS", 0.3)
    run(_restarted(broker))


async def _restarted(broker: KafkaBroker) -> None:
    site = KafkaSite(broker.bootstrap)
    first = readings("p1", 2)
    more: list[Record] = readings("p1", 2, start_ms=T + 2 * FRAME_MS + 7_000)
    await site.send(first)
    async with site.working() as worker:
        await processed(worker, len(first))
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(broker.restart)
        await site.send(more)
        await processed(worker, len(first) + len(more))
        await asyncio.sleep(1.0)  # it has looked at its topics again
        assert metric(worker, "faultline_topics_recreated_total", topic="sensors") == 0
        assert metric(worker, "faultline_records_lost_total", topic="sensors") == 0
        assert metric(worker, "faultline_skipped_total", topic="sensors") == 0
