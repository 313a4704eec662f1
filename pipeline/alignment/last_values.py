"""Last known values: compiled code that updates them from the readings of a round and fills the frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numba
import numpy as np

from pipeline.arrays import NEVER_MS, Bools, Floats, Ints, Matrix
from pipeline.compiled import CompiledFunction


def advance_values(
    slots: Ints,
    end_ms: Ints,
    is_reset: Bools,
    group: Ints,
    aggregated: Matrix,
    observed_ms: Ints,
    hold_ms: Ints,
    value: Floats,
    value_ms: Ints,
    values: Floats,
    observed: Bools,
    age_ms: Ints,
) -> None:
    """Put the observations of a round into `value` and `value_ms` (slots, V), and write what the frames hold (rows, V).

    `group` is each row's place in `aggregated` and `observed_ms`, negative for a frame without readings. A value that
    was not observed for longer than `hold_ms` (V,) is not known any more.
    """
    for r in range(len(slots)):
        slot, g = slots[r], group[r]
        for v in range(len(hold_ms)):
            if is_reset[r]:
                value[slot, v], value_ms[slot, v] = np.nan, NEVER_MS
            observed[r, v] = g >= 0 and not np.isnan(aggregated[g, v])
            if observed[r, v]:
                value[slot, v], value_ms[slot, v] = aggregated[g, v], observed_ms[g, v]
            age = end_ms[r] - value_ms[slot, v]
            is_known = age <= hold_ms[v]
            values[r, v] = value[slot, v] if is_known else np.nan
            age_ms[r, v] = age if is_known else -1


def _array(dtype: Any, dimensions: int) -> Any:
    return numba.types.Array(dtype, dimensions, "C")


_f32, _f64, _b, _i = numba.float32, numba.float64, numba.boolean, numba.int64
ADVANCE_VALUES: Final = CompiledFunction(
    advance_values,
    numba.void(
        *(_array(_i, 1), _array(_i, 1), _array(_b, 1), _array(_i, 1), _array(_f64, 2), _array(_i, 2), _array(_i, 1)),
        *(_array(_f32, 2), _array(_i, 2), _array(_f32, 2), _array(_b, 2), _array(_i, 2)),
    ),
    [Path(__file__)],
    what="the alignment of readings",
)
