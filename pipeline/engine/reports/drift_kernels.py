"""Compiled parts of the drift report: a frame is added to its machine's window, and a full window is judged.

A window of a machine has, by variable, how often it was measured, and sum and sum of squares of its standard scores in
frames that were diagnosed as normal or unknown; and sums over the machine's answers. A full window gives a value of
each statistic. The first ones of a machine are its reference: their mean, and the deviation between them, which
contains all that moves slowly. Of later ones, in each direction, the excess of their distance over a tolerance is
summed up: a two-sided CUSUM chart.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Bools, Floats, Ints, Matrix
from pipeline.compiled import CompiledFunction, kernel
from pipeline.engine.reports import drift_rule
from pipeline.engine.reports.drift_rule import SUM_DEVIATIONS

MAX_SCORE: Final = 10.0
"""Standard scores are cut here, so that a single wild value moves no mean."""

MIN_MEASURED: Final = 8.0
"""A variable that was measured less often in a window has no level and no spread there."""

# Sums over the answers in a window, behind the sums of the variables.
START_MS: Final = 0  # of its first frame; negative before that
FRAMES: Final = 1
MEASURED: Final = 2  # frames with any reading
NORMAL: Final = 3  # frames that were diagnosed as normal
CONFIDENCE: Final = 4  # over these
SEVERAL: Final = 5  # frames among these in which several modalities were present
DISAGREEMENT: Final = 6  # over these
ANSWERED: Final = 7  # frames with evidence
UNKNOWN: Final = 8  # frames among these that were diagnosed as unknown
ANSWER_SUMS: Final = 9

# What the reference has of each statistic.
COUNT: Final = 0
MEAN: Final = 1
SQUARES: Final = 2
REFERENCE_ROWS: Final = 3

# What is told of each statistic of a full window.
VALUE: Final = 0  # not a number if there was too little to tell
EXPECTED: Final = 1
TOLERANCE: Final = 2  # how far from that a window may be
SINCE_MS: Final = 3  # when the excess of a drift that ends began
TOLD: Final = 4

# Changes; both where a drift in the other direction follows at once.
STARTED: Final = 1
ENDED: Final = 2


def add_frames(
    slots: Ints,
    start_ms: Ints,
    scaled: Floats,
    observed: Bools,
    present: Bools,
    faults: Ints,
    confidence: Floats,
    disagreement: Matrix,
    unknown: int,
    window_frames: int,
    sums: Matrix,
    counts: Floats,
) -> bool:
    """Add a frame to the window of each row; whether any is full."""
    variables = scaled.shape[1]
    any_full = False
    for r in range(len(slots)):
        own, count = sums[slots[r]], counts[slots[r]]
        answers = own[2 * variables :]
        if answers[FRAMES] == 0:
            answers[START_MS] = start_ms[r]
        answers[FRAMES] += 1
        is_normal = faults[r] == 0
        # A drift far enough from the normal state is unknown to a detector; a fault with a name is no drift.
        is_unnamed = is_normal or (unknown >= 0 and faults[r] == unknown)
        is_measured = False
        for v in range(variables):
            if not observed[r, v]:
                continue
            is_measured = True
            count[variables + v] += 1
            given = np.float64(scaled[r, v])
            if is_unnamed and abs(given) < math.inf:
                score = min(max(given, -MAX_SCORE), MAX_SCORE)
                count[v] += 1
                own[v] += score
                own[variables + v] += score * score
        answers[MEASURED] += is_measured
        if is_normal:
            answers[NORMAL] += 1
            answers[CONFIDENCE] += np.float64(confidence[r])
            modalities = 0
            for m in range(len(present)):
                modalities += present[m, r]
            if modalities > 1:
                answers[SEVERAL] += 1
                answers[DISAGREEMENT] += disagreement[r]
        if faults[r] >= 0:
            answers[ANSWERED] += 1
            answers[UNKNOWN] += faults[r] == unknown
        any_full |= answers[FRAMES] >= window_frames
    return any_full


@kernel
def _write_values(own: Matrix, count: Floats, is_unknown_known: bool, told: Matrix) -> None:
    """Write the value of each statistic of a full window."""
    variables = len(count) // 2
    answers = own[2 * variables :]
    half = answers[FRAMES] / 2
    told[:, VALUE] = math.nan
    for v in range(variables):
        if answers[MEASURED] >= half:
            told[2 * variables + v, VALUE] = 1.0 - np.float64(count[variables + v]) / answers[MEASURED]
        measured = np.float64(count[v])
        if answers[NORMAL] + answers[UNKNOWN] >= half and measured >= MIN_MEASURED:
            mean = own[v] / measured
            told[v, VALUE] = mean
            told[variables + v, VALUE] = math.sqrt(max(own[variables + v] / measured - mean * mean, 0.0))
    machine = told[3 * variables :]
    if answers[NORMAL] >= half:
        machine[0, VALUE] = answers[CONFIDENCE] / answers[NORMAL]
    if answers[SEVERAL] >= half:
        machine[1, VALUE] = answers[DISAGREEMENT] / answers[SEVERAL]
    if is_unknown_known and answers[ANSWERED] >= half:
        machine[2, VALUE] = answers[UNKNOWN] / answers[ANSWERED]


@kernel
def _learn(reference: Floats, statistic: int, value: float) -> None:
    """Add a window's value to the reference of a statistic."""
    windows = np.float64(reference[COUNT, statistic]) + 1
    mean = np.float64(reference[MEAN, statistic])
    distance = value - mean
    mean += distance / windows
    reference[COUNT, statistic] = windows
    reference[MEAN, statistic] = mean
    reference[SQUARES, statistic] += distance * (value - mean)


def judge_windows(
    slots: Ints,
    window_frames: int,
    reference_windows: int,
    fixed_levels: bool,
    unknown: int,
    smallest: Matrix,
    sums: Matrix,
    counts: Floats,
    reference: NDArray[np.float32],
    excess: Matrix,
    since: Matrix,
    standing: NDArray[np.int8],
    told: Matrix,
    changes: NDArray[np.int8],
) -> None:
    """Judge the windows of the rows that are full, and begin new ones; write what changed."""
    variables, statistics = counts.shape[1] // 2, standing.shape[1]
    for r in range(len(slots)):
        slot = slots[r]
        changes[r] = 0
        answers = sums[slot, 2 * variables :]
        if answers[FRAMES] < window_frames:
            continue
        _write_values(sums[slot], counts[slot], unknown >= 0, told[r])
        for s in range(statistics):
            value = told[r, s, VALUE]
            if math.isnan(value):
                continue
            if reference[slot, COUNT, s] < reference_windows:
                _learn(reference[slot], s, value)
                continue
            expected = 0.0 if fixed_levels and s < variables else np.float64(reference[slot, MEAN, s])
            deviation = math.sqrt(np.float64(reference[slot, SQUARES, s]) / (np.float64(reference[slot, COUNT, s]) - 1))
            tolerance, limit = max(0.5 * smallest[s], deviation), max(smallest[s], SUM_DEVIATIONS * deviation)
            told[r, s, EXPECTED], told[r, s, TOLERANCE] = expected, tolerance
            for side in range(2):
                place = side * statistics + s
                direction = 1 - 2 * side
                beyond = direction * (value - expected) - tolerance
                if standing[slot, s] == direction and beyond <= 0:
                    changes[r, s] = ENDED
                    told[r, s, SINCE_MS] = since[slot, place]
                    standing[slot, s] = 0
                    excess[slot, place] = 0.0
                excess[slot, place] = max(excess[slot, place] + beyond, 0.0)
                if excess[slot, place] == 0:
                    since[slot, place] = -1.0
                elif since[slot, place] < 0:
                    since[slot, place] = answers[START_MS]
            for side in range(2):
                if standing[slot, s] == 0 and excess[slot, side * statistics + s] > limit:
                    changes[r, s] |= STARTED
                    standing[slot, s] = 1 - 2 * side
        sums[slot] = 0.0
        counts[slot] = 0.0


def _array(dtype: Any, dimensions: int) -> Any:
    return numba.types.Array(dtype, dimensions, "C")


_f32, _f64, _i64, _i8, _b = numba.float32, numba.float64, numba.int64, numba.int8, numba.boolean
_SOURCES = [Path(__file__), Path(drift_rule.__file__)]
ADD_FRAMES: Final = CompiledFunction(
    add_frames,
    numba.boolean(
        *(_array(_i64, 1), _array(_i64, 1), _array(_f32, 2), _array(_b, 2), _array(_b, 2), _array(_i64, 1)),
        *(_array(_f32, 1), _array(_f64, 1), _i64, _i64, _array(_f64, 2), _array(_f32, 2)),
    ),
    _SOURCES,
    what="the windows of drift",
)
JUDGE_WINDOWS: Final = CompiledFunction(
    judge_windows,
    numba.void(
        *(_array(_i64, 1), _i64, _i64, _b, _i64, _array(_f64, 1), _array(_f64, 2), _array(_f32, 2)),
        *(_array(_f32, 3), _array(_f64, 2), _array(_f64, 2), _array(_i8, 2), _array(_f64, 3), _array(_i8, 2)),
    ),
    _SOURCES,
    what="the judgement of drift",
)
