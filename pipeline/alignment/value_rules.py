"""The rules by which single values of readings are used or not: codes for "no value", conversion, ranges, size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Bools, Ints, Matrix
from pipeline.compiled import CompiledFunction, Notify
from pipeline.config.profile import MachineType
from pipeline.config.quantities.units import conversion
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import ValueReason

MAX_FLOAT32 = float(np.finfo(np.float32).max)
"""Frames are float32: what is beyond its range is not finite there."""

Floats64 = NDArray[np.float64]

ValueCounts = Counter[tuple[str, str]]
"""How many values were not used, by variable and reason."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reading that is refused as a whole for one of its values, because its source is strict."""

    row: int
    rejected: RejectedError


class ValueRules:
    """The rules of one machine type, applied to whole columns of readings."""

    def __init__(self, machine_type: MachineType, notify: Notify) -> None:
        """`notify` gets a line if code has to be compiled first."""
        self._notify = notify
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
        self._has_one_value = np.array([machine_type.sources[n].has_one_value for n in machine_type.source_names])

    def load(self) -> Callable[..., int]:
        """The compiled check of values, at once if it was loaded before."""
        return CHECK_VALUES.load(self._notify)

    def apply(self, values: Matrix, source: Ints, counts: ValueCounts) -> tuple[Matrix, int, list[Refusal]]:
        """Values (n, V) as frames take them, NaN where one is not used, which is counted; how many readings have no
        value at all; and the readings to refuse.

        `source` (n,) is each reading's, among those of the type.
        """
        if self._codes or self._converted:
            values = values.copy()
            self._blank_codes(values, counts)
            values[:, self._converted] = values[:, self._converted] * self._scale + self._offset
        empty = np.zeros(1, np.int64)
        if not self.load()(values, self._low, self._high, empty):
            return values, self._count_empty(values, source) if empty[0] else 0, []
        outside = (values < self._low) | (values > self._high)
        refused = outside.any(axis=1) & self._strict[source]
        refusals = [Refusal(row, self._rejected(values[row], outside[row])) for row in np.flatnonzero(refused).tolist()]
        outside &= ~refused[:, None]
        too_large = outside & (np.abs(values) > MAX_FLOAT32)
        self._count(too_large, ValueReason.NOT_FINITE, counts)
        self._count(outside & ~too_large, ValueReason.OUT_OF_RANGE, counts)
        values = np.where(outside, np.nan, values)
        return values, self._count_empty(values, source), refusals

    def _count_empty(self, values: Matrix, source: Ints) -> int:
        """Readings without a value; of those that hold one value each, that value is counted and says as much."""
        return int((np.isnan(values).all(axis=1) & ~self._has_one_value[source]).sum())

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


def check_values(values: Matrix, low: Floats64, high: Floats64, empty: Ints) -> bool:
    """Whether any value is outside its range; `empty` (1,) gets the number of rows that have none."""
    outside = False
    for r in range(len(values)):
        known = False
        for v in range(len(low)):
            value = values[r, v]
            outside |= (value < low[v]) | (value > high[v])
            known |= not np.isnan(value)
        empty[0] += not known
    return outside


_matrix, _row = numba.types.Array(numba.float64, 2, "C"), numba.types.Array(numba.float64, 1, "C")
CHECK_VALUES: Final = CompiledFunction(
    check_values,
    numba.boolean(_matrix, _row, _row, numba.types.Array(numba.int64, 1, "C")),
    [Path(__file__)],
    what="the check of values",
)
