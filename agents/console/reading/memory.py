"""Reads the topics of a broker in this process, for a demo or a replay that runs beside the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agents.console.reading.source import (
    INGEST,
    PLANT_AGENT,
    Progress,
    Span,
    Spans,
    folded_topics,
    input_sources,
    readers,
)
from agents.delivery.merging import TP
from agents.memory.broker import MemoryBroker
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import full_topic_name
from pipeline.errors import BrokerUnavailableError
from pipeline.wire.records import Record

_FETCH_RECORDS = 500
_WAIT_SECONDS = 0.1


class MemorySource:
    """All records of a memory broker, from the beginning on."""

    def __init__(self, broker: MemoryBroker, settings: Settings, profile: PlantProfile) -> None:
        self._broker = broker
        self._settings = settings
        self._topics = {full_topic_name(settings.topic_prefix, topic): topic for topic in folded_topics(profile)}
        self._readers = readers(input_sources(profile))
        self._positions: dict[TP, int] = {}
        self._again: list[str] = []

    async def start(self, since_ms: int) -> None:
        """Raises BrokerUnavailableError if it does not answer."""
        await self._answer()

    async def stop(self) -> None:
        """Nothing to do."""

    async def fetch(self) -> Sequence[Record]:
        """The next records, or none after a moment; raises BrokerUnavailableError."""
        await self._answer()
        found = self._read()
        if not found and not self._again:
            await self._broker.wait_for_records(_WAIT_SECONDS)
            await self._answer()
            found = self._read()
        return found

    async def _answer(self) -> None:
        try:
            await self._broker.faults.before_fetch()
        except ConnectionError as error:
            raise BrokerUnavailableError(str(error)) from error

    def _partitions(self) -> list[TP]:
        return [
            TP(name, number)
            for name in self._topics
            for number in sorted(self._broker.partitions_for_topic(name) or ())
        ]

    def _read(self) -> list[Record]:
        places = self._partitions()
        if again := {place.topic for place in places if self._broker.end(place) < self._positions.get(place, 0)}:
            self._positions = {place: at for place, at in self._positions.items() if place.topic not in again}
            self._again += [self._topics[name] for name in sorted(again)]
            return []
        found: list[Record] = []
        for place in places:
            records = self._broker.read(place, self._positions.get(place, 0), _FETCH_RECORDS)
            self._positions[place] = self._positions.get(place, 0) + len(records)
            found += [Record(self._topics[place.topic], *record[1:]) for record in records]
        return found

    def created_again(self) -> Sequence[str]:
        """Topics that end before what was read of them."""
        again, self._again = self._again, []
        return again

    async def progress(self) -> Progress:
        """How far reading is."""
        behind: dict[str, int] = {}
        for place in self._partitions():
            topic = self._topics[place.topic]
            left = max(0, self._broker.end(place) - self._positions.get(place, 0))
            behind[topic] = behind.get(topic, 0) + left
        missing = [topic for topic in self._topics.values() if topic not in behind]
        return Progress(not any(behind.values()), behind, missing)

    async def spans(self) -> Spans:
        """The input topics, and what the groups of their readers have committed."""
        await self._answer()
        return {reader: self._spans_of(reader, topics) for reader, topics in self._readers.items()}

    def _spans_of(self, reader: str, topics: Sequence[str]) -> Mapping[str, Mapping[int, Span]]:
        committed = self._broker.committed(reader_settings(self._settings, reader).group)
        found: dict[str, dict[int, Span]] = {}
        for topic in topics:
            name = full_topic_name(self._settings.topic_prefix, topic)
            for number in self._broker.partitions_for_topic(name) or ():
                place = TP(name, number)
                span = Span(0, self._broker.end(place), committed.get(place, 0))
                found.setdefault(topic, {})[number] = span
        return found


def reader_settings(settings: Settings, reader: str) -> Settings:
    """The settings with the consumer group of a reader."""
    return {INGEST: settings.of_ingest, PLANT_AGENT: settings.of_plant}.get(reader, settings)


def memory_source(broker: MemoryBroker, settings: Settings, profile: PlantProfile) -> MemorySource:
    """A source for the plant of a broker in this process."""
    return MemorySource(broker, settings, profile)
