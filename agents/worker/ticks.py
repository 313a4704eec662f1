"""Ticks: control records that let time pass in partitions without input, so that idle sources hold nothing back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

from pipeline.config.topics import CONTROL
from pipeline.wire import messages
from pipeline.wire.records import Output


class Ticker:
    """Knows when each partition had its last record, and which partitions need a tick.

    The time of a partition goes on from its newest record's time stamp at the pace of a clock that nobody sets, so a
    host whose time is corrected lets no time pass. A partition with records yet to read is not idle but behind: it
    gets no tick.
    """

    def __init__(
        self, clock_ms: Callable[[int], int | None], monotonic_seconds: Callable[[], float], topic: str = CONTROL
    ) -> None:
        """`clock_ms` gives the newest time stamp of a partition, None if there is none; ticks go to `topic`."""
        self._topic = topic
        self._clock_ms = clock_ms
        self._monotonic_seconds = monotonic_seconds
        self._seen: dict[int, float] = {}  # partition -> when its last record came

    def note_records(self, partitions: Iterable[int]) -> None:
        """Records of these partitions are processed now."""
        now = self._monotonic_seconds()
        for partition in partitions:
            self._seen[partition] = now

    def keep_only(self, partitions: AbstractSet[int]) -> None:
        """Forget all partitions but these."""
        for partition in self._seen.keys() - partitions:
            del self._seen[partition]

    def due(self, lag: Mapping[tuple[str, int], int]) -> list[Output]:
        """A tick for every idle partition; `lag` gives unprocessed records per topic and partition."""
        ticks = []
        for partition, seen in self._seen.items():
            clock_ms = self._clock_ms(partition)
            behind = any(records for (topic, p), records in lag.items() if p == partition and topic != CONTROL)
            if clock_ms is not None and not behind and (self._topic, partition) in lag:
                now_ms = clock_ms + int((self._monotonic_seconds() - seen) * 1000)
                ticks.append(messages.tick(now_ms, partition)._replace(topic=self._topic))
        return ticks
