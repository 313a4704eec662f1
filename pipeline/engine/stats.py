"""What records lead to: outputs to publish and counts for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from pipeline.arrays import Ints
from pipeline.wire import letters
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Output, Record

CONFIDENCE_BOUNDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


@dataclass(slots=True)
class Stats:
    """Counts since the engine was created; they never decrease."""

    records: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    masked_frames: int = 0
    diagnoses: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    late: Counter[str] = field(default_factory=Counter)
    duplicates: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)  # records already applied before a restart
    alarms: Counter[str] = field(default_factory=Counter)
    states_refused: int = 0
    evicted: int = 0
    confidence_counts: Ints = field(default_factory=lambda: np.zeros(len(CONFIDENCE_BOUNDS) + 1, np.int64))
    confidence_sum: float = 0.0


@dataclass(slots=True)
class Outcome:
    """Collects the outputs of one call, and the counts that they belong to."""

    stats: Stats
    outputs: list[Output] = field(default_factory=list)

    def reject(self, record: Record, rejected: RejectedError) -> None:
        """Count a record that cannot be used, and send it to the dead letters."""
        self.stats.dead_letters[rejected.reason.value] += 1
        self.outputs.append(letters.dead_letter(record, rejected))
