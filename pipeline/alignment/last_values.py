"""Last known values: compiled code that updates them from readings, fills the frames, and sees what is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numba
import numpy as np

from pipeline.arrays import NEVER_MS, Bools, Floats, Ints, Matrix
from pipeline.compiled import CompiledFunction, kernel
from pipeline.config.profile import MachineType


class ValueLimits(NamedTuple):
    """What the last known values of a machine type are measured by; each has V entries but `source_frozen`, S."""

    hold_ms: Ints
    """After how long without an observation, or a word of its source if that reports changes, a value is not known."""
    holds: Bools
    """Whether a value counts as observed for as long as it is known, because only changes are reported."""
    source: Ints
    """Which source each is of; -1 for a count, which says nothing of whether its sensor is frozen."""
    frozen_ms: Ints
    """After how long without a change a variable counts as frozen; negative for never."""
    source_frozen_ms: Ints
    """The same of sources, all of whose known values must be unchanged."""

    @staticmethod
    def of(machine_type: MachineType) -> ValueLimits:
        """Those of a machine type."""
        names, variables = machine_type.source_names, machine_type.variables
        whole = [machine_type.frozen_after(name) for name in names]
        return ValueLimits(
            np.array([machine_type.hold_ms(v.source) for v in variables], np.int64),
            np.array([machine_type.sources[v.source].on_change for v in variables], np.bool_),
            np.array([-1 if v.aggregation == "count" else names.index(v.source) for v in variables], np.int64),
            np.array([-1 if v.frozen_after_ms is None else v.frozen_after_ms for v in variables], np.int64),
            np.array([-1 if limit is None else limit for limit in whole], np.int64),
        )


@kernel
def _mark_frozen(
    seen: Ints, changed: Ints, source: Ints, frozen_ms: Ints, source_frozen_ms: Ints, frozen: Bools
) -> None:
    """Which variables of one machine count as frozen, given when each was observed and since when it is the same."""
    for v in range(len(seen)):
        frozen[v] = frozen_ms[v] >= 0 and seen[v] != NEVER_MS and seen[v] - changed[v] >= frozen_ms[v]
    for s in range(len(source_frozen_ms)):
        still = source_frozen_ms[s] >= 0
        known = False
        for v in range(len(seen)):
            if source[v] == s and seen[v] != NEVER_MS:
                known = True
                still = still and seen[v] - changed[v] >= source_frozen_ms[s]
                if not still:
                    break  # of values that live most often the first
        if known and still:
            for v in range(len(seen)):
                frozen[v] = frozen[v] or (source[v] == s and seen[v] != NEVER_MS)


def advance_values(
    slots: Ints,
    end_ms: Ints,
    is_reset: Bools,
    group: Ints,
    aggregated: Matrix,
    observed_ms: Ints,
    told_ms: Ints,
    hold_ms: Ints,
    holds: Bools,
    source: Ints,
    frozen_ms: Ints,
    source_frozen_ms: Ints,
    value: Floats,
    value_ms: Ints,
    heard_ms: Ints,
    changed_ms: Ints,
    values: Floats,
    observed: Bools,
    age_ms: Ints,
    frozen: Bools,
) -> None:
    """Put the observations of a round into `value` to `changed_ms` (slots, V), and write what frames hold.

    `group` is each row's place in `aggregated` to `told_ms`, negative for a frame without readings. The limits are
    those of `ValueLimits`; `values` to `frozen` are (rows, V).
    """
    for r in range(len(slots)):
        slot, g = slots[r], group[r]
        for v in range(len(hold_ms)):
            if is_reset[r]:
                value[slot, v], value_ms[slot, v] = np.nan, NEVER_MS
                heard_ms[slot, v], changed_ms[slot, v] = NEVER_MS, NEVER_MS
            observed[r, v] = g >= 0 and not np.isnan(aggregated[g, v])
            if observed[r, v]:
                now = np.float32(aggregated[g, v])
                if changed_ms[slot, v] == NEVER_MS or now != value[slot, v]:
                    changed_ms[slot, v] = observed_ms[g, v]
                value[slot, v], value_ms[slot, v] = now, observed_ms[g, v]
            if g >= 0:
                heard_ms[slot, v] = max(heard_ms[slot, v], told_ms[g, v])
            age = end_ms[r] - value_ms[slot, v]
            is_known = value_ms[slot, v] != NEVER_MS and end_ms[r] - heard_ms[slot, v] <= hold_ms[v]
            observed[r, v] = observed[r, v] or (holds[v] and is_known)
            values[r, v] = value[slot, v] if is_known else np.nan
            age_ms[r, v] = age if is_known else -1
        _mark_frozen(value_ms[slot], changed_ms[slot], source, frozen_ms, source_frozen_ms, frozen[r])


def _array(dtype: Any, dimensions: int) -> Any:
    return numba.types.Array(dtype, dimensions, "C")


_f32, _f64, _b, _i = numba.float32, numba.float64, numba.boolean, numba.int64
ADVANCE_VALUES: Final = CompiledFunction(
    advance_values,
    numba.void(
        *(_array(_i, 1), _array(_i, 1), _array(_b, 1), _array(_i, 1), _array(_f64, 2)),
        *(_array(_i, 2), _array(_i, 2)),
        *(_array(_i, 1), _array(_b, 1), _array(_i, 1), _array(_i, 1), _array(_i, 1)),
        *(_array(_f32, 2), _array(_i, 2), _array(_i, 2), _array(_i, 2)),
        *(_array(_f32, 2), _array(_b, 2), _array(_i, 2), _array(_b, 2)),
    ),
    [Path(__file__)],
    what="the alignment of readings",
)
