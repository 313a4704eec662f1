"""Scores of what is named in areas: how soon failed utilities are, beside machines' own alarms, and how often wrongly.

A cause reaches machines later than it begins. All delays are in frames since the cause's own beginning, of the area's
answer and of machines alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from models.evaluation.scoring import SETTLED_FRAMES
from pipeline.arrays import Bools, Floats, Ints
from pipeline.errors import DataError

NONE: Final = -1
FALSE_FRAMES: Final = 0.0005
"""Share of the frames without a cause in which a utility may be named."""
BLAMED: Final = 0.02
"""Share of the machines' own faults that may be blamed on a utility."""
MASK_FRAMES: Final = 60
"""How long a modality is missing at a time, when scores are taken with missing ones: 3 h of 3 minutes each."""
_COLUMNS: Final = ("area", "cause", "kind", "id", "fault", "start_ms", "end_ms", "machine", "onset_ms", "cleared_ms")


class AreaCause(NamedTuple):
    """What fails in the frames `[start, end)`: a utility, or a machine by itself; of the other the place is NONE."""

    utility: int
    machine: int
    fault: int
    start: int
    end: int
    reached: Mapping[int, tuple[int, int]]
    """By machine, the frames from the onset to the clearing of the fault there."""


@dataclass(frozen=True, slots=True)
class AreaTruth:
    """The causes of one area over T frames of N machines."""

    frames: int
    machines: int
    causes: tuple[AreaCause, ...]

    def shared(self) -> tuple[AreaCause, ...]:
        """Those that are utilities."""
        return tuple(cause for cause in self.causes if cause.utility != NONE)

    def own(self) -> tuple[AreaCause, ...]:
        """Those that are machines."""
        return tuple(cause for cause in self.causes if cause.utility == NONE)

    def calm(self) -> Bools:
        """(T,) frames without an active cause, nor one that cleared less than SETTLED_FRAMES ago: until then machines
        may still look as if it were there."""
        return ~self._within(self.causes, SETTLED_FRAMES)

    def clearing(self) -> Bools:
        """(T,) frames without an active cause that are not calm."""
        return self._within(self.causes, SETTLED_FRAMES) & ~self._within(self.causes, 0)

    def excused(self, utilities: int) -> Bools:
        """(T, U) whether a utility fails or did less than SETTLED_FRAMES ago, so that it may be named."""
        of_each = [[cause for cause in self.shared() if cause.utility == utility] for utility in range(utilities)]
        return np.stack([self._within(causes, SETTLED_FRAMES) for causes in of_each], axis=1)

    def _within(self, causes: Sequence[AreaCause], after: int) -> Bools:
        """(T,) frames in which one of these causes is active, at any machine, or was so few frames ago."""
        within = np.zeros(self.frames, np.bool_)
        for cause in causes:
            last = max((cleared for _, cleared in cause.reached.values()), default=cause.end)
            within[cause.start : max(last, cause.end) + after] = True
        return within


@dataclass(slots=True)
class AreaOutcome:
    """What became of the causes of one area, or of several."""

    delays: list[float] = field(default_factory=list)
    """Of each utility's failure until it is named; one that is not counts with its whole length."""
    machine_delays: list[float] = field(default_factory=list)
    """Until the median of the machines that it reaches alarms, by the same rule."""
    missed: list[bool] = field(default_factory=list)
    wrong: list[bool] = field(default_factory=list)
    """Whether another utility was named meanwhile."""
    false_frames: int = 0
    """Calm frames in which a utility is named."""
    calm_frames: int = 0
    late_frames: int = 0
    """The same of frames while causes clear."""
    clearing_frames: int = 0
    machine_false_frames: int = 0
    """Alarms of machines in calm frames."""
    machine_calm_frames: int = 0
    blamed: list[bool] = field(default_factory=list)
    """Of each machine's own fault, whether a utility was named meanwhile that was not excused."""
    own_delays: list[float] = field(default_factory=list)
    """Until an own fault is named at its machine."""
    own_missed: list[bool] = field(default_factory=list)


def read_truth(
    path: Path, area: str, start_ms: Ints, machines: Sequence[str], utilities: Sequence[str], classes: Sequence[str]
) -> AreaTruth:
    """The causes of an area from a table as `deploy/demo/simulate_area.py` writes it, for frames that start at
    `start_ms` (T,); raises DataError if a column is missing or a name is not of this area."""
    table = pq.read_table(path)
    if missing := sorted(set(_COLUMNS) - set(table.column_names)):
        raise DataError(f"{path} has no column {', '.join(missing)}; a table of causes has {', '.join(_COLUMNS)}")
    period = int(start_ms[1] - start_ms[0]) if len(start_ms) > 1 else 1

    def frame(time_ms: int) -> int:
        return min(max((time_ms - int(start_ms[0])) // period, 0), len(start_ms))

    found: dict[int, AreaCause] = {}
    for row in table.select(_COLUMNS).to_pylist():
        if row["area"] != area:
            continue
        of_utility = row["kind"] == "utility"
        try:
            machine, fault = machines.index(row["machine"]), classes.index(row["fault"])
            utility = utilities.index(row["id"]) if of_utility else NONE
        except ValueError as error:
            raise DataError(f"{path}, cause {row['cause']} of area {area}: {error}") from None
        cause = AreaCause(
            utility, NONE if of_utility else machine, fault, frame(row["start_ms"]), frame(row["end_ms"]), {}
        )
        reached = {
            **found.get(row["cause"], cause).reached,
            machine: (frame(row["onset_ms"]), frame(row["cleared_ms"])),
        }
        found[row["cause"]] = cause._replace(reached=reached)
    return AreaTruth(len(start_ms), len(machines), tuple(found.values()))


def machine_alarms(probabilities: Floats, quiet: Sequence[int]) -> Ints:
    """(T, N) the fault that each machine's own answer (T, N, C) names; 0 where that is a class without one, or none."""
    answer = probabilities.argmax(axis=-1)
    alarms: Ints = np.where(np.isin(answer, list(quiet)), 0, answer)
    return alarms


def raised_alarms(
    probabilities: Floats, quiet: Sequence[int], *, agree: int = 3, frames: int = 5, confidence: float = 0.5
) -> Ints:
    """(T, N) as `machine_alarms`, where so many of the last frames name the same fault with this confidence: when a
    worker raises an alarm, by default settings."""
    sure = probabilities.max(axis=-1) >= confidence
    named = np.where(sure, machine_alarms(probabilities, quiet), 0)
    agreeing = np.zeros(named.shape, np.int64)
    for back in range(frames):
        agreeing[back:] += named[: len(named) - back] == named[back:]
    raised: Ints = np.where(agreeing >= agree, named, 0)
    return raised


def draw_missing(shape: tuple[int, int, int], share: float, rng: np.random.Generator) -> Bools:
    """(M, T, N) which modalities are missing: each of each machine for MASK_FRAMES at a time, with this chance."""
    modalities, frames, machines = shape
    blocks = -(-frames // MASK_FRAMES)
    drawn = rng.random((modalities, blocks, machines)) < share
    missing: Bools = np.repeat(drawn, MASK_FRAMES, axis=1)[:, :frames]
    return missing


def area_outcome(truth: AreaTruth, named: Ints, alarms: Ints, own_names: Ints | None = None) -> AreaOutcome:
    """What became of an area's causes: the utility `named` in each frame (T,), NONE where none is, and the machines'
    own `alarms` (T, N), 0 where there is none. `own_names` (T, N) are the faults that the area says that machines have
    by themselves, by default their alarms."""
    outcome = AreaOutcome()
    for cause in truth.shared():
        while_active = named[cause.start : cause.end]
        right = while_active == cause.utility
        length = cause.end - cause.start
        if not length:
            continue
        outcome.delays.append(_first(right))
        outcome.missed.append(not right.any())
        outcome.wrong.append(bool((~right & (while_active != NONE)).any()))
        single = [
            _first_from(alarms[: cause.end, machine] != 0, cause.start, onset)
            for machine, (onset, _) in cause.reached.items()
        ]
        outcome.machine_delays.append(float(np.median(single)))
    calm, clearing = truth.calm(), truth.clearing()
    outcome.calm_frames, outcome.clearing_frames = int(calm.sum()), int(clearing.sum())
    outcome.false_frames = int((calm & (named != NONE)).sum())
    outcome.late_frames = int((clearing & (named != NONE)).sum())
    outcome.machine_false_frames = int((alarms[calm] != 0).sum())
    outcome.machine_calm_frames = outcome.calm_frames * truth.machines
    excused = truth.excused(int(named.max(initial=0)) + 1)
    unexcused = (named != NONE) & ~excused[np.arange(truth.frames), np.maximum(named, 0)]
    names = alarms if own_names is None else own_names
    for cause in truth.own():
        active = slice(cause.start, cause.end)
        outcome.blamed.append(bool(unexcused[active].any()))
        right = names[active, cause.machine] == cause.fault
        if len(right):
            outcome.own_delays.append(_first(right))
            outcome.own_missed.append(not right.any())
    return outcome


def area_scores(outcomes: Sequence[AreaOutcome]) -> dict[str, float | None]:
    """Scores over areas; None where there is nothing to score.

    `delay_*`: until a failed utility is named; `machine_delay_*`: the same of the median machine's alarm; `gain`: by
    which share the mean of the first is smaller; `sooner`: share of the failures that are named before that alarm;
    `missed`, `wrong_utility`: not named at all, and another named meanwhile. `false_frames`: share of calm frames
    in which a utility is named; `late_frames`: the same while causes clear; `machine_false_frames`: share of machines'
    calm frames in which they alarm; `blamed`: share of machines' own faults in which a utility is named. `own_delay_*`,
    `own_missed`: of naming own faults at their machines.
    """
    delays, single = _all(outcomes, "delays"), _all(outcomes, "machine_delays")
    own, alarm = _all(outcomes, "own_delays"), _mean(single)
    return {
        "delay_mean": _mean(delays),
        "delay_median": _median(delays),
        "machine_delay_mean": alarm,
        "machine_delay_median": _median(single),
        "gain": None if not alarm else 1 - float(delays.mean()) / alarm,
        "sooner": _mean(delays < single),
        "missed": _mean(_all(outcomes, "missed")),
        "wrong_utility": _mean(_all(outcomes, "wrong")),
        "false_frames": _share(outcomes, "false_frames", "calm_frames"),
        "late_frames": _share(outcomes, "late_frames", "clearing_frames"),
        "machine_false_frames": _share(outcomes, "machine_false_frames", "machine_calm_frames"),
        "blamed": _mean(_all(outcomes, "blamed")),
        "own_delay_mean": _mean(own),
        "own_delay_median": _median(own),
        "own_missed": _mean(_all(outcomes, "own_missed")),
    }


def score_intervals(
    outcomes: Sequence[Sequence[AreaOutcome]], rng: np.random.Generator, draws: int = 1000
) -> dict[str, tuple[float, float] | None]:
    """95 % intervals of the scores by drawing areas with replacement; `outcomes` has for each area those of every seed,
    which stay together. None of scores that cannot be computed in all draws."""
    drawn: dict[str, list[float | None]] = {}
    for _ in range(draws):
        chosen = rng.integers(len(outcomes), size=len(outcomes))
        for name, score in area_scores(list(chain.from_iterable(outcomes[area] for area in chosen))).items():
            drawn.setdefault(name, []).append(score)
    intervals: dict[str, tuple[float, float] | None] = {}
    for name, scores in drawn.items():
        values = [score for score in scores if score is not None]
        whole = len(values) == draws
        intervals[name] = (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))) if whole else None
    return intervals


def fit_threshold(scores: Floats, limit: float) -> float:
    """The smallest threshold that at most this share of the scores (F,) is over."""
    if not len(scores):
        raise DataError("a threshold needs scores of calm frames")
    ordered = np.sort(np.asarray(scores, np.float64))[::-1]
    return float(ordered[min(int(limit * len(ordered)), len(ordered) - 1)])


def fit_area_threshold(
    truths: Sequence[AreaTruth],
    scores: Sequence[Floats],
    *,
    false_frames: float = FALSE_FRAMES,
    blamed: float = BLAMED,
) -> float:
    """The smallest threshold that keeps both limits on these areas, for each of which there are `scores` (T, U) of
    its utilities; the utility with the highest one is named if that is over the threshold."""
    calm = np.concatenate([each[truth.calm()].max(axis=1) for truth, each in zip(truths, scores, strict=True)])
    peaks: list[float] = []
    for truth, each in zip(truths, scores, strict=True):
        excused = truth.excused(each.shape[1])
        best = each.argmax(axis=1)
        rows = np.arange(len(each))
        blaming = np.where(excused[rows, best], -np.inf, each[rows, best])
        peaks += [float(blaming[cause.start : cause.end].max(initial=-np.inf)) for cause in truth.own()]
    threshold = fit_threshold(calm, false_frames)
    return max(threshold, fit_threshold(np.array(peaks), blamed)) if peaks else threshold


def _first(right: Bools) -> float:
    """The first true place (T,), or the length."""
    return float(right.argmax() if right.any() else len(right))


def _first_from(alarms: Bools, start: int, onset: int) -> float:
    """Frames from `start` to the first alarm (T,) at or after the onset, or to the end."""
    return min(onset, len(alarms)) - start + _first(alarms[onset:])


def _all(outcomes: Sequence[AreaOutcome], name: str) -> Floats:
    values: Floats = np.array(list(chain.from_iterable(getattr(one, name) for one in outcomes)), np.float64)
    return values


def _share(outcomes: Sequence[AreaOutcome], part: str, whole: str) -> float | None:
    total = sum(getattr(one, whole) for one in outcomes)
    return sum(getattr(one, part) for one in outcomes) / total if total else None


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _median(values: Floats) -> float | None:
    return float(np.median(values)) if len(values) else None
