"""Inboxes: readings and texts that are decoded, one by one or many readings together, but not yet aligned."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np

from pipeline.alignment.batches import ArrivedText, ReadingBatch
from pipeline.arrays import Ints, Matrix
from pipeline.engine.machines import MachineGroup
from pipeline.engine.stats import Outcome
from pipeline.wire.records import Record


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


@dataclass(frozen=True, slots=True)
class Block:
    """Readings of one topic that were taken in together."""

    records: list[Record]
    columns: Ints  # (5, n): slot, time, source, arrival, order
    values: Matrix  # (n, V)


@dataclass(slots=True)
class Inbox:
    """Readings and texts of one machine group, decoded but not yet aligned."""

    records: list[Record] = field(default_factory=list)
    columns: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # slot, time, source, arrival, order
    values: array[float] = field(default_factory=lambda: array("d"))  # row after row, NaN where there is none
    blocks: list[Block] = field(default_factory=list)
    texts: list[ArrivedText] = field(default_factory=list)

    def add(self, record: Record, columns: tuple[int, int, int, int, int], row: list[float | None]) -> None:
        """Take one reading in."""
        self.records.append(record)
        self.columns.append(columns)
        try:
            self.values.fromlist(row)  # type: ignore[arg-type]
        except TypeError:  # a null; nothing has been added then
            self.values.fromlist(floats(row))

    def batch(self, group: MachineGroup, outcome: Outcome) -> tuple[ReadingBatch, list[Record]]:
        """All readings in the order in which they came, by the rules for their values, and their records."""
        columns = np.fromiter(chain.from_iterable(self.columns), np.int64, 5 * len(self.columns))
        columns = columns.reshape(len(self.columns), 5).T
        values = np.frombuffer(self.values, np.float64).reshape(len(self.columns), group.width)
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
        values, unused, refusals = group.value_rules.apply(values, source, outcome.stats.values_unused)
        outcome.stats.readings_unused += unused
        batch = ReadingBatch(slots, time_ms, source, arrival_ms, order, values)
        if not refusals:
            return batch, records
        for refusal in refusals:
            outcome.reject(records[refusal.row], refusal.rejected)
        keep = np.delete(np.arange(len(records)), [refusal.row for refusal in refusals])
        return batch.rows(keep), [records[row] for row in keep.tolist()]

    def __bool__(self) -> bool:
        return bool(self.columns or self.blocks or self.texts)


def floats(row: Sequence[float | None]) -> list[float]:
    """A row of values, NaN for none."""
    return [math.nan if number is None else number for number in row]
