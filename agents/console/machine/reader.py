"""Reads the history of one machine from its partition: the newest part first, in pieces, and every record once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agents.audit.log import PartitionLog
from agents.console.machine.history import MachineHistory
from agents.delivery.partitioning import partition_of
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import ALARMS, DIAGNOSES, DRIFT, LABELS, LATE, event_topics
from pipeline.errors import TopicMismatchError
from pipeline.wire.messages import RejectedError, decode_diagnosis
from pipeline.wire.records import Record

DEFAULT_FRAMES = 160
"""Frames of a span for which nobody has said from when."""

_SLICES = 6
"""Into how many parts a span is cut at most."""
_FEW = (ALARMS, DRIFT, LABELS)
"""Topics with few records, of which older ones count, too."""
_FEW_RECORDS = 20_000
_SEARCHED_RECORDS = 500
_MAX_SEARCHED = 200_000
_MIN_MARGIN_MS = 300_000

IsOver = Callable[[], bool]
"""Whether the time for reading is over."""


@dataclass(slots=True)
class _Slice:
    """Offsets of each topic from one until before another, which are still to be read."""

    ranges: dict[str, tuple[int, int]]
    from_ms: int | None
    """Since when records are there once it has been read; None where that changes nothing."""


class HistoryReader:
    """Fills a history on demand."""

    def __init__(self, history: MachineHistory, profile: PlantProfile, *, max_cells: int, slice_records: int) -> None:
        """Stops going back when there would be more than `max_cells` values of readings. A span with more than
        `slice_records` is read in parts, the newest first; each costs the broker some requests.
        """
        self._slice_records = slice_records
        self.history = history
        self.from_ms: int | None = None
        """Since when all records are there."""
        self.newest_ms = 0
        """The end of the span, or of the newest frame that was there at first."""
        self.is_full = False
        """Whether older ones are left out, as there are too many."""
        own = [source.topic for source in history.machine_type.sources.values()]
        self._all = (*own, *event_topics(profile), LATE, DIAGNOSES, *_FEW)
        self._max_cells = max_cells
        self._planned_ms: int | None = None  # since when it is read or will be
        self._lows: dict[str, int] = {}  # offsets from which on it is read or will be
        self._few: dict[str, tuple[int, int]] = {}  # what goes into the next slice besides
        self._tails: dict[str, int] = {}  # offsets up to which it is
        self._slices: list[_Slice] = []
        self._has_dropped = False

    @property
    def is_complete(self) -> bool:
        """Whether all that was asked for has been read."""
        return not self._slices

    def read(self, log: PartitionLog, from_ms: int | None, until_ms: int | None, is_over: IsOver) -> None:
        """Read what is new and what is missing, until it is there or the time is over; raises FaultlineError.

        Without `from_ms` the span has DEFAULT_FRAMES frames, without `until_ms` it has no end.
        """
        topics = [topic for topic in self._all if log.partitions(topic)]
        if DIAGNOSES not in topics:
            raise TopicMismatchError(f"there is no topic {DIAGNOSES}; create the topics with `faultline topics create`")
        partition = partition_of(self.history.machine.encode(errors="replace"), log.partitions(DIAGNOSES))
        tails = {topic: log.bounds(topic, partition)[1] for topic in topics}
        is_older = from_ms is not None and self._planned_ms is not None and from_ms < self._planned_ms
        if (is_older and self._has_dropped) or any(tails.get(topic, 0) < tail for topic, tail in self._tails.items()):
            raise StartOverError
        if until_ms is not None:
            margin_ms = max(_MIN_MARGIN_MS, self.history.machine_type.blind_after_ms)
            many = [topic for topic in topics if topic not in _FEW]
            tails |= log.offsets_at(many, partition, until_ms + margin_ms)
        self._follow(tails)
        if self._planned_ms is None:
            newest_ms = until_ms if until_ms is not None else self._find_newest_ms(log, partition, is_over)
            self.newest_ms = newest_ms
            span_ms = DEFAULT_FRAMES * self.history.machine_type.frame_period_ms
            self._begin(log, topics, partition, tails)
            self._plan(log, partition, max(0, newest_ms - span_ms) if from_ms is None else from_ms, newest_ms)
        elif from_ms is not None and is_older and not self.is_full:
            self._plan(log, partition, from_ms, self._planned_ms)
        self._work(log, partition, is_over)

    def _follow(self, tails: dict[str, int]) -> None:
        """What has come since is read before everything else."""
        new = {topic: (begin, tails[topic]) for topic, begin in self._tails.items() if begin < tails[topic]}
        if new:
            self._slices.insert(0, _Slice(new, None))
        self._tails |= {topic: tails[topic] for topic in self._tails}

    def _begin(self, log: PartitionLog, topics: list[str], partition: int, tails: dict[str, int]) -> None:
        self._tails, self._lows = dict(tails), dict(tails)
        few = {topic: log.bounds(topic, partition) for topic in topics if topic in _FEW}
        self._few = {topic: (max(begin, end - _FEW_RECORDS), end) for topic, (begin, end) in few.items()}

    def _plan(self, log: PartitionLog, partition: int, from_ms: int, before_ms: int) -> None:
        """What is older than what there is, down to a time."""
        many = [topic for topic in self._lows if topic not in _FEW]
        margin_ms = max(_MIN_MARGIN_MS, 2 * self.history.machine_type.frame_period_ms)

        def lows_at(time_ms: int) -> dict[str, int]:
            found = log.offsets_at(many, partition, max(0, time_ms - margin_ms))
            return {topic: min(found[topic], self._lows[topic]) for topic in many}

        lowest = lows_at(from_ms)
        records = sum(self._lows[topic] - lowest[topic] for topic in many)
        slices = min(_SLICES, 1 + records // self._slice_records)
        step_ms = max(before_ms - from_ms, 0) // slices
        for number in range(1, slices + 1):
            slice_ms = from_ms if number == slices else before_ms - number * step_ms
            lows = lowest if number == slices else lows_at(slice_ms)
            ranges = {topic: (lows[topic], self._lows[topic]) for topic in many if lows[topic] < self._lows[topic]}
            self._slices.append(_Slice(self._few | ranges, slice_ms))
            self._few = {}
            self._lows |= lows
        self._planned_ms = from_ms

    def _work(self, log: PartitionLog, partition: int, is_over: IsOver) -> None:
        """One piece at least, so that a slow broker is got through, too."""
        while self._slices:
            ranges = self._slices[0].ranges
            if self.history.readings.cells > self._max_cells and self._slices[0].from_ms is not None:
                self.is_full = True
                self._slices.clear()
                return
            for piece in log.ranges(partition, dict(ranges)) if ranges else ():
                self.history.add(piece)
                for record in piece:
                    ranges[record.topic] = (record.offset + 1, ranges[record.topic][1])
                if is_over():
                    return
            done = self._slices.pop(0)
            if done.from_ms is not None:
                self.from_ms = done.from_ms

    def _find_newest_ms(self, log: PartitionLog, partition: int, is_over: IsOver) -> int:
        """The end of the machine's newest frame, or else of the newest one in its partition."""
        begin, end = log.bounds(DIAGNOSES, partition)
        key, back, newest_ms, stamp_ms = self.history.machine.encode(errors="replace"), _SEARCHED_RECORDS, -1, 0
        while newest_ms < 0:
            for piece in log.ranges(partition, {DIAGNOSES: (max(begin, end - back), end)}):
                stamp_ms = max(stamp_ms, *(record.timestamp_ms for record in piece), 0)
                newest_ms = max(newest_ms, *(_frame_end_ms(record) for record in piece if record.key == key), -1)
            if back >= min(end - begin, _MAX_SEARCHED) or is_over():
                break
            back *= 8
        return newest_ms if newest_ms >= 0 else stamp_ms

    def drop_before(self, time_ms: int) -> None:
        """Forget what is older; a new reader is needed to have it again."""
        if self._slices or self.from_ms is None or self.from_ms >= time_ms:
            return
        self.history.drop_before(time_ms)
        self.from_ms = self._planned_ms = time_ms
        self._has_dropped, self.is_full = True, False


def _frame_end_ms(record: Record) -> int:
    try:
        return decode_diagnosis(record.value or b"").frame_end
    except RejectedError:
        return -1


class StartOverError(Exception):
    """A topic has fewer records than before, as it was created again, or what has been dropped is asked for."""
