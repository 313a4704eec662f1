"""Labels: what technicians found, by machine and time; models learn from them, and diagnoses are scored by them."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np

from pipeline.arrays import Ints
from pipeline.config.profile import NORMAL
from pipeline.config.topics import LABELS
from pipeline.wire import messages
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.plain_text import plain_text
from pipeline.wire.records import Output, Record

_FOREVER_MS = messages.MAX_TIME_MS


@dataclass(frozen=True, slots=True)
class LabelledSpan:
    """A fault of one machine from a time on until before another."""

    machine: str
    start_ms: int
    end_ms: int
    fault: str
    written_ms: int
    """Time stamp of the record."""
    note: str | None = None
    """What else the technician wrote, without markup."""
    by: str | None = None
    """Who says so."""
    corrects: str | None = None
    """The id of the diagnosis that somebody looked at."""


def read_label(record: Record) -> LabelledSpan:
    """The label in a record; raises RejectedError if it is none."""
    if record.value is None:
        raise RejectedError(Reason.EMPTY, "the record has no value")
    label = messages.decode_label(record.value)
    if record.key != label.machine.encode(errors="replace"):
        raise RejectedError(Reason.KEY_MISMATCH, f"the label is about {label.machine[:80]!r}, its key is another")
    start_ms = messages.parse_time_ms(label.start)
    end_ms = _FOREVER_MS if label.end is None else messages.parse_time_ms(label.end)
    if end_ms <= start_ms:
        raise RejectedError(Reason.BAD_TIME, f"the label ends at {end_ms}, not after its start {start_ms}")
    said = [plain_text(text) if isinstance(text, str) else "" for text in (label.note, label.by, label.corrects)]
    note, by, corrects = (text or None for text in said)
    return LabelledSpan(label.machine, start_ms, end_ms, label.fault, record.timestamp_ms, note, by, corrects)


def label_output(
    machine: str,
    fault: str,
    start_ms: int,
    end_ms: int | None,
    *,
    partition: int | None,
    written_ms: int,
    note: str | None = None,
    by: str | None = None,
    corrects: str | None = None,
) -> Output:
    """The record of a label, which `read_label` reads; raises RejectedError if it would not."""
    key = machine.encode(errors="replace")
    said = (text or msgspec.UNSET for text in (note, corrects, by))
    value = messages.encode(messages.Label(machine, start_ms, fault, end_ms, *said))
    read_label(Record(LABELS, partition or 0, 0, written_ms, key, value))
    return Output(LABELS, partition, key, value, written_ms)


class LabelBook:
    """Labels of all machines.

    Technicians mostly write down faults only. So time without a label counts as normal, for every machine, as soon
    as there is any label at all; unless some label says `normal`: then silence means that nobody looked.
    Where labels overlap, the one that begins last counts. A label takes the place of an earlier one of the same machine
    and start: so a name is corrected, and a fault that was still there gets an end.
    """

    def __init__(self) -> None:
        # (start, number, end, fault, when it was written)
        self._by_machine: dict[str, list[tuple[int, int, int, str, int]]] = defaultdict(list)
        self._explicit = False
        self._first_ms = self._first_normal_ms = _FOREVER_MS  # when a label, and one of normal, was first written
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, record: Record) -> str:
        """Take a label record in and return its fault; raises RejectedError if it is none."""
        label = read_label(record)
        self.insert(label)
        return label.fault

    def insert(self, label: LabelledSpan) -> None:
        """Take in a label that has been read already."""
        self._count += 1
        self._first_ms = min(self._first_ms, label.written_ms)
        if label.fault == NORMAL:
            self._explicit = True
            self._first_normal_ms = min(self._first_normal_ms, label.written_ms)
        entry = label.start_ms, self._count, label.end_ms, label.fault, label.written_ms
        insort(self._by_machine[label.machine], entry)

    def fault_at(self, machine: str, time_ms: int) -> str | None:
        """The fault that a machine had at a time; None where nobody knows."""
        labels = self._by_machine.get(machine, [])
        replaced_ms = -1
        for position in range(bisect_right(labels, (time_ms, self._count + 1, 0, "", 0)) - 1, -1, -1):
            start, _, end, fault, _ = labels[position]
            if start != replaced_ms and time_ms < end:
                return fault
            replaced_ms = start
        return NORMAL if self._count and not self._explicit else None

    def faults_at(self, machine: str, times_ms: Ints, number_of: Callable[[str], int], known_by_ms: int) -> Ints:
        """The same for many times (N,), as numbers of faults, by the labels written before a time; -1: nobody knows."""
        assumed = self._first_ms < known_by_ms <= self._first_normal_ms
        faults = np.full(len(times_ms), number_of(NORMAL) if assumed else -1, np.int64)
        known = [entry for entry in self._by_machine.get(machine, []) if entry[4] < known_by_ms]
        for start, (end, fault) in {start: (end, fault) for start, _, end, fault, _ in known}.items():
            faults[(times_ms >= start) & (times_ms < end)] = number_of(fault)
        return faults
