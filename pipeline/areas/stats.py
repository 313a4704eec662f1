"""What the area engine counts, for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class AreaStats:
    """Counts since the engine was created; they never decrease."""

    records: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)  # records already applied before a restart
    duplicates: Counter[str] = field(default_factory=Counter)  # `diagnoses` and `texts`
    revised: int = 0  # diagnoses that took the place of an earlier one
    late: Counter[str] = field(default_factory=Counter)  # diagnoses whose frame had closed without them, by area
    frames: int = 0
    causes: Counter[str] = field(default_factory=Counter)  # by kind
    presence: Counter[str] = field(default_factory=Counter)  # machines in frames, by what came of them
    texts: int = 0  # that frames have taken
    alarms: Counter[str] = field(default_factory=Counter)  # raised and cleared
    states_refused: int = 0
