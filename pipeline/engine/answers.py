"""The numbers in the diagnoses of a round, as whole numbers of their last decimals, computed in compiled code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Bools, Floats, Ints
from pipeline.compiled import CompiledFunction, Notify, kernel, logarithm
from pipeline.compiled.logarithm import log
from pipeline.config.sections.titles import ComponentTable
from pipeline.frames import Frames, StepResult
from pipeline.wire import diagnosis_columns
from pipeline.wire.diagnosis_columns import (
    AGE_MS,
    CONFIDENCE,
    DEVIATIONS,
    DISAGREEMENT,
    END_MS,
    ENTROPY,
    FAULT,
    FIRST_CANDIDATE,
    HUNDREDTHS,
    LARGEST,
    LATER_CANDIDATE,
    MODALITIES,
    MODALITY_COLUMNS,
    NO_CANDIDATE,
    OWN_CONFIDENCE,
    OWN_FAULT,
    PRESENT,
    RESET,
    REVISION,
    SILENT,
    START_MS,
    TOP,
    TOP_VARIABLES,
    UNDEFINED,
    UNIT,
    VARIABLES,
    WEIGHT,
    Parts,
)

NOTABLE_DEVIATION: Final = 3.0
LEAST_CONTRIBUTION: Final = 1e-6
"""To the novelty, of a variable that an unknown fault is explained by."""

_TOO_LARGE: Final = 1e12
"""Numbers from here on are UNDEFINED: their units might not fit into 64 bits."""

_THOUSANDTHS: Final = 1_000
_LARGEST_NUMBER: Final = 1e8
"""What novelty and remaining life are cut at."""

_NO_ATTENTION = np.zeros((0, 0, 0), np.float32)
_NO_DEVIATIONS = np.zeros((0, 0), np.float32)


class _Components(NamedTuple):
    """A ComponentTable as compiled code takes it, and the column of the first component."""

    first_column: int
    size: int
    faults: Ints
    components: Ints
    shares: NDArray[np.float64]


def parts_of(result: StepResult, components: int) -> Parts:
    """What the result has of the numbers that only some models have, beside this many components."""
    modalities, _, classes = result.modality_probabilities.shape
    return Parts(
        modalities,
        classes,
        attention=result.attention is not None,
        novelty=result.novelty is not None,
        candidates=result.candidates is not None,
        remaining=result.remaining is not None,
        components=components,
    )


class RoundAnswers:
    """Computes rows of numbers from the results of a model's steps."""

    def __init__(self, text: int, unknown: int, columns: Bools, table: ComponentTable, notify: Notify) -> None:
        """`text` is the index of the text modality, whose age the caller knows, `unknown` that of the class of unknown
        faults; -1 if there is none. `columns` (M, V) are the variables of each modality."""
        self._text, self._unknown, self._columns = text, unknown, columns
        self._components = (
            len(table.names),
            np.array(table.faults, np.int64),
            np.array(table.components, np.int64),
            np.array(table.shares, np.float64),
        )
        self._notify = notify

    def load(self) -> Any:
        """The compiled function, at once if it was loaded before."""
        return _FUNCTION.load(self._notify)

    def compute(self, frames: Frames, result: StepResult, parts: Parts, text_age_ms: Ints) -> Ints:
        """One row for each machine of the round; `text_age_ms` (B,) is UNDEFINED where no text is remembered."""
        attention = _NO_ATTENTION if result.attention is None else result.attention
        deviations = _NO_DEVIATIONS
        if result.deviations is not None:
            # A variable without a value is no evidence that could be shown.
            deviations = np.where(np.isnan(frames.values), np.float32(0), result.deviations)
        numbers = np.empty((len(frames.slots), parts.columns), np.int64)
        numbers[:, START_MS], numbers[:, END_MS] = frames.start_ms, frames.end_ms
        numbers[:, RESET], numbers[:, REVISION] = frames.reset_reason, frames.revision
        self.load()(
            _plain(result.probabilities, np.float32),
            _plain(result.modality_probabilities, np.float32),
            _plain(result.weights, np.float32),
            _plain(result.present, np.bool_),
            _plain(result.scaled, np.float32),
            _plain(attention, np.float32),
            _plain(deviations, np.float32),
            _plain(frames.observed, np.bool_),
            _plain(frames.age_ms, np.int64),
            self._text,
            self._unknown,
            self._columns,
            text_age_ms,
            _Components(parts.components_at, *self._components),
            numbers,
        )
        _write_parts(result, parts, numbers)
        return numbers


def _write_parts(result: StepResult, parts: Parts, numbers: Ints) -> None:
    """Novelty, candidates and remaining life, where the model has them."""
    if result.novelty is not None:
        numbers[:, parts.novelty_at] = _coarse_units(result.novelty, _THOUSANDTHS)
    if result.candidates is not None:
        at, named = parts.candidates_at, result.candidates
        numbers[:, at] = named.any(axis=1)
        order = np.where(np.cumsum(named, axis=1) == 1, FIRST_CANDIDATE, LATER_CANDIDATE)
        numbers[:, at + 1 : at + 1 + parts.classes] = np.where(named, order, NO_CANDIDATE)
    if result.remaining is not None:
        at = parts.remaining_at
        known = ~np.isnan(result.remaining.sum(axis=1))
        numbers[:, at] = known
        units_ = _coarse_units(result.remaining, HUNDREDTHS)
        numbers[:, at + 1 : at + 1 + result.remaining.shape[1]] = np.where(known[:, None], units_, UNDEFINED)


def _coarse_units(x: Floats, per_one: int) -> Ints:
    """Numbers that are not negative in units, but rounded to `per_one` parts of 1, halves up; UNDEFINED where NaN."""
    known = np.clip(np.where(np.isnan(x), 0, x).astype(np.float64), 0, _LARGEST_NUMBER)
    rounded = np.floor(known * per_one + 0.5).astype(np.int64) * (UNIT // per_one)
    return np.where(np.isnan(x), UNDEFINED, rounded)


def _plain(array: Any, dtype: Any) -> Any:
    return np.ascontiguousarray(array, dtype)


@kernel
def units(x: float, per_one: int) -> int:
    """`x` as a whole number of units, halves rounded up; the product is exact for a float32 and a small `per_one`."""
    y = x * per_one
    return int(y + 0.5) if 0.0 <= y < _TOO_LARGE else UNDEFINED


@kernel
def _entropy(p: Floats) -> float:
    entropy = 0.0
    for share in p:
        if share > 0:
            entropy -= np.float64(share) * log(np.float64(share))
    return entropy


@kernel
def _divergence(probabilities: Floats, present: Bools, row: int, count: int) -> float:
    """Jensen-Shannon divergence in nats between the `count` modalities that are present."""
    modalities, _, classes = probabilities.shape
    mixed, own = 0.0, 0.0
    for c in range(classes):
        mean = 0.0
        for m in range(modalities):
            if present[m, row]:
                p = np.float64(probabilities[m, row, c])
                mean += p
                if p > 0:
                    own -= p * log(p)
        mean /= count
        if mean > 0:
            mixed -= mean * log(mean)
    return mixed - own / count


@kernel
def _most_probable(p: Floats) -> int:
    best = 0
    for c in range(1, len(p)):
        if p[c] > p[best]:
            best = c
    return best


@kernel
def _notable(scaled: Floats, measure: Floats, minimum: float, row: Ints) -> None:
    """The variables that have the largest measure, the largest first, if it is large enough; among equal ones the
    first."""
    top = row[TOP : TOP + TOP_VARIABLES]
    count = 0
    for v in range(len(scaled)):
        distance = abs(measure[v])
        if not distance >= minimum:
            continue
        place = count
        while place > 0 and abs(measure[top[place - 1]]) < distance:
            place -= 1
        if place == TOP_VARIABLES:
            continue
        count = min(count + 1, TOP_VARIABLES)
        for later in range(count - 1, place, -1):
            top[later] = top[later - 1]
        top[place] = v
    row[VARIABLES] = count
    for place in range(count):
        deviation = np.float64(scaled[top[place]])
        distance_units = units(abs(deviation), HUNDREDTHS)
        is_below = deviation < 0 and distance_units != UNDEFINED
        row[DEVIATIONS + place] = -distance_units if is_below else distance_units


@kernel
def _show_evidence(scaled: Floats, deviations: Floats, unknown: int, row: Ints) -> None:
    """An unknown fault is explained by what contributes to the novelty, if the model says so: `deviations` (1, V), or
    (0, 0); anything else by the distance from the normal range."""
    if row[FAULT] >= 0 and row[FAULT] == unknown and len(deviations) > 0:
        _notable(scaled, deviations[0], LEAST_CONTRIBUTION, row)
    else:
        _notable(scaled, scaled, NOTABLE_DEVIATION, row)


@kernel
def _newest(age_ms: Ints, columns: Bools) -> int:
    """The age of the newest value of these variables."""
    newest: int = UNDEFINED
    for v in range(len(age_ms)):
        age = age_ms[v]
        if columns[v] and age >= 0 and (newest < 0 or age < newest):
            newest = age
    return newest


@kernel
def _add_components(p: Floats, table: _Components, row: Ints) -> None:
    """The probability of each component: shares of its faults' probabilities, summed in the table's order."""
    entry = 0
    for component in range(table.size):
        total = 0.0
        while entry < len(table.faults) and table.components[entry] == component:
            total += table.shares[entry] * np.float64(p[table.faults[entry]])
            entry += 1
        row[table.first_column + component] = units(total, UNIT)


def compute_answers(
    probabilities: Floats,
    modality_probabilities: Floats,
    weights: Floats,
    present: Bools,
    scaled: Floats,
    attention: Floats,
    deviations: Floats,
    observed: Bools,
    age_ms: Ints,
    text: int,
    unknown: int,
    columns: Bools,
    text_age_ms: Ints,
    components: _Components,
    numbers: Ints,
) -> None:
    modalities, rows, classes = modality_probabilities.shape
    first = MODALITIES + modalities * MODALITY_COLUMNS
    for r in range(rows):
        row = numbers[r]
        p = probabilities[r]
        for c in range(classes):
            row[first + c] = units(np.float64(p[c]), UNIT)
        count = 0
        for m in range(modalities):
            own = row[MODALITIES + m * MODALITY_COLUMNS : MODALITIES + (m + 1) * MODALITY_COLUMNS]
            own[PRESENT], own[OWN_FAULT], own[OWN_CONFIDENCE] = 0, -1, 0
            own[AGE_MS] = text_age_ms[r] if m == text else UNDEFINED
            own[WEIGHT] = units(np.float64(weights[m, r]), UNIT)
            if present[m, r]:
                count += 1
                best = _most_probable(modality_probabilities[m, r])
                own[PRESENT], own[OWN_FAULT] = 1, best
                own[OWN_CONFIDENCE] = units(np.float64(modality_probabilities[m, r, best]), UNIT)
                if m != text:
                    own[AGE_MS] = _newest(age_ms[r], columns[m])
        best = _most_probable(p)
        row[FAULT], row[CONFIDENCE], row[LARGEST] = -1, 0, row[first + best]
        if count > 0:
            row[FAULT], row[CONFIDENCE] = best, row[LARGEST]
        row[ENTROPY] = units(max(_entropy(p), 0.0), UNIT)
        row[DISAGREEMENT] = 0
        if count > 1:
            row[DISAGREEMENT] = units(max(_divergence(modality_probabilities, present, r, count), 0.0), UNIT)
        row[SILENT] = 1
        for is_observed in observed[r]:
            if is_observed:
                row[SILENT] = 0
                break
        _show_evidence(scaled[r], deviations[r : r + 1], unknown, row)
        _add_components(p, components, row)
        if len(attention) > 0:
            at = first + classes
            for given in attention[r].ravel():
                row[at] = units(np.float64(given), UNIT)
                at += 1


def _array(dtype: Any, dimensions: int) -> Any:
    return numba.types.Array(dtype, dimensions, "C")


_f, _b, _i = numba.float32, numba.boolean, numba.int64
_FUNCTION: Final = CompiledFunction(
    compute_answers,
    numba.void(
        *(_array(_f, 2), _array(_f, 3), _array(_f, 2), _array(_b, 2), _array(_f, 2), _array(_f, 3)),
        *(_array(_f, 2), _array(_b, 2), _array(_i, 2), _i, _i, _array(_b, 2), _array(_i, 1)),
        numba.types.NamedTuple((_i, _i, _array(_i, 1), _array(_i, 1), _array(numba.float64, 1)), _Components),
        _array(_i, 2),
    ),
    [Path(file) for file in (__file__, logarithm.__file__, diagnosis_columns.__file__)],
    what="the numbers in diagnoses",
)
