"""What goes into alignment and what comes out: batches of readings, texts, and what they led to."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.arrays import Ints, Matrix
from pipeline.frames import EventText, Frames


@dataclass(slots=True)
class ReadingBatch:
    """n readings in arrival order; variables that a reading does not give are NaN."""

    slots: Ints  # (n,)
    time_ms: Ints  # (n,)
    source: Ints  # (n,) index into the type's sources
    arrival_ms: Ints  # (n,) the records' own time stamps
    order: Ints  # (n,) position among all records of the input, texts included
    values: Matrix  # (n, V)

    def __len__(self) -> int:
        return len(self.slots)

    def rows(self, rows: Ints | slice) -> ReadingBatch:
        """Some of the readings."""
        return ReadingBatch(
            self.slots[rows],
            self.time_ms[rows],
            self.source[rows],
            self.arrival_ms[rows],
            self.order[rows],
            self.values[rows],
        )


@dataclass(frozen=True, slots=True)
class ArrivedText:
    """A text with its machine's slot and its position among all records of the input."""

    slot: int
    order: int
    text: EventText


@dataclass(slots=True)
class LateReading:
    """Which reading of the batch came too late, and how far its machine's frames had closed by then."""

    row: int
    frame_end_ms: int
    closed_ms: int


@dataclass(slots=True)
class Aligned:
    """What a batch led to."""

    rounds: list[Frames] = field(default_factory=list)
    late: list[LateReading] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)  # rows that did not fit into their machine's buffer
    duplicate_readings: int = 0
    duplicate_texts: list[ArrivedText] = field(default_factory=list)
    revised_texts: int = 0
    expired_texts: list[tuple[int, EventText]] = field(default_factory=list)  # (slot, text)
    moved: list[int] = field(default_factory=list)  # slots of machines that a tick has changed

    def extend(self, more: Aligned, row: int) -> None:
        """Append what a single reading, this row of the batch, led to."""
        self.rounds.extend(more.rounds)
        self.late.extend(LateReading(row, late.frame_end_ms, late.closed_ms) for late in more.late)
        self.refused.extend(row for _ in more.refused)
        self.duplicate_readings += more.duplicate_readings
        self.duplicate_texts.extend(more.duplicate_texts)
        self.revised_texts += more.revised_texts
        self.expired_texts.extend(more.expired_texts)
