"""A consumer of kafka-python without a broker, as the log of topics uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kafka import TopicPartition


class Entry(NamedTuple):
    """A record as kafka-python has it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Consumer:
    """A consumer that gives some records of one partition with each poll; partitions take turns if `fair`."""

    def __init__(
        self,
        entries: Mapping[TopicPartition, list[Entry]],
        known: Mapping[TopicPartition, int] | None = None,
        *,
        records: int = 1,
        fair: bool = False,
    ) -> None:
        """`known` is where the topics end at first; `records` how many each poll gives."""
        self.entries = dict(entries)
        self.silent = False
        self._records = records
        self._fair = fair
        self._ends = dict(known) if known is not None else {place: len(row) for place, row in entries.items()}
        self._positions = dict.fromkeys(entries, 0)
        self._assigned: list[TopicPartition] = []
        self._paused: set[TopicPartition] = set()

    def assign(self, places: Iterable[TopicPartition]) -> None:
        self._assigned = list(places)

    def pause(self, *places: TopicPartition) -> None:
        self._paused.update(places)

    def paused(self) -> set[TopicPartition]:
        return set(self._paused)

    def resume(self, *places: TopicPartition) -> None:
        self._paused.difference_update(places)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._positions[place] = offset

    def position(self, place: TopicPartition) -> int:
        return self._positions[place]

    def beginning_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        ends = {place: self._ends[place] for place in places}
        self._ends = {place: len(row) for place, row in self.entries.items()}
        return ends

    def offsets_for_times(self, times_ms: Mapping[TopicPartition, int]) -> dict[TopicPartition, Entry | None]:
        return {
            place: next((entry for entry in self.entries[place] if entry.timestamp >= time_ms), None)
            for place, time_ms in times_ms.items()
        }

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Entry]]:
        for place in list(self._assigned):
            at = self._positions[place]
            if not self.silent and place not in self._paused and at < len(self.entries[place]):
                self._positions[place] = min(at + self._records, len(self.entries[place]))
                if self._fair:
                    self._assigned.append(self._assigned.pop(self._assigned.index(place)))
                return {place: self.entries[place][at : at + self._records]}
        return {}


def stamped(stamps: Mapping[TopicPartition, Iterable[int]]) -> dict[TopicPartition, list[Entry]]:
    """Entries of which only the time stamps matter, by partition."""
    return {
        place: [Entry(*place, offset, stamp, headers=(("h", None),)) for offset, stamp in enumerate(row)]
        for place, row in stamps.items()
    }
