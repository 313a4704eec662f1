"""What records lead to: outputs to publish and counts for metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from pipeline.alignment.value_rules import ValueCounts
from pipeline.arrays import Ints
from pipeline.wire import letters
from pipeline.wire.messages import RejectedError
from pipeline.wire.readings import UnusedValue, ValueReason
from pipeline.wire.records import Output, Record

_MAX_UNKNOWN_NAMES = 100
_MAX_NAME = 200
CONFIDENCE_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


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
    alarms: Counter[str] = field(default_factory=Counter)
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
