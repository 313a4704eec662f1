"""Records whose time stamps are ahead of this worker's clock: refused in live work, before the engine sees them.

A recording of what a worker processed does not hold them, so its replay, which has no such clock, gives the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

from pipeline.config.hints import shown_time
from pipeline.wire.messages import MAX_TIME_MS, Reason, RejectedError
from pipeline.wire.records import Record

_stamp_of = itemgetter(Record._fields.index("timestamp_ms"))


class ClockGuard:
    """Tells records of a time that cannot have come yet.

    They are ahead both of this worker's clock and of the time that their partition has come to by all of its machines:
    if this host's clock is behind, the others speak for the record.
    """

    def __init__(self, limit_ms: int, wall_seconds: Callable[[], float], clock_ms: Callable[[int], int | None]) -> None:
        """`limit_ms` is how far ahead a time stamp may be; `clock_ms` gives a partition's time, if it has one."""
        self._limit_ms = limit_ms
        self._wall_seconds = wall_seconds
        self._clock_ms = clock_ms

    def check(self, records: Sequence[Record]) -> tuple[Sequence[Record], list[tuple[Record, RejectedError]]]:
        """The records that may be processed, and the others, each with what is wrong."""
        now_ms = int(self._wall_seconds() * 1000)
        latest_ms = now_ms + self._limit_ms
        if not records or max(map(_stamp_of, records)) <= latest_ms:
            return records, []
        kept: list[Record] = []
        refused: list[tuple[Record, RejectedError]] = []
        for record in records:
            is_ahead = latest_ms < record.timestamp_ms < MAX_TIME_MS  # beyond, it is no time at all: the engine says so
            clock_ms = self._clock_ms(record.partition) if is_ahead else None
            if clock_ms is None or record.timestamp_ms <= clock_ms + self._limit_ms:
                kept.append(record)
            else:
                refused.append((record, RejectedError(Reason.FUTURE_TIME, self._described(record, now_ms))))
        return kept, refused

    def _described(self, record: Record, now_ms: int) -> str:
        ahead_s = (record.timestamp_ms - now_ms) // 1000
        shown = shown_time(record.timestamp_ms)
        return f"its Kafka time stamp {shown} is {ahead_s} s ahead of the worker's clock, {shown_time(now_ms)}"
