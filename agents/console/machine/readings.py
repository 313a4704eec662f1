"""Readings of one machine in the profile's variables and units, by the rules by which workers take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment.aggregation import aggregate
from pipeline.alignment.value_rules import ValueRules
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType
from pipeline.engine.inbox import floats
from pipeline.engine.machines import source_columns
from pipeline.mapping.form_reader import FormReader
from pipeline.wire.messages import RejectedError, is_time_ms, parse_time_ms
from pipeline.wire.readings import GivenReading, Reading, UnusedValue, decode_reading
from pipeline.wire.records import Record

Values = NDArray[np.float64]
Times = NDArray[np.int64]


class Rows(NamedTuple):
    """Readings (N, V) in the order of time, NaN where a value is not given or cannot be used."""

    times: Times
    values: Values


class ReadingRows:
    """All readings of a machine that have been read so far."""

    def __init__(self, machine: str, machine_type: MachineType, readers: dict[str, FormReader], notify: Notify) -> None:
        """`readers` are those of topics with a form of their own."""
        self.unreadable = 0
        self._machine = machine
        self._type = machine_type
        self._sources = source_columns(machine_type)
        self._readers = readers
        self._rules = ValueRules(machine_type, notify)
        self._parts: list[Rows] = []

    @property
    def cells(self) -> int:
        """How many values there is room for: a measure of memory."""
        return sum(part.values.size for part in self._parts)

    def add(self, topic: str, records: Sequence[Record]) -> None:
        """Take in records of the machine from one topic."""
        source = self._sources.get(topic)
        if source is None:
            return
        times: list[int] = []
        rows: list[list[float]] = []
        unused: list[UnusedValue] = []
        for record in records:
            try:
                for reading in self._readings(record):
                    row = source.row(reading.values, topic, unused)
                    time_ms = parse_time_ms(reading[1])
                    if row is not None and is_time_ms(time_ms):
                        times.append(time_ms)
                        rows.append(floats(row))
            except RejectedError:
                self.unreadable += 1
        if not rows:
            return
        of_source = np.full(len(rows), source.index, np.int64)
        values, _, refusals = self._rules.apply(np.array(rows, np.float64), of_source, Counter())
        kept = np.ones(len(rows), np.bool_)
        kept[[refusal.row for refusal in refusals]] = False
        self.unreadable += len(refusals)
        self._parts.append(Rows(np.array(times, np.int64)[kept], values[kept]))

    def _readings(self, record: Record) -> list[GivenReading | Reading]:
        reader = self._readers.get(record.topic)
        found: Sequence[GivenReading | Reading]
        found = [decode_reading(record.value or b"")] if reader is None else reader.read(record).readings
        return [reading for reading in found if reading.machine == self._machine]

    def drop_before(self, time_ms: int) -> None:
        """Forget what is older."""
        rows = self.rows()
        at = int(np.searchsorted(rows.times, time_ms))
        self._parts = [Rows(rows.times[at:].copy(), rows.values[at:].copy())]

    def rows(self) -> Rows:
        """All of them."""
        if not self._parts:
            return Rows(np.zeros(0, np.int64), np.zeros((0, len(self._type.variables))))
        if len(self._parts) > 1:
            times = np.concatenate([part.times for part in self._parts])
            values = np.concatenate([part.values for part in self._parts])
            in_order = np.argsort(times, kind="stable")
            self._parts = [Rows(times[in_order], values[in_order])]
        return self._parts[0]

    def of_frames(self, rows: Rows) -> Rows:
        """What each frame makes of its readings (F, V), at its end; the readings where no variable asks for it."""
        if not len(rows.times) or all(variable.aggregation == "last" for variable in self._type.variables):
            return rows
        period_ms = self._type.frame_period_ms
        frames = rows.times // period_ms
        starts = np.flatnonzero(np.append(True, frames[1:] != frames[:-1]))
        values, _ = aggregate(rows.times, rows.values, starts, self._type.variables)
        return Rows((frames[starts] + 1) * period_ms, values)
