"""Aggregation: the readings of each frame become one value per variable."""

from __future__ import annotations

import numpy as np

from pipeline.arrays import NEVER_MS, Bools, Ints, Matrix
from pipeline.config.profile import Variable

UNCHANGED = -np.inf
"""Stands in waiting readings of sources that report changes for the values that they do not give."""


def mark_unchanged(values: Matrix, is_own: Bools) -> Matrix:
    """Readings as they wait; `is_own` (n, V) says which variables are of a reading's source, if it reports changes."""
    return np.where(np.isnan(values) & is_own, UNCHANGED, values)


def newest_heard(times: Ints, values: Matrix, starts: Ints) -> Ints:
    """Per frame and variable, when its source last told of it, though it be that it has not changed; else NEVER_MS.

    Rows are as in `aggregate`; in `values` there is NaN afterwards for what has not changed.
    """
    index = np.where(np.isnan(values), -1, np.arange(len(times))[:, None])
    values[values == UNCHANGED] = np.nan
    last = np.maximum.reduceat(index, starts, axis=0)
    return np.where(last >= 0, times[np.maximum(last, 0)], NEVER_MS)


def aggregate(times: Ints, values: Matrix, starts: Ints, variables: tuple[Variable, ...]) -> tuple[Matrix, Ints]:
    """Per frame and variable, its aggregate and when it was last observed; NaN and NEVER_MS where never.

    Rows are readings, sorted by machine, time and arrival; each frame's rows begin at one of `starts`.
    """
    has_value = ~np.isnan(values)
    if len(starts) == len(times):  # one reading a frame
        aggregated = values.copy()
        last_ms = np.where(has_value, times[:, None], NEVER_MS)
    else:
        index = np.where(has_value, np.arange(len(times))[:, None], -1)
        last = np.maximum.reduceat(index, starts, axis=0)
        aggregated = np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=0), np.nan)
        last_ms = np.where(last >= 0, times[np.maximum(last, 0)], NEVER_MS)
    for how in {variable.aggregation for variable in variables} - {"last"}:
        columns = [column for column, variable in enumerate(variables) if variable.aggregation == how]
        aggregated[:, columns] = _aggregate_as(how, values[:, columns], has_value[:, columns], starts)
    return aggregated, last_ms


def _aggregate_as(how: str, values: Matrix, has_value: Bools, starts: Ints) -> Matrix:
    count = np.add.reduceat(has_value.astype(np.float64), starts, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        if how == "min":
            out = np.minimum.reduceat(np.where(has_value, values, np.inf), starts, axis=0)
        elif how == "max":
            out = np.maximum.reduceat(np.where(has_value, values, -np.inf), starts, axis=0)
        elif how == "count":
            out = count
        else:
            out = np.add.reduceat(np.where(has_value, values, 0.0), starts, axis=0) / count
            if how == "std":
                members = np.diff(np.append(starts, len(values)))
                difference = np.where(has_value, values - np.repeat(out, members, axis=0), 0.0)
                out = np.sqrt(np.add.reduceat(difference * difference, starts, axis=0) / count)
    aggregated: Matrix = np.where(count > 0, out, np.nan)
    return aggregated


def drop_repeats(slots: Ints, times: Ints, values: Matrix, last_counts: Bools) -> int:
    """Blank values given before for the same machine, time and variable; counts readings that gave nothing new.

    Rows are sorted by machine and time, and by arrival among equals: the first to arrive counts, or for the variables
    in `last_counts` (V,) the last.
    """
    same = np.flatnonzero((slots[1:] == slots[:-1]) & (times[1:] == times[:-1])) + 1
    repeats = 0
    given: Bools | None = None
    previous = -1
    for row in same.tolist():
        if previous != row - 1 or given is None:
            given = ~np.isnan(values[row - 1])
        new = ~np.isnan(values[row]) & (last_counts | ~given)
        repeats += not new.any()
        values[row, ~new] = np.nan
        given |= new
        previous = row
    return repeats
