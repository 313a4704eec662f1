"""What records lead to: outputs to publish and counts for metrics."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pipeline.alignment.value_rules import ValueCounts
from pipeline.arrays import NEVER_MS, Ints
from pipeline.wire import letters
from pipeline.wire.messages import RejectedError
from pipeline.wire.readings import UnusedValue, ValueReason
from pipeline.wire.records import Output, Record

FLOOD_ALARMS = 10
FLOOD_MS = 600_000
"""More than so many alarms in so much event time are a flood (ISA-18.2: ten in ten minutes for one operator)."""

ACKNOWLEDGE_BOUNDS_SECONDS = (60, 180, 600, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400)

_MAX_UNKNOWN_NAMES = 100
_MAX_NAME = 200
CONFIDENCE_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


@dataclass(slots=True)
class AlarmCounts:
    """Counts of alarms; those that are suppressed count by state only."""

    states: Counter[str] = field(default_factory=Counter)  # records by state
    raised: Counter[str] = field(default_factory=Counter)  # by priority
    chatter: int = 0
    floods: int = 0
    acknowledged: Ints = field(default_factory=lambda: np.zeros(len(ACKNOWLEDGE_BOUNDS_SECONDS) + 1, np.int64))
    acknowledge_seconds: float = 0.0
    _recent_ms: deque[int] = field(default_factory=deque)  # when alarms were raised, of the newest FLOOD_MS
    _newest_ms: int = NEVER_MS
    _in_flood: bool = False

    def note_raised(self, priority: str, time_ms: int) -> None:
        """An alarm calls for somebody; machines' event times differ a little, so times need not be in order."""
        self.raised[priority] += 1
        recent = self._recent_ms
        recent.append(time_ms)
        self._newest_ms = max(self._newest_ms, time_ms)
        while self._newest_ms - recent[0] >= FLOOD_MS:  # the newest one stays
            recent.popleft()
        is_flood = len(recent) > FLOOD_ALARMS
        self.floods += is_flood and not self._in_flood
        self._in_flood = is_flood

    def note_acknowledged(self, after_ms: int) -> None:
        """An alarm was acknowledged so long after its raising."""
        seconds = after_ms / 1_000
        self.acknowledged[np.searchsorted(ACKNOWLEDGE_BOUNDS_SECONDS, seconds)] += 1
        self.acknowledge_seconds += seconds


@dataclass(slots=True)
class Stats:
    """Counts since the engine was created; they never decrease."""

    records: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    masked_frames: int = 0
    diagnoses: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    values_unused: ValueCounts = field(default_factory=Counter)
    unknown_names: Counter[str] = field(default_factory=Counter)  # names in readings that are no variable's, a few
    late: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    revised_texts: int = 0
    texts: int = 0  # that frames have taken
    unknown_texts: int = 0  # of these, in which the model knows no word
    skipped: Counter[str] = field(default_factory=Counter)  # records already applied before a restart
    alarms: AlarmCounts = field(default_factory=AlarmCounts)
    drift: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # machine type, kind, state
    states_refused: int = 0
    evicted: int = 0
    readings_unused: int = 0  # none of their values could be used
    forgotten: int = 0  # at somebody's request
    confidence_counts: Ints = field(default_factory=lambda: np.zeros(len(CONFIDENCE_BOUNDS) + 1, np.int64))
    confidence_sum: float = 0.0

    def note_unused(self, unused: Iterable[UnusedValue]) -> None:
        """Count values that were not used; names that are no variable's count together."""
        for name, reason in unused:
            is_variable = reason != ValueReason.UNKNOWN_VARIABLE
            self.values_unused[name if is_variable else "", reason.value] += 1
            if not is_variable:
                given = name[:_MAX_NAME].encode(errors="replace").decode()
                if given in self.unknown_names or len(self.unknown_names) < _MAX_UNKNOWN_NAMES:
                    self.unknown_names[given] += 1


@dataclass(slots=True)
class Outcome:
    """Collects the outputs of one call, and the counts that they belong to."""

    stats: Stats
    outputs: list[Output] = field(default_factory=list)

    def reject(self, record: Record, rejected: RejectedError) -> None:
        """Count a record that cannot be used, and send it to the dead letters."""
        self.stats.dead_letters[rejected.reason.value] += 1
        self.outputs.append(letters.dead_letter(record, rejected))
