"""A console's book follows a real Kafka: transactions, a loss of the broker, topics that come and come again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from agents.bench.local_kafka.broker import KafkaBroker
from agents.console.book.console_book import ConsoleBook
from agents.console.reading.follower import Follower
from agents.console.reading.kafka import kafka_source
from pipeline.config.topics import DIAGNOSES
from pipeline.wire.records import Record
from tests.support.console_records import PROFILE, Log, tile
from tests.support.delivery_apps import run
from tests.support.kafka_plant import KafkaSite

pytestmark = pytest.mark.kafka


def keyed(record: Record) -> Record:
    return record._replace(key=b"pump-1")


async def until(follower: Follower, book: ConsoleBook, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 40
    while not is_so():
        assert time.monotonic() < deadline, book.status()
        await follower.changed(book.version, 0.2)


def test_a_book_follows_over_a_loss_of_the_broker_and_a_topic_that_is_created_again(
    broker: KafkaBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.console.reading.kafka._LOOK_SECONDS", 0.2)
    site = KafkaSite(broker.bootstrap, text=PROFILE)
    site.delete("plant")
    book, log = ConsoleBook(site.profile), Log()

    def state() -> str:
        return tile(book, "pump-1").state

    async def main() -> None:
        async with site.producer(transactional_id=site.name("t")) as client:
            await client.begin_transaction()
            await site.send_one(client, keyed(log.diagnosis("pump-1", 0)))
            await client.commit_transaction()
            await client.begin_transaction()
            await site.send_one(client, keyed(log.diagnosis("pump-1", 1, "jam")))
            await client.abort_transaction()
        await site.send([keyed(log.alarm("pump-1", 0, "leak", "raised")), keyed(log.forget("pump-9", 5))])
        follower = Follower(kafka_source(site.settings, site.profile), book)
        await follower.start()
        try:
            assert await follower.caught_up(20), book.status()
            assert (state(), book.status().behind, list(book.status().missing_topics)) == ("normal", 0, ["plant"])
            assert len(book.alarms().active) == 1
            await until(follower, book, lambda: book.data().sources != [])
            control = next(row for row in book.data().sources if row.topic == "control")
            assert (control.exists, control.partitions, control.lag) == (True, 2, 1)

            await asyncio.to_thread(broker.stop)
            await until(follower, book, lambda: not book.status().connected)
            assert book.status().away_since_wall_ms is not None and follower.failed is None
            await asyncio.to_thread(broker.restart)
            await site.send([keyed(log.diagnosis("pump-1", 2, "leak"))])
            await until(follower, book, lambda: state() == "fault" and book.status().connected)
            records = {row.topic: row.records for row in book.data().topics}
            assert (records[DIAGNOSES], records["alarms"]) == (2, 1)

            await asyncio.to_thread(site.create)
            await site.send([keyed(log.area("hall", 2, ("utility", "water", "leak")))])
            await until(follower, book, lambda: book.plant().areas[0].utilities[0].state == "fault")
            await asyncio.to_thread(site.recreate, "diagnoses")
            await site.send([keyed(log.diagnosis("pump-1", 3))])
            await until(follower, book, lambda: state() == "normal" and book.status().caught_up)
        finally:
            await follower.stop()

    run(main(), seconds=120)
