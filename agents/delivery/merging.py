"""Merging: the logs of several topics as one sequence in order of time, independent of how they were fetched.

Nothing here knows of Kafka clients, Faust or a clock: what comes out is a function of what is fed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter, le
from typing import NamedTuple

from pipeline.config.topics import full_topic_name
from pipeline.wire.records import Record

_DISTRUSTED = 16
"""The newest records of a partition with a backlog that are not trusted as a sign of how far its time has advanced."""


class TP(NamedTuple):
    """A topic's partition; equal to Faust's and aiokafka's own."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of memory: records per chunk, waiting records per partition (fewer if they exceed `buffered_bytes`), and
    unprocessed chunks."""

    chunk_records: int = 4_096
    buffered_records: int = 8_192
    buffered_bytes: int = 32 << 20
    chunks_in_flight: int = 4


DEFAULT_LIMITS = Limits()


class Chunk:
    """Records that are processed and committed together; partition after partition, each in the order of time."""

    __slots__ = ("_on_processed", "_processed", "epoch", "next_offsets", "records")

    def __init__(self, records: list[Record], next_offsets: dict[TP, int]) -> None:
        """`next_offsets` is what to commit, by full topic name; `epoch` counts how often reading was restarted."""
        self.records = records
        self.next_offsets = next_offsets
        self.epoch = 0
        self._processed = False
        self._on_processed: Callable[[], None] | None = None

    @property
    def processed(self) -> bool:
        """Set to True when the next chunk may come, even though this one may have to be read again."""
        return self._processed

    @processed.setter
    def processed(self, processed: bool) -> None:
        self._processed = processed
        if processed and self._on_processed is not None:
            self._on_processed()

    def __repr__(self) -> str:
        return f"<Chunk of {len(self.records)} records up to {self.next_offsets}>"


class Mark(NamedTuple):
    """How far a partition has been read: next offset to fetch, end of the log when the broker last answered.

    `answer` numbers the broker's answers as they came; partitions that came in one answer have the same number.
    """

    position: int
    end: int
    answer: int


class _Buffer:
    """The buffered records of one topic's partition."""

    __slots__ = ("_keys", "arrivals", "bytes", "mark", "rank", "records", "start", "tp")

    def __init__(self, tp: TP, rank: int) -> None:
        self.tp = tp
        self.rank = rank
        self.mark: Mark | None = None
        self.start: int | None = None  # where reading began
        self.records: list[Record] = []
        self.bytes = 0  # of the values and keys of the records
        self.arrivals: deque[tuple[int, int]] = deque()  # (answer, how many records came with it)
        self._keys: list[int] | None = None

    @property
    def caught_up(self) -> bool:
        return self.mark is not None and self.mark.position >= self.mark.end

    @property
    def keys(self) -> list[int]:
        """What the records are merged by."""
        if self._keys is None:
            self._keys = order_keys([record.timestamp_ms for record in self.records])
        return self._keys

    def feed(self, records: list[Record], mark: Mark) -> None:
        if self.start is None:
            self.start = records[0].offset if records else mark.position
        self.mark = mark
        if records:
            self.records += records
            self.bytes += _bytes(records)
            self.arrivals.append((mark.answer, len(records)))
            self._keys = None

    def arrived_by(self, answer: int) -> int:
        count = 0
        for came, records in self.arrivals:
            if came > answer:
                break
            count += records
        return count

    def take(self, count: int) -> list[Record]:
        if count == len(self.records):
            taken, self.records, self.bytes = self.records, [], 0
            self.arrivals.clear()
            self._keys = None
            return taken
        taken = self.records[:count]
        del self.records[:count]
        self.bytes -= _bytes(taken)
        if self._keys is not None:
            del self._keys[:count]
        while count:
            came, records = self.arrivals.popleft()
            if records > count:
                self.arrivals.appendleft((came, records - count))
            count -= min(records, count)
        return taken


def _bytes(records: Sequence[Record]) -> int:
    keys_and_values = chain(map(itemgetter(4), records), map(itemgetter(5), records))
    size = sum(map(len, filter(None, keys_and_values)))
    if any(map(itemgetter(6), records)):
        size += sum(len(value or b"") for record in records for _, value in record[6])
    return size


def order_keys(timestamps: list[int]) -> list[int]:
    """Never decreasing keys to merge by: the time stamps themselves where they never decrease.

    Otherwise records on the longest run that never decreases keep theirs, and the others take that of the next one
    on the run. So a wild clock, far ahead or far behind, moves its own records only: a plain minimum over the
    records behind would let one early time stamp pull everything before it forward.
    """
    if all(map(le, timestamps, islice(timestamps, 1, None))):
        return timestamps
    tops: list[int] = []  # the lowest key that a run of each length can end with, and where
    ends: list[int] = []
    before: list[int] = []
    for at, timestamp in enumerate(timestamps):
        length = bisect_right(tops, timestamp)
        before.append(ends[length - 1] if length else -1)
        if length == len(tops):
            tops.append(timestamp)
            ends.append(at)
        else:
            tops[length] = timestamp
            ends[length] = at
    keys = [0] * len(timestamps)
    on_run, key = ends[-1], tops[-1]
    for at in range(len(timestamps) - 1, -1, -1):
        if at == on_run:
            key, on_run = timestamps[at], before[at]
        keys[at] = key
    return keys


class ChunkMerger:
    """Merges the topics of one group, partition number by partition number, in the order of Kafka time stamps.

    Order is (time stamp, rank of the topic in the group, offset). Where time stamps never decrease within a
    partition's logs, the order is a function of the logs alone, however they were cut into fetches: a record is
    released only when every other topic of the group at its partition either has a later record buffered, or is
    *caught up*: it had been read to its end when the broker answered, and that answer is no older than the one that
    brought the record. What is appended to a quiet topic after that came later than the record. So a quiet topic
    costs at most the wait for its next answer, and a topic with a backlog holds the others back.

    Records of one topic's partition are never reordered. Time stamps that run backwards are smoothed (`order_keys`);
    they can move records of other topics by no more than what is buffered, and hold up nothing.

    Bound: partitions that `full` names should not be fetched. A partition then buffers fewer than `buffered_records`
    plus one fetch. Some partition can always be fetched: of several that have more to come, the one whose buffer
    ends earliest is released up to its last few records, and one that has been read to its end holds no other back.
    """

    def __init__(
        self,
        topics: Sequence[str],
        prefix: str = "",
        limits: Limits = DEFAULT_LIMITS,
        *,
        across_partitions: bool = False,
    ) -> None:
        """`topics` without the prefix, in the order in which equal time stamps are taken.

        With `across_partitions` all partitions are merged into one sequence, as if each were a topic of its own.
        """
        self._ranks = {full_topic_name(prefix, topic): rank for rank, topic in enumerate(topics)}
        self._across = across_partitions
        self._names = {topic: full_topic_name(prefix, topic) for topic in topics}
        self._limits = limits
        # Fewer than a full partition has, or none could be fetched any more.
        self._distrusted = min(_DISTRUSTED, limits.buffered_records // 2)
        self._buffers: dict[TP, _Buffer] = {}
        self._partitions: dict[int, list[_Buffer]] = {}

    def assign(self, tps: Iterable[TP]) -> None:
        """Forget everything and begin again with these partitions; those of other groups are left out."""
        own = [tp for tp in tps if tp.topic in self._ranks]
        self._partitions = {}
        if self._across:
            own.sort(key=lambda tp: (self._ranks[tp.topic], tp.partition))
            self._buffers = {tp: _Buffer(tp, rank) for rank, tp in enumerate(own)}
            if own:
                self._partitions[0] = list(self._buffers.values())
            return
        own.sort(key=lambda tp: (tp.partition, self._ranks[tp.topic]))
        self._buffers = {tp: _Buffer(tp, self._ranks[tp.topic]) for tp in own}
        for buffer in self._buffers.values():
            self._partitions.setdefault(buffer.tp.partition, []).append(buffer)

    def feed(self, records: Mapping[TP, list[Record]], marks: Mapping[TP, Mark]) -> None:
        """Take what was fetched; a partition with records must have a mark, taken at the same moment."""
        for tp, mark in marks.items():
            if (buffer := self._buffers.get(tp)) is not None:
                buffer.feed(records.get(tp, []), mark)

    def release(self) -> list[Chunk]:
        """Everything whose place in the order is known, cut into chunks over which all partitions are spread evenly."""
        parts = [part for buffers in self._partitions.values() if (part := self._merge(buffers))]
        total = sum(map(len, parts))
        count = -(-total // self._limits.chunk_records)
        chunks = []
        for i in range(count):
            pieces = [part[len(part) * i // count : len(part) * (i + 1) // count] for part in parts]
            if any(pieces):
                chunks.append(Chunk(list(chain.from_iterable(pieces)), self._next_offsets(pieces)))
        if chunks:
            # Where nothing is left over, the position counts: it is past gaps and transaction markers too.
            last = chunks[-1].next_offsets
            for tp, buffer in self._buffers.items():
                if tp in last and not buffer.records and buffer.mark is not None:
                    last[tp] = buffer.mark.position
        return chunks

    @property
    def full(self) -> set[TP]:
        """Partitions that hold as much as they may."""
        return {tp for tp, buffer in self._buffers.items() if self._is_full(buffer)}

    def _is_full(self, buffer: _Buffer) -> bool:
        if len(buffer.records) >= self._limits.buffered_records:
            return True
        # Of fewer records than are distrusted none might ever be released, and then it could never be fetched again.
        return buffer.bytes >= self._limits.buffered_bytes and len(buffer.records) > self._distrusted

    @property
    def waiting(self) -> bool:
        """Whether records are held back until more is known about other topics."""
        return any(buffer.records for buffer in self._buffers.values())

    @property
    def tps(self) -> AbstractSet[TP]:
        """The assigned partitions of this group."""
        return self._buffers.keys()

    @property
    def passed(self) -> dict[TP, int]:
        """Where reading has come to, of partitions of which nothing is buffered."""
        return {tp: one.mark.position for tp, one in self._buffers.items() if one.mark is not None and not one.records}

    @property
    def starts(self) -> dict[TP, int]:
        """Where reading began, of partitions for which the broker has answered."""
        return {tp: buffer.start for tp, buffer in self._buffers.items() if buffer.start is not None}

    @property
    def ends(self) -> dict[TP, int]:
        """Where the logs ended when the broker last answered."""
        return {tp: buffer.mark.end for tp, buffer in self._buffers.items() if buffer.mark is not None}

    def _merge(self, buffers: list[_Buffer]) -> list[Record]:
        filled = [buffer for buffer in buffers if buffer.records]
        if not filled or not all(buffer.records or buffer.caught_up for buffer in buffers):
            return []
        horizon = min((buffer.mark.answer for buffer in buffers if buffer.caught_up and buffer.mark), default=None)
        visible = [len(buffer.records) if horizon is None else buffer.arrived_by(horizon) for buffer in filled]
        if len(filled) == 1:
            return filled[0].take(visible[0])
        barrier: tuple[int, int] | None = None  # what stays back begins with this key, in the topic of this rank
        for i, buffer in enumerate(filled):
            if not buffer.caught_up:
                visible[i] = min(visible[i], max(0, len(buffer.records) - self._distrusted))
            if visible[i] < len(buffer.records) or not buffer.caught_up:
                first = (buffer.keys[min(visible[i], len(buffer.records) - 1)], buffer.rank)
                barrier = first if barrier is None else min(barrier, first)
        if barrier is not None:
            for i, buffer in enumerate(filled):
                if buffer.rank != barrier[1]:
                    cut = bisect_right if buffer.rank < barrier[1] else bisect_left
                    visible[i] = min(visible[i], cut(buffer.keys, barrier[0]))
        keys: list[int] = []
        records: list[Record] = []
        for buffer, count in zip(filled, visible, strict=True):
            if count:
                keys += buffer.keys[:count]
                records += buffer.take(count)
        # Stable, and made for sequences that consist of sorted runs.
        return [records[i] for i in sorted(range(len(keys)), key=keys.__getitem__)]

    def _next_offsets(self, pieces: list[list[Record]]) -> dict[TP, int]:
        offsets = {}
        for piece in pieces:
            for topic, partition in set(map(itemgetter(0, 1), piece)):
                last = next(r for r in reversed(piece) if r.topic == topic and r.partition == partition)
                offsets[TP(self._names[topic], partition)] = last.offset + 1
        return offsets
