"""The log that audits read: records of topics, the same ones at every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from pipeline.wire.records import Place, Record


class Log(Protocol):
    """Records that can be read again and again, always the same ones."""

    def records(self, *topics: str) -> Iterator[Record]:
        """The records of these topics, those of one partition in their order."""

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        """The records at these places, as far as they still exist."""


class TailLog(Log, Protocol):
    """A log whose newest records can be read without the others."""

    def newest(self, topic: str, count: int, partition: int | None = None) -> list[Record]:
        """At least the newest `count` records of each partition, or of this one, by time stamp."""

    def records_of(self, topic: str, partition: int) -> Iterator[Record]:
        """The records of one partition in their order."""

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""

    def ends(self, topic: str) -> Mapping[int, int]:
        """Where each partition ends."""


class RecordLog:
    """A log of records that are at hand: a list, or a recording."""

    def __init__(self, source: Callable[[], Iterable[Record]]) -> None:
        """`source` gives all records at every call."""
        self._source = source

    def records(self, *topics: str) -> Iterator[Record]:
        """Pass over all records, and give those of the topics."""
        return (record for record in self._source() if record.topic in topics)

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        """Pass over all records, and keep those at the places."""
        wanted = frozenset(places)
        return {place: record for record in self._source() if (place := Place(*record[:3])) in wanted}
