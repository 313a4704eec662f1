"""Topics read from their beginning to where they ended when reading began, from Kafka or from a recording."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from agents.kafka.admin import partition_counts, translated_errors
from agents.kafka.security import client_security
from pipeline.config.settings import Settings
from pipeline.errors import BrokerUnavailableError, SettingsError
from pipeline.wire.records import Record

_POLL_MS = 200
_POLL_RECORDS = 2_000
_FETCH_BYTES = 4 << 20
_SILENT_SECONDS = 30.0


class Place(NamedTuple):
    """Where a record lies; the topic is named without prefix."""

    topic: str
    partition: int
    offset: int


class Log(Protocol):
    """Records that can be read again and again, always the same ones."""

    def records(self, *topics: str) -> Iterator[Record]:
        """The records of these topics, those of one partition in their order."""

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        """The records at these places, as far as they still exist."""


class RecordLog:
    """A log of records that are at hand: a list, or a recording."""

    def __init__(self, source: Callable[[], Iterable[Record]]) -> None:
        """`source` gives the records anew with every call."""
        self._source = source

    def records(self, *topics: str) -> Iterator[Record]:
        """Pass over all records, and give those of the topics."""
        return (record for record in self._source() if record.topic in topics)

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        """Pass over all records, and keep those at the places."""
        wanted = frozenset(places)
        return {place: record for record in self._source() if (place := Place(*record[:3])) in wanted}


class KafkaLog:
    """Topics of a real Kafka, up to where they ended when the log was opened."""

    def __init__(self, consumer: Any, address: str, prefix: str, counts: Mapping[str, int]) -> None:
        from kafka import TopicPartition

        self._consumer = consumer
        self._address = address
        self._prefix = prefix
        places = [TopicPartition(name, partition) for name, count in counts.items() for partition in range(count)]
        self._ends: dict[Any, int] = consumer.end_offsets(places)
        self._begins: dict[Any, int] = consumer.beginning_offsets(places)

    def records(self, *topics: str) -> Iterator[Record]:
        """Read the topics from their beginning; raises BrokerUnavailableError if nothing comes any more."""
        names = {self._prefix + topic for topic in topics}
        rest = {place for place, end in self._ends.items() if place.topic in names and self._begins[place] < end}
        with translated_errors(self._address):
            self._take_up(rest)
            for place in rest:
                self._consumer.seek(place, self._begins[place])
            heard = time.monotonic()
            while rest:
                polled = self._poll()
                for place, entries in polled.items():
                    end = self._ends[place]
                    yield from (self._record(entry) for entry in entries if entry.offset < end)
                done = {place for place in rest if self._consumer.position(place) >= self._ends[place]}
                if done:
                    self._consumer.pause(*done)
                    rest -= done
                if polled or done:
                    heard = time.monotonic()
                self._check_progress(heard)

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        """Seek every place; raises BrokerUnavailableError if nothing comes."""
        from kafka import TopicPartition

        offsets: dict[Any, set[int]] = {}
        for topic, partition, offset in places:
            offsets.setdefault(TopicPartition(self._prefix + topic, partition), set()).add(offset)
        found: dict[Place, Record] = {}
        with translated_errors(self._address):
            for at, wanted in offsets.items():
                self._take_up([at])
                waiting = deque(sorted(wanted))
                while waiting:
                    self._consumer.seek(at, waiting[0])
                    heard = time.monotonic()
                    while not (entries := self._poll().get(at, [])):
                        self._check_progress(heard)
                    here = {entry.offset: entry for entry in entries}
                    # What lies before the first entry has been deleted since.
                    while waiting and waiting[0] <= entries[-1].offset:
                        if (entry := here.get(waiting.popleft())) is not None:
                            record = self._record(entry)
                            found[Place(*record[:3])] = record
        return found

    def _take_up(self, places: Iterable[Any]) -> None:
        self._consumer.assign(list(places))
        # What had been read to its end before stays paused through a new assignment.
        self._consumer.resume(*self._consumer.paused())

    def _poll(self) -> dict[Any, list[Any]]:
        polled: dict[Any, list[Any]] = self._consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        return polled

    def _record(self, entry: Any) -> Record:
        headers = tuple((name, value or b"") for name, value in entry.headers)
        name = entry.topic[len(self._prefix) :]
        return Record(name, entry.partition, entry.offset, entry.timestamp, entry.key, entry.value, headers)

    def _check_progress(self, heard: float) -> None:
        if time.monotonic() - heard > _SILENT_SECONDS:
            raise BrokerUnavailableError(
                f"the Kafka broker at {self._address} has sent nothing for {_SILENT_SECONDS:.0f} s, although the "
                "topics go on; check that it runs, and try again"
            )


@contextmanager
def kafka_log(settings: Settings, topics: Sequence[str]) -> Iterator[KafkaLog]:
    """Open topics, named without prefix; raises SettingsError, BrokerUnavailableError or TopicMismatchError."""
    from kafka import KafkaConsumer

    require_kafka(settings)
    security = client_security(settings)
    names = [settings.topic_prefix + topic for topic in dict.fromkeys(topics)]
    counts = partition_counts(settings.address, names, security)
    with translated_errors(settings.address):
        consumer = KafkaConsumer(
            bootstrap_servers=settings.address.split(","),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            # The broker has checked them; in pure Python it takes twenty times as long as all the rest.
            check_crcs=False,
            max_partition_fetch_bytes=_FETCH_BYTES,
            **security,
        )
        try:
            yield KafkaLog(consumer, settings.address, settings.topic_prefix, counts)
        finally:
            consumer.close()


def require_kafka(settings: Settings) -> None:
    """Raises SettingsError where the broker is one in this process: its topics end with it."""
    if settings.is_memory:
        raise SettingsError(f"{settings.broker} lives in one process; give --broker kafka://host:port")
