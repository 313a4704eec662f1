"""The rules by which single values of readings are used or not: codes for "no value", conversion, ranges, size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Ints, Matrix
from pipeline.config.profile import MachineType
from pipeline.config.units import conversion
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import ValueReason

MAX_FLOAT32 = float(np.finfo(np.float32).max)
"""Frames are float32: what is beyond its range is not finite there."""

ValueCounts = Counter[tuple[str, str]]
"""How many values were not used, by variable and reason."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reading that is refused as a whole for one of its values, because its source is strict."""

    row: int
    rejected: RejectedError


class ValueRules:
    """The rules of one machine type, applied to whole columns of readings."""

    def __init__(self, machine_type: MachineType) -> None:
        variables = machine_type.variables
        self._names = machine_type.variable_names
        self._codes = {
            column: np.array(sorted({*machine_type.missing, *variable.missing}), np.float32)
            for column, variable in enumerate(variables)
            if machine_type.missing or variable.missing
        }
        converted = {
            column: found
            for column, variable in enumerate(variables)
            if (found := conversion(variable.sent_unit or "", variable.unit)) is not None
        }
        self._converted = list(converted)
        self._scale = np.array([one.scale for one in converted.values()])
        self._offset = np.array([one.offset for one in converted.values()])
        self._low = np.array([-MAX_FLOAT32 if v.valid is None else v.valid[0] for v in variables], np.float64)
        self._high = np.array([MAX_FLOAT32 if v.valid is None else v.valid[1] for v in variables], np.float64)
        strict = [machine_type.sources[name].strict for name in machine_type.source_names]
        self._strict = np.array(strict, np.bool_)

    def apply(self, values: Matrix, source: Ints, counts: ValueCounts) -> tuple[Matrix, list[Refusal]]:
        """Values (n, V) as frames take them, NaN where one is not used, which is counted; and the readings to refuse.

        `source` (n,) is each reading's, among those of the type.
        """
        if self._codes or self._converted:
            values = values.copy()
            self._blank_codes(values, counts)
            values[:, self._converted] = values[:, self._converted] * self._scale + self._offset
        outside = (values < self._low) | (values > self._high)
        if not outside.any():
            return values, []
        refused = outside.any(axis=1) & self._strict[source]
        refusals = [Refusal(row, self._rejected(values[row], outside[row])) for row in np.flatnonzero(refused).tolist()]
        outside &= ~refused[:, None]
        too_large = outside & (np.abs(values) > MAX_FLOAT32)
        self._count(too_large, ValueReason.NOT_FINITE, counts)
        self._count(outside & ~too_large, ValueReason.OUT_OF_RANGE, counts)
        return np.where(outside, np.nan, values), refusals

    def _blank_codes(self, values: Matrix, counts: ValueCounts) -> None:
        for column, codes in self._codes.items():
            # Many gateways send float32, whose 3276.7 is written 3276.69995.
            with np.errstate(over="ignore"):
                is_code = np.isin(values[:, column].astype(np.float32), codes)
            if is_code.any():
                counts[self._names[column], ValueReason.MISSING.value] += int(is_code.sum())
                values[is_code, column] = np.nan

    def _count(self, unused: Bools, reason: ValueReason, counts: ValueCounts) -> None:
        for column in np.flatnonzero(unused.any(axis=0)).tolist():
            counts[self._names[column], reason.value] += int(unused[:, column].sum())

    def _rejected(self, row: Matrix, outside: Bools) -> RejectedError:
        column = int(np.flatnonzero(outside)[0])
        value, name = float(row[column]), self._names[column]
        if abs(value) > MAX_FLOAT32:
            return RejectedError(Reason.NOT_FINITE, f"{name} is {value:g}, beyond 3.4e38")
        low, high = self._low[column], self._high[column]
        return RejectedError(Reason.OUT_OF_RANGE, f"{name} is {value:g}; valid is {low:g} to {high:g}")
