"""The intake: readings of one machine type as they come in, and what makes a batch for alignment of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from pipeline.alignment.aligner import ArrivedText, ReadingBatch
from pipeline.arrays import Ints, Matrix
from pipeline.compiled import Notify
from pipeline.engine.machines import Line, Machine
from pipeline.wire import messages
from pipeline.wire.reading_json import READ_ALL, read_readings
from pipeline.wire.records import Record


@dataclass(slots=True)
class Inbox:
    """Readings and texts of one machine type, decoded but not yet aligned."""

    records: list[Record] = field(default_factory=list)
    columns: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # slot, time, source, arrival, order
    values: array[float] = field(default_factory=lambda: array("d"))  # row after row, NaN where there is none
    blocks: list[Block] = field(default_factory=list)
    texts: list[ArrivedText] = field(default_factory=list)

    def add(
        self, record: Record, machine: Machine, time_ms: int, source: int, order: int, row: Sequence[float | None]
    ) -> None:
        """Take one reading in; `row` has a value or None for every variable of the machine type."""
        self.records.append(record)
        self.columns.append((machine.slot, time_ms, source, record.timestamp_ms, order))
        self.values.fromlist([math.nan if number is None else number for number in row])

    def batch(self, line: Line) -> tuple[ReadingBatch, list[Record]]:
        """All readings in the order in which they came, and the records that they came in."""
        columns = np.fromiter(chain.from_iterable(self.columns), np.int64, 5 * len(self.columns))
        columns = columns.reshape(len(self.columns), 5).T
        values = np.frombuffer(self.values, np.float64).reshape(len(self.columns), line.width)
        records = self.records
        if self.blocks and not records and len(self.blocks) == 1:
            (block,) = self.blocks
            columns, values, records = block.columns, block.values, block.records
        elif self.blocks:
            columns = np.concatenate([columns, *(block.columns for block in self.blocks)], axis=1)
            in_order = np.argsort(columns[4], kind="stable")
            columns = columns[:, in_order]
            values = np.concatenate([values, *(block.values for block in self.blocks)])[in_order]
            everything = [*records, *chain.from_iterable(block.records for block in self.blocks)]
            records = [everything[row] for row in in_order.tolist()]
        slots, time_ms, source, arrival_ms, order = np.ascontiguousarray(columns)
        return ReadingBatch(slots, time_ms, source, arrival_ms, order, values), records

    def __bool__(self) -> bool:
        return bool(self.columns or self.blocks or self.texts)


@dataclass(frozen=True, slots=True)
class Block:
    """Readings of one topic that were taken in together."""

    records: list[Record]
    columns: Ints  # (5, n): slot, time, source, arrival, order
    values: Matrix  # (n, V)


class Columns(NamedTuple):
    """Fields of some records, each as one sequence."""

    partitions: list[int]
    offsets: Ints
    stamps: Ints
    keys: tuple[bytes | None, ...]
    values: tuple[bytes | None, ...]

    @staticmethod
    def of(records: Sequence[Record]) -> Columns:
        """At least one record."""
        _, partitions, offsets, stamps, keys, values, _ = zip(*records, strict=True)
        return Columns(list(partitions), np.array(offsets), np.array(stamps), keys, values)


_line_of = attrgetter("line")


def take_block(
    topic: str,
    records: list[Record],
    record_columns: Columns,
    orders: Sequence[int],
    known: Mapping[bytes, Machine],
    inboxes: Mapping[str, Inbox],
    notify: Notify,
) -> bool:
    """Take readings of one topic in together if nothing is the matter with any of them; else leave all as it is.

    The common case, in a fraction of the time: known machines of one type, values as complete lists, times as sensible
    integers, offsets that have not been applied. Everything else is looked at record by record.
    """
    partitions, offsets, stamps, keys, values = record_columns
    texts = [value for value in values if value is not None]
    try:
        machines = [known[key] for key in keys]  # type: ignore[index]  # a record may have no key
    except KeyError:
        return False
    line = machines[0].line
    source = line.sources.get(topic)
    if source is None or set(map(_line_of, machines)) != {line}:
        return False
    if [machine.partition for machine in machines] != partitions:
        return False
    if len(texts) < len(values):
        return False
    names = [machine.quoted for machine in machines]
    times, matrix, plain = read_readings(READ_ALL.load(notify), texts, names, source.length)
    for row in np.flatnonzero(~plain).tolist():
        reading = _plain_reading(texts[row], machines[row], source.length)
        if reading is None:
            return False
        times[row], matrix[row] = reading
    count = len(records)
    columns = np.empty((5, count), np.int64)
    columns[0], columns[1], columns[2] = [machine.slot for machine in machines], times, source.index
    columns[3], columns[4] = stamps, orders
    if not ((times >= 0) & (times < messages.MAX_TIME_MS) & (times <= columns[3] + line.max_skew_ms)).all():
        return False
    by_slot = np.argsort(columns[0], kind="stable")
    slot_of, offset_of = columns[0][by_slot], offsets[by_slot]
    same = slot_of[1:] == slot_of[:-1]
    starts = np.flatnonzero(np.append(True, ~same))
    if (same & (offset_of[1:] <= offset_of[:-1])).any():
        return False
    touched = [machines[row] for row in by_slot[starts].tolist()]
    for machine, offset in zip(touched, offset_of[starts].tolist(), strict=True):
        if offset <= machine.applied.get(topic, -1):
            return False
    if source.length != line.width:
        full = np.full((count, line.width), np.nan)
        full[:, source.columns] = matrix
        matrix = full
    ends = np.append(starts[1:], count) - 1
    newest = np.maximum.reduceat(columns[3][by_slot], starts)
    for machine, offset, stamp in zip(touched, offset_of[ends].tolist(), newest.tolist(), strict=True):
        machine.applied[topic] = offset
        machine.last_ms = max(machine.last_ms, stamp)
        machine.arrived_ms[source.index] = max(machine.arrived_ms[source.index], stamp)
    inboxes[line.name].blocks.append(Block(records, columns, matrix))
    return True


def _plain_reading(text: bytes, machine: Machine, length: int) -> tuple[int, list[float]] | None:
    """Time and values of a reading whose JSON is not of the usual form, but which is as good; None if it is not."""
    try:
        reading = messages.decode_plain_reading(text)
    except messages.UNREADABLE:
        return None
    values, time = reading.values, reading.time
    if reading.machine != machine.name or type(values) is not list or len(values) != length or type(time) is not int:
        return None
    if not 0 <= time < messages.MAX_TIME_MS:
        return None
    return time, [math.nan if number is None else number for number in values]
