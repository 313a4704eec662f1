"""The intake: readings of one machine type as they come in, and what makes a batch for alignment of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline import messages
from pipeline.alignment import ArrivedText, ReadingBatch
from pipeline.frames import Ints
from pipeline.line import Line, Machine
from pipeline.records import Record


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
    values: NDArray[np.float64]  # (n, V)


def take_block(
    topic: str,
    records: list[Record],
    orders: Sequence[int],
    known: Mapping[bytes, Machine],
    inboxes: Mapping[str, Inbox],
) -> bool:
    """Take readings of one topic in together if nothing is the matter with any of them; else leave all as it is.

    The common case, in a third of the time: known machines of one type, values as complete lists of numbers, times as
    sensible integers, offsets that have not been applied. Everything else is looked at record by record.
    """
    first = known.get(records[0].key)  # type: ignore[arg-type]
    source = None if first is None else first.line.sources.get(topic)
    if first is None or source is None:
        return False
    line, length, decode = first.line, source.length, messages.decode_plain_reading
    values, slots, times = array("d"), [], []
    take = values.fromlist
    try:
        for record in records:
            # One after the other, so that thousands of decoded numbers never have to be kept: they take longer to make
            # where the processor's caches are full of others.
            reading = decode(record.value)  # type: ignore[arg-type]
            machine, row = known[record.key], reading.values  # type: ignore[index]
            if machine.name != reading.machine or machine.partition != record.partition or len(row) != length:
                return False
            take(row)  # type: ignore[arg-type]
            times.append(reading.time)
            slots.append(machine.slot if machine.line is line else -1)
    except (*messages.UNREADABLE, KeyError):  # or an unknown machine, values by name, a null among them
        return False
    count = len(records)
    columns = np.empty((5, count), np.int64)
    moments = np.array(times)
    if moments.dtype != np.int64:  # ISO 8601, or numbers of too many digits
        return False
    columns[0], columns[1], columns[2] = slots, moments, source.index
    columns[3], columns[4] = [record.timestamp_ms for record in records], orders
    sensible = (columns[0] >= 0) & (moments >= 0) & (moments < messages.MAX_TIME_MS)
    if not (sensible & (moments <= columns[3] + line.max_skew_ms)).all():
        return False
    offsets = np.array([record.offset for record in records])
    by_slot = np.argsort(columns[0], kind="stable")
    slot_of, offset_of = columns[0][by_slot], offsets[by_slot]
    same = slot_of[1:] == slot_of[:-1]
    starts = np.flatnonzero(np.append(True, ~same))
    if (same & (offset_of[1:] <= offset_of[:-1])).any():
        return False
    touched = [line.machines[slot] for slot in slot_of[starts].tolist()]
    for machine, offset in zip(touched, offset_of[starts].tolist(), strict=True):
        if machine is None or offset <= machine.applied.get(topic, -1):
            return False
    matrix = np.frombuffer(values, np.float64).reshape(count, length)
    if length != line.width:
        full = np.full((count, line.width), np.nan)
        full[:, source.columns] = matrix
        matrix = full
    ends = np.append(starts[1:], count) - 1
    newest = np.maximum.reduceat(columns[3][by_slot], starts)
    for machine, offset, stamp in zip(touched, offset_of[ends].tolist(), newest.tolist(), strict=True):
        assert machine is not None
        machine.applied[topic] = offset
        machine.last_ms = max(machine.last_ms, stamp)
        machine.arrived_ms[source.index] = max(machine.arrived_ms[source.index], stamp)
    inboxes[line.name].blocks.append(Block(records, columns, matrix))
    return True
