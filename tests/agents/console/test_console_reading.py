"""A follower reads the topics of a broker in its process into a book, over losses of that broker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agents.console.book.console_book import ConsoleBook
from agents.console.reading.follower import Follower
from agents.console.reading.memory import memory_source
from agents.console.reading.source import Progress, Spans
from agents.delivery.merging import TP
from agents.memory.broker import MemoryBroker
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import DIAGNOSES, all_topics, full_topic_name
from pipeline.errors import AuthorizationError
from pipeline.wire.records import Record
from tests.support.area_plant import T0_MS
from tests.support.console_records import Log, plant, tile
from tests.support.delivery_apps import run

WALL_SECONDS = 1_793_592_360.0


class Site:
    """A memory broker with the topics of a plant, and a book that follows it."""

    def __init__(self) -> None:
        self.settings: Settings = load_settings(broker="memory://console", partitions=2)
        self.broker = MemoryBroker()
        self.book = ConsoleBook(plant())
        source = memory_source(self.broker, self.settings, self.book.profile)
        self.follower = Follower(source, self.book, wall_seconds=lambda: WALL_SECONDS)
        self.log = Log()

    def name(self, topic: str) -> str:
        return full_topic_name(self.settings.topic_prefix, topic)

    def create(self, *, without: str | None = None) -> None:
        for topic in all_topics(self.book.profile):
            if topic.name != without and self.broker.partitions_for_topic(self.name(topic.name)) is None:
                self.broker.create(self.name(topic.name), 2)

    def send(self, record: Record) -> None:
        self.broker.append(self.name(record.topic), 0, record.key, record.value, record.timestamp_ms)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Follower]:
        await self.follower.start()
        try:
            yield self.follower
        finally:
            await self.follower.stop()


def test_what_is_there_and_what_comes_is_folded_and_topics_that_do_not_exist_are_no_error() -> None:
    site = Site()
    site.create(without="plant")

    async def main() -> None:
        site.send(site.log.diagnosis("pump-1", 0))
        async with site.following() as follower:
            assert await follower.caught_up(5)
            status = site.book.status()
            assert status.connected and status.behind == 0 and list(status.missing_topics) == ["plant"]
            assert tile(site.book, "pump-1").state == "normal"
            before = site.book.version
            assert not await follower.changed(before, 0.01)
            site.send(site.log.diagnosis("pump-1", 1, "leak"))
            assert await follower.changed(before, 5)
            assert tile(site.book, "pump-1").state == "fault"
            site.create()
            site.send(site.log.area("hall", 1, ("utility", "water", "leak")))
            assert await follower.changed(site.book.version, 5)
            assert site.book.plant().areas[0].utilities[0].state == "fault"
            while site.book.status().missing_topics:
                assert await follower.changed(site.book.version, 5)

    run(main())


def test_a_broker_that_is_away_at_the_start_and_later_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.console.reading.follower._RETRY_SECONDS", 0.01)
    site = Site()
    site.create()
    site.broker.faults.connected = False

    async def main() -> None:
        async with site.following() as follower:
            status = site.book.status()
            assert not status.connected and not status.caught_up
            assert status.away_since_wall_ms == int(WALL_SECONDS * 1000)
            assert status.why is not None and "does not answer" in status.why
            site.send(site.log.diagnosis("pump-1", 0))
            site.broker.faults.connected = True
            assert await follower.caught_up(5)
            assert site.book.status().away_since_wall_ms is None
            site.broker.faults.connected = False
            while site.book.status().connected:
                assert await follower.changed(site.book.version, 5)
            site.send(site.log.diagnosis("pump-1", 1, "leak"))
            site.broker.faults.connected = True
            while not site.book.status().caught_up:
                assert await follower.changed(site.book.version, 5)
            assert tile(site.book, "pump-1").state == "fault"
            data = {row.topic: row for row in site.book.data().topics}
            assert data[DIAGNOSES].records == 2

    run(main())


def test_a_topic_that_is_created_again_is_read_from_its_beginning() -> None:
    site = Site()
    site.create()

    async def main() -> None:
        site.send(site.log.diagnosis("pump-1", 0))
        site.send(site.log.diagnosis("pump-1", 1))
        async with site.following() as follower:
            assert await follower.caught_up(5)
            site.broker.delete(site.name(DIAGNOSES))
            site.create()
            site.send(site.log.diagnosis("pump-1", 2, "leak"))
            assert await follower.changed(site.book.version, 5)
            assert tile(site.book, "pump-1").state == "fault"

    run(main())


def test_sources_have_the_lag_of_those_who_read_them_and_a_rate() -> None:
    site = Site()
    site.create()
    for number in range(6):
        site.broker.append(site.name("sensors"), number % 2, b"pump-1", b"{}", T0_MS)
    site.broker.group(site.settings.group).offsets[TP(site.name("sensors"), 0)] = 2
    site.broker.append(site.name("areas"), 0, b"hall", b"{}", T0_MS)

    async def main() -> None:
        async with site.following() as follower:
            while not (sources := site.book.data().sources):
                assert await follower.changed(site.book.version, 5)
            rows = {(row.topic, row.reader): row for row in sources}
            sensors = rows["sensors", "workers"]
            assert (sensors.holds, sensors.lag, sensors.partitions, sensors.exists) == ("readings", 4, 2, True)
            assert rows["events", "workers"].machine_types == ["pump"]
            assert sensors.measured_wall_ms == int(WALL_SECONDS * 1000)
            assert rows["areas", "plant"].lag == 1 and rows["events", "workers"].lag == 0
            assert site.book.status().lag == 5

    run(main())


class RefusedSource:
    """A broker that takes the right to read away."""

    async def start(self, since_ms: int) -> None:
        assert since_ms == int(WALL_SECONDS * 1000) - 3_600_000

    async def stop(self) -> None:
        self.stopped = True

    async def fetch(self) -> list[Record]:
        raise AuthorizationError("the right is gone")

    def created_again(self) -> list[str]:
        return []

    async def progress(self) -> Progress:
        return Progress()

    async def spans(self) -> Spans:
        raise AuthorizationError("the right is gone")


def test_what_can_never_work_again_ends_the_follower_and_is_said() -> None:
    book, source = ConsoleBook(plant()), RefusedSource()
    follower = Follower(source, book, back_ms=3_600_000, wall_seconds=lambda: WALL_SECONDS)

    async def main() -> None:
        await follower.start()
        while book.status().why is None:
            assert await follower.changed(book.version, 5)
        assert isinstance(follower.failed, AuthorizationError) and not book.status().connected
        await follower.stop()
        assert source.stopped

    run(main())
