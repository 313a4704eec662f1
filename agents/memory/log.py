"""Topics of a broker in this process, read outside of any consumer group."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from agents.delivery.merging import TP
from agents.memory.broker import MemoryBroker
from pipeline.config.topics import full_topic_name
from pipeline.wire.records import Record

_PIECE_RECORDS = 2_000


class MemoryLog:
    """Topics as they are when they are read; other threads than the broker's may do so, as it only appends."""

    def __init__(self, broker: MemoryBroker, prefix: str = "") -> None:
        self._broker = broker
        self._prefix = prefix
        self._since_ms: dict[str, int] = {}

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 if it does not exist."""
        return len(self._broker.partitions_for_topic(full_topic_name(self._prefix, topic)) or ())

    def begin_at(self, topics: Iterable[str], since_ms: int) -> None:
        """From now on read these topics from the first record of each partition that has so new a time stamp."""
        self._since_ms |= dict.fromkeys(topics, since_ms)

    def records_of(self, topic: str, partition: int) -> Iterator[Record]:
        """Read one partition from its beginning."""
        begin, end = self.bounds(topic, partition)
        if (since_ms := self._since_ms.get(topic)) is not None:
            begin = self._first_since(topic, partition, since_ms)
        return self._read(topic, partition, begin, end)

    def merged(self, *topics: str, partition: int | None = None) -> Iterator[Record]:
        """Records of the topics, or of one partition of each, by time stamp: the oldest head goes first."""
        logs = [
            self.records_of(topic, number)
            for topic in topics
            for number in (range(self.partitions(topic)) if partition is None else [partition])
        ]
        return heapq.merge(*logs, key=lambda record: record.timestamp_ms)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The offset at which a partition begins, and that at which it ends."""
        return 0, self._broker.end(TP(full_topic_name(self._prefix, topic), partition))

    def offsets_at(self, topics: Iterable[str], partition: int, time_ms: int) -> dict[str, int]:
        """In a partition of each topic the offset of the first record with so new a time stamp, or the end."""
        return {topic: self._first_since(topic, partition, time_ms) for topic in topics}

    def ranges(self, partition: int, ranges: Mapping[str, tuple[int, int]]) -> Iterator[list[Record]]:
        """The records of a partition of some topics, each from an offset until before another, in pieces."""
        for topic, (begin, end) in ranges.items():
            records = self._read(topic, partition, begin, end)
            while piece := list(islice(records, _PIECE_RECORDS)):
                yield piece

    def _first_since(self, topic: str, partition: int, time_ms: int) -> int:
        _, end = self.bounds(topic, partition)
        newer = (one.offset for one in self._read(topic, partition, 0, end) if one.timestamp_ms >= time_ms)
        return next(newer, end)

    def _read(self, topic: str, partition: int, begin: int, end: int) -> Iterator[Record]:
        place = TP(full_topic_name(self._prefix, topic), partition)
        while begin < end:
            records = self._broker.read(place, begin, min(_PIECE_RECORDS, end - begin))
            for record in records:
                yield record._replace(topic=topic)
            begin += len(records)
