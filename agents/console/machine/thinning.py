"""Trends for a page: long ones are thinned without hiding a peak, and holes stay holes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 600
"""Values of a trend that a page gets, at most."""

_PER_COLUMN = 4
"""The first, the last, the smallest and the largest value of a column of pixels."""


def thinned(
    times: NDArray[np.int64], values: NDArray[np.float64], begin_ms: int, end_ms: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """At most MAX_POINTS of the values (N,), which are in the order of time and none of which is NaN.

    The span is cut into equal columns, and of each its first, last, smallest and largest value are kept: a line drawn
    through them covers the same pixels as one through all values.
    """
    if len(times) <= MAX_POINTS:
        return times, values
    columns = MAX_POINTS // _PER_COLUMN
    column = (times - begin_ms) * columns // max(end_ms - begin_ms, 1)
    starts = np.flatnonzero(np.append(True, column[1:] != column[:-1]))
    ends = np.append(starts[1:], len(times))
    kept = {place for pair in zip(starts.tolist(), (ends - 1).tolist(), strict=True) for place in pair}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        inside = values[start:end]
        kept |= {start + int(inside.argmin()), start + int(inside.argmax())}
    places = np.array(sorted(kept), np.int64)
    return times[places], values[places]


def points(
    times: NDArray[np.int64], values: NDArray[np.float64], begin_ms: int, end_ms: int, hole_ms: int
) -> list[tuple[int, float | None]]:
    """The points of a trend, with a hole wherever there is no value for longer than `hole_ms`.

    Values have seven digits, which is what frames have.
    """
    hole_times = times[np.flatnonzero(np.diff(times) > hole_ms)]  # of the last value before each hole
    shown_times, shown_values = thinned(times, values, begin_ms, end_ms)
    found: list[tuple[int, float | None]] = []
    next_holes = np.searchsorted(hole_times, shown_times).tolist()  # that behind each shown value
    for place, (time_ms, value) in enumerate(zip(shown_times.tolist(), shown_values.tolist(), strict=True)):
        found.append((time_ms, float(f"{value:.7g}")))
        hole = next_holes[place]
        if hole < len(hole_times) and place + 1 < len(shown_times) and hole_times[hole] < shown_times[place + 1]:
            found.append((int(hole_times[hole]) + 1, None))
    return found
