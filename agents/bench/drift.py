"""`faultline bench drift`: how soon a slow drift of one variable is reported, and how many reports come without one.

Runs of normal frames go through the engine as machines, one each, first as they are and then with a ramp added to one
variable of each.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from agents.bench.align import CHUNK_RECORDS
from models.data.runs import Run, RunFiles, read_runs
from models.model_file import in_units_of, read_model, require_profile
from models.stepping.load import load_model
from pipeline.arrays import Floats
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.topics import DRIFT
from pipeline.engine.engine import Engine
from pipeline.engine.reports.drift_report import DriftReport, decode_drift_report
from pipeline.engine.reports.drift_rule import DAY_MS, DriftKind, DriftRule
from pipeline.errors import DataError
from pipeline.wire.records import Record

_BEGIN_MS = 1_763_596_800_000
_QUIET_WINDOWS = 2.5
"""Windows between the reference and the start of a ramp, which so does not begin with a window."""

_COST_ROUNDS = 7
_COST_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class Ramp:
    """A drift that is added to one variable: from `start` until `end`, in frames, and then as large as it is."""

    variable: int
    size: float  # in the variable's unit
    start: int
    end: int

    def added_to(self, values: Floats) -> Floats:
        """Readings (T, V) with the ramp."""
        changed = values.copy()
        frames = np.arange(len(values))
        share = np.clip((frames - self.start) / max(self.end - self.start, 1), 0, 1)
        changed[:, self.variable] += (share * self.size).astype(np.float32)
        return changed


def bench_drift(
    runs: Path,
    model: Path,
    profile: PlantProfile,
    rule: DriftRule,
    *,
    sigma: float = 1.0,
    ramp_days: float = 7.0,
    passes: int = 5,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Reports without and with a drift of `sigma` standard deviations of the training over so many days.

    Each pass draws another variable and a direction for each run. Raises DataError if the runs are too short.
    """
    (kind,) = profile.machine_types[:1]
    given = read_runs(RunFiles(paths=(runs,)), kind)
    trained = read_model(model)
    require_profile(trained, kind)
    deviations = in_units_of(trained, kind).tensors["std"]
    window = rule.window_frames(kind.frame_period_ms)
    day = DAY_MS / kind.frame_period_ms
    start = round((rule.reference_windows + _QUIET_WINDOWS) * window)
    end = start + round(ramp_days * day)
    shortest = min(len(run) for run in given)
    if shortest < end + 2 * window:
        raise DataError(
            f"{runs}: a run has {shortest:,} frames; {rule.reference_windows} windows of reference and a ramp of "
            f"{ramp_days:g} days need {end + 2 * window:,}; give longer runs, or a smaller --ramp-days"
        )

    def make(drift_rule: DriftRule | None) -> Engine:
        return Engine(profile, {kind.name: load_model(model, kind)}, drift_rule=drift_rule)

    def reports(ramps: Mapping[int, Ramp]) -> list[DriftReport]:
        return list(_reports(make(rule), kind, given, ramps))

    normal = [one for one in reports({}) if one.state == "started"]
    say(f"{len(given)} runs without a drift: {len(normal)} reports")
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for number in range(passes):
        variables = rng.permutation(len(kind.variables))
        ramps = {
            index: Ramp(
                int(variables[index % len(variables)]),
                float(rng.choice([-1, 1]) * sigma * deviations[variables[index % len(variables)]]),
                start,
                end,
            )
            for index in range(len(given))
        }
        outcomes = _outcomes(kind, reports(ramps), ramps)
        found += outcomes
        right = sum(one["right"] for one in outcomes)
        say(f"pass {number + 1} of {passes}: {right} of {len(outcomes)} with the right variable first")
    monitored = sum(len(run) / day - rule.reference_windows * window / day for run in given)
    summary = _summary(normal, found, monitored, len(given), sigma, ramp_days, seed)
    chunks = list(islice(_chunks(kind, [run.values for run in given]), _COST_CHUNKS))
    return summary | {"time_per_reading_with_to_without": round(_cost(make, chunks, rule), 3)}


def _summary(
    normal: Sequence[DriftReport],
    found: Sequence[Mapping[str, Any]],
    monitored_days: float,
    runs: int,
    sigma: float,
    ramp_days: float,
    seed: int,
) -> dict[str, Any]:
    right = [one for one in found if one["right"]]
    delays = sorted(one["days_after_start"] for one in right)
    return {
        "runs": runs,
        "monitored_days_without_drift": round(monitored_days, 1),
        "reports_without_drift": len(normal),
        "about": sorted({f"{one.kind} {one.variable or ''}".strip() for one in normal}),
        "drift_sigma": sigma,
        "drift_days": ramp_days,
        "drifts": len(found),
        "reported": sum(one["first"] is not None for one in found),
        "right_variable_first": len(right),
        "median_days_after_start": round(median(delays), 2) if delays else None,
        "longest_days_after_start": round(delays[-1], 2) if delays else None,
        "longest_days_after_end": round(delays[-1] - ramp_days, 2) if delays else None,
        "other_variables": sum(one["others"] for one in found),
        "of_the_machine": Counter(kind for one in found for kind in one["of_machine"]),
        "not_right": [one for one in found if not one["right"]],
        "seed": seed,
    }


def _outcomes(kind: MachineType, reports: Sequence[DriftReport], ramps: Mapping[int, Ramp]) -> list[dict[str, Any]]:
    """Of each machine what was reported first, and how long after the start of its ramp."""
    outcomes = []
    for index, ramp in ramps.items():
        start_ms = _BEGIN_MS + ramp.start * kind.frame_period_ms
        name = kind.variable_names[ramp.variable]
        began = [one for one in reports if one.machine == _name(index) and one.state == "started"]
        of_machine = [one for one in began if one.time > start_ms and one.variable is None]
        own = [one for one in began if one.time > start_ms and one.variable is not None]
        first = own[0] if own else None
        is_right = first is not None and (first.kind, first.variable) == (DriftKind.LEVEL, name)
        outcomes.append(
            {
                "machine": _name(index),
                "variable": name,
                "first": None if first is None else f"{first.kind} {first.variable or ''}".strip(),
                "right": is_right and (first is not None) and (first.direction == "up") == (ramp.size > 0),
                "days_after_start": None if first is None else (first.time - start_ms) / DAY_MS,
                "of_machine": [one.kind for one in of_machine],
                "others": sum((one.kind, one.variable) != (DriftKind.LEVEL, name) for one in own),
            }
        )
    return outcomes


def _name(index: int) -> str:
    return f"te-{index:02d}"


def _reports(
    engine: Engine, kind: MachineType, runs: Sequence[Run], ramps: Mapping[int, Ramp]
) -> Iterator[DriftReport]:
    """What the engine reports of these runs, each of which is a machine."""
    columns = [ramps[index].added_to(run.values) if index in ramps else run.values for index, run in enumerate(runs)]
    for chunk in _chunks(kind, columns):
        for output in engine.process(chunk):
            if output.topic == DRIFT:
                yield decode_drift_report(output.value or b"")


def _chunks(kind: MachineType, columns: Sequence[Floats]) -> Iterator[list[Record]]:
    """One reading of every machine in each frame, as records."""
    (topic,) = {source.topic for source in kind.sources.values()}
    records: list[Record] = []
    for frame in range(max(map(len, columns))):
        time_ms = _BEGIN_MS + frame * kind.frame_period_ms
        for index, values in enumerate(columns):
            if frame < len(values):
                row = [None if np.isnan(value) else float(value) for value in values[frame]]
                value = msgspec.json.encode({"machine": _name(index), "time": time_ms, "values": row})
                records.append(Record(topic, 0, frame * len(columns) + index, time_ms, _name(index).encode(), value))
        if len(records) >= CHUNK_RECORDS:
            yield records
            records = []
    yield records


def _cost(make: Callable[[DriftRule | None], Engine], chunks: Sequence[list[Record]], rule: DriftRule) -> float:
    """How much longer a reading takes with drift reports: the median of rounds in which both take turns."""
    ratios = []
    for _ in range(_COST_ROUNDS):
        seconds = []
        for given in (rule, None):
            engine = make(given)
            engine.process(chunks[0])
            began = time.perf_counter()
            for chunk in chunks[1:]:
                engine.process(chunk)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
    return median(ratios)
