"""Simulates Tennessee Eastman machines whose faults appear and clear, or stay, with the package tep-studio."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FRAME_HOURS: Final = 0.05
STEPS_PER_FRAME: Final = 5
MEASUREMENTS: Final = 41
VALVES: Final = 11
"""Of 12 actions; the last one, the agitator, is constant."""
DISTURBANCES: Final = 28
LEARNT: Final = 20
"""The first of them are the model's faults; of the others it knows nothing."""
VARIABLES: Final = tuple(
    [f"xmeas_{number}" for number in range(1, MEASUREMENTS + 1)] + [f"xmv_{number}" for number in range(1, VALVES + 1)]
)

FIRST_ONSET_HOURS: Final = (1.0, 8.0)
FAULT_HOURS: Final = (2.0, 9.0)
GAP_HOURS: Final = (4.0, 11.0)
LAST_ONSET_BEFORE_END_HOURS: Final = 3.0
"""A fault that begins later would hardly be seen."""
STAYING_ONSET_HOURS: Final = (1.0, 12.0)
SAME_FAULTS_ATTEMPTS: Final = 3
"""How often a tripped run is tried with the same faults at other times before other faults are drawn."""
MAX_ATTEMPTS: Final = 12

SCALED_DISTURBANCES: Final = 0x80
"""Flag of the simulator by which an activation between 0 and 1 scales a disturbance, instead of being rounded."""
MEASUREMENT_FLAGS: Final = 0x0F
"""What the simulator has by default. With full activations the flag above changes no number."""

DEMO_SEED: Final = 900_000
"""Unseen by any model: the shared training runs use the noise seeds 10_000 to 12_920 (21 faults) and 50_000
to 50_119 (sequences), the fixed-onset set its runs 0 to 9, and extra training runs start at 500_000."""


class Episode(NamedTuple):
    """One disturbance that is active in `[start, end)`, in hours, with a share of its full strength."""

    fault: int
    start: float
    end: float
    strength: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What one series is to go through."""

    run: int
    seed: int
    episodes: tuple[Episode, ...]


@dataclass(frozen=True)
class Series:
    """One simulated series: `values` is (frames, 52), `labels` each frame's active disturbance (0: none)."""

    plan: Plan
    values: np.ndarray
    labels: np.ndarray
    attempts: int


class TrippedError(RuntimeError):
    """The plant shut down before the end of the series."""


def plan_series(machines: int, hours: float, seed: int, exclude: Sequence[int]) -> list[Plan]:
    """Plans for all machines; faults are dealt from a shuffled deck: each comes before any comes again."""
    rng = np.random.default_rng(seed)
    deck: list[int] = []
    plans: list[Plan] = []
    for run in range(machines):
        times = _draw_times(rng, hours)
        faults: list[int] = []
        for _ in times:
            if not deck:
                deck = [int(fault) for fault in rng.permutation(_usable(exclude))]
            faults.append(deck.pop())
        plans.append(_plan(run, seed + run, faults, times))
    return plans


def with_unseen(plans: Sequence[Plan], run: int, faults: Sequence[int]) -> list[Plan]:
    """The plans, with the first episodes of one run made disturbances that the model has not learnt; all else stays.

    Raises ValueError if there is no such run, or if it has too few episodes.
    """
    if not all(LEARNT < fault <= DISTURBANCES for fault in faults):
        raise ValueError(f"disturbances that no model learns are {LEARNT + 1} to {DISTURBANCES}")
    if not 0 <= run < len(plans) or len(faults) > len(plans[run].episodes):
        raise ValueError(f"there is no run {run} with {len(faults)} episodes or more")
    changed = list(plans)
    episodes = plans[run].episodes
    replaced = [episode._replace(fault=fault) for episode, fault in zip(episodes, faults, strict=False)]
    changed[run] = Plan(run, plans[run].seed, (*replaced, *episodes[len(faults) :]))
    return changed


def plan_stays(machines: int, hours: float, seed: int, exclude: Sequence[int]) -> list[Plan]:
    """Plans with one fault each that stays to the end; normal runs and faults take turns."""
    rng = np.random.default_rng(seed)
    turns = [0, *_usable(exclude)]
    plans: list[Plan] = []
    for run in range(machines):
        fault, start = turns[run % len(turns)], float(rng.uniform(*STAYING_ONSET_HOURS))
        plans.append(_plan(run, seed + run, [fault] if fault else [], [(start, hours)]))
    return plans


def simulate(plan: Plan, hours: float, *, whole: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Values and labels of one plan; a plant that shuts down on the way raises `TrippedError` if the series must be
    `whole`, else ends it."""
    from tep_studio.control.runner import ClosedLoopSimulation
    from tep_studio.simulation.core import TennesseeEastmanProcess

    def disturbances(hour: float) -> np.ndarray:
        vector = np.zeros(DISTURBANCES)
        for episode in plan.episodes:
            if episode.start <= hour < episode.end:
                vector[episode.fault - 1] = episode.strength
        return vector

    simulation = ClosedLoopSimulation(
        simulator=TennesseeEastmanProcess(ms_flag=MEASUREMENT_FLAGS | SCALED_DISTURBANCES),
        control_interval=FRAME_HOURS / STEPS_PER_FRAME,
        horizon=hours,
    )
    result = simulation.run(
        seed=plan.seed, mode="mode1", disturbance_schedule=disturbances, record_every=STEPS_PER_FRAME
    )
    frames = round(hours / FRAME_HOURS)
    if not whole:
        frames = min(frames, len(result.results))
    elif result.terminated or len(result.results) < frames:
        raise TrippedError(f"seed {plan.seed}: plant shut down after {result.final_time:.1f} h")
    values = np.array(
        [[*step.measurements, *step.implemented_action[:VALVES]] for step in result.results[:frames]],
        dtype=np.float32,
    )
    labels = np.array([_active(plan.episodes, frame * FRAME_HOURS) for frame in range(frames)], dtype=np.int8)
    return values, labels


def simulate_until_whole(plan: Plan, hours: float, exclude: Sequence[int]) -> Series:
    """Simulate a plan; after a shutdown draw other times, later other faults too; the noise seed stays.

    Faults that no model learns stay as well.
    """
    faults = [episode.fault for episode in plan.episodes]
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            values, labels = simulate(plan, hours)
        except TrippedError:
            rng = np.random.default_rng([plan.seed, attempt])
            times = _draw_times(rng, hours)
            if attempt >= SAME_FAULTS_ATTEMPTS or len(faults) < len(times):
                unseen = [fault for fault in faults if fault > LEARNT]
                faults = [*unseen, *(int(fault) for fault in rng.choice(_usable(exclude), len(times)))]
            plan = _plan(plan.run, plan.seed, faults, times)
        else:
            return Series(plan, values, labels, attempt)
    raise TrippedError(f"seed {plan.seed}: {MAX_ATTEMPTS} draws all shut the plant down")


def simulate_all(
    plans: Sequence[Plan], hours: float, exclude: Sequence[int], workers: int, *, whole: bool = True
) -> Iterator[Series]:
    """All series, in order, as they get ready."""
    jobs = [(plan, hours, tuple(exclude), whole) for plan in plans]
    if workers == 1:
        yield from map(_job, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_job, jobs)


def to_table(series: Sequence[Series]) -> pa.Table:
    """The columns of the shared training sequences, and `run` before them."""
    frames = [len(one.labels) for one in series]
    values = np.concatenate([one.values for one in series])
    columns: dict[str, np.ndarray] = {
        "run": np.repeat(np.array([one.plan.run for one in series], dtype=np.int32), frames),
        "seed": np.repeat(np.array([one.plan.seed for one in series], dtype=np.int32), frames),
        "sample": np.concatenate([np.arange(count, dtype=np.int16) for count in frames]),
    }
    columns |= {name: values[:, index] for index, name in enumerate(VARIABLES)}
    columns["label"] = np.concatenate([one.labels for one in series])
    return pa.table(columns)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", type=int, default=12, help="number of series (default 12)")
    parser.add_argument("--hours", type=float, default=48.0, help="length of each (default 48)")
    parser.add_argument(
        "--seed",
        type=int,
        default=DEMO_SEED,
        help=f"noise seed of the first series (default {DEMO_SEED})",
    )
    parser.add_argument("--out", type=Path, required=True, help="parquet file to write")
    parser.add_argument(
        "--exclude",
        type=int,
        nargs="*",
        default=[6],
        help="faults to leave out (default 6: it trips the plant)",
    )
    parser.add_argument(
        "--stay",
        action="store_true",
        help="one fault a series, or none, which stays to the end; a plant that shuts down ends its series",
    )
    parser.add_argument(
        "--unseen",
        type=int,
        nargs="+",
        default=[],
        metavar="FAULT",
        help=f"disturbances beyond {LEARNT}, which the model has not learnt: the last series begins with them",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    options = parser.parse_args(argv)

    began = time.monotonic()
    planned = plan_stays if options.stay else plan_series
    plans = planned(options.machines, options.hours, options.seed, options.exclude)
    try:
        plans = with_unseen(plans, len(plans) - 1, options.unseen)
    except ValueError as error:
        parser.error(f"--unseen: {error}")
    series: list[Series] = []
    for one in simulate_all(plans, options.hours, options.exclude, options.workers, whole=not options.stay):
        series.append(one)
        faults = ", ".join(f"{episode.fault}" for episode in one.plan.episodes)
        sys.stdout.write(
            f"{len(series)}/{len(plans)} seed {one.plan.seed}: faults {faults}; "
            f"{one.attempts} attempt(s), {time.monotonic() - began:.0f} s\n"
        )
        sys.stdout.flush()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = options.out.with_name(options.out.name + ".part")
    pq.write_table(to_table(series), unfinished)
    unfinished.replace(options.out)
    sys.stdout.write(f"{sum(len(one.labels) for one in series)} frames -> {options.out}\n")
    return 0


def _draw_times(rng: np.random.Generator, hours: float) -> list[tuple[float, float]]:
    """Starts and ends of the faults of one series; they fall anywhere, not on frames."""
    times: list[tuple[float, float]] = []
    start = float(rng.uniform(*FIRST_ONSET_HOURS))
    while start <= hours - LAST_ONSET_BEFORE_END_HOURS:
        end = start + float(rng.uniform(*FAULT_HOURS))
        times.append((start, end))
        start = end + float(rng.uniform(*GAP_HOURS))
    return times


def _usable(exclude: Sequence[int]) -> list[int]:
    """The faults that may be drawn."""
    return [fault for fault in range(1, 21) if fault not in exclude]


def _plan(run: int, seed: int, faults: Sequence[int], times: Sequence[tuple[float, float]]) -> Plan:
    """A plan from faults and times; surplus faults fall away."""
    return Plan(run, seed, tuple(Episode(fault, *span) for fault, span in zip(faults, times, strict=False)))


def _active(episodes: Sequence[Episode], hour: float) -> int:
    """The disturbance that is active at this hour, or 0."""
    return next((episode.fault for episode in episodes if episode.start <= hour < episode.end), 0)


def _job(job: tuple[Plan, float, tuple[int, ...], bool]) -> Series:
    """One series, for a pool of processes."""
    plan, hours, exclude, whole = job
    if whole:
        return simulate_until_whole(plan, hours, exclude)
    return Series(plan, *simulate(plan, hours, whole=False), attempts=1)


if __name__ == "__main__":
    raise SystemExit(main())
