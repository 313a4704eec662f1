"""Simulated runs for experiments: generated with the package tep-studio in parts, and stored in one parquet file."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.data.tables import read_table
from pipeline.arrays import Floats
from pipeline.errors import DataError
from pipeline.extras import require_modules
from pipeline.files.atomic_file import replacing

FRAME_HOURS = 0.05
STEPS_PER_FRAME = 5
MEASUREMENTS = 41
VALVES = 11
"""Of 12 actions; the last one, the agitator, is constant."""
DISTURBANCES = 28
VARIABLES = tuple(
    [f"xmeas_{number}" for number in range(1, MEASUREMENTS + 1)] + [f"xmv_{number}" for number in range(1, VALVES + 1)]
)

_SETTINGS = "faultline.simulation"
_PART_RUNS = 40
_REDRAW = 1_000_000
"""Added to a run's seed after a shutdown of the plant; larger than the range of the other seeds."""
_ATTEMPTS = 5

OnRuns = Callable[[int, int], None]
"""Takes the number of finished runs, and that of all runs."""


class SimulationConfig(BaseModel):
    """Runs of the Tennessee Eastman plant with one fault each, which begins at the same time and stays."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    faults: tuple[int, ...] = Field(min_length=1)
    """Disturbance numbers, in turn, so that every 40 runs contain all of them."""
    runs_per_fault: int = Field(ge=1)
    frames: int = Field(default=500, ge=2)
    onset_frame: int = Field(default=20, ge=0)
    first_seed: int = Field(ge=0)
    """Noise seed of the first run; every run has one of its own, because equal seeds are equal before the onset."""

    @property
    def runs(self) -> int:
        """Number of runs."""
        return len(self.faults) * self.runs_per_fault

    def fault(self, run: int) -> int:
        """Disturbance of one run."""
        return self.faults[run % len(self.faults)]


class SimulatedRun(NamedTuple):
    """One run: `values` (T, 52), and the noise seed that did not shut the plant down."""

    run: int
    fault: int
    seed: int
    values: Floats


def simulated_table(
    config: SimulationConfig,
    path: Path,
    *,
    workers: int = 1,
    on_runs: OnRuns | None = None,
    simulate: Callable[[SimulationConfig, int], SimulatedRun] | None = None,
) -> pa.Table:
    """The runs from `path`, or simulated and written there.

    Finished parts of an interrupted simulation are kept next to it and used. Raises DataError if the file is of other
    settings, MissingExtraError if runs are missing and tep-studio is not installed.
    """
    if path.is_file() and (whole := _usable(path, config, config.runs)) is not None:
        return whole
    report = on_runs or (lambda done, total: None)
    folder = path.with_name(path.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, config.runs, _PART_RUNS)
    part = {start: folder / f"{start:06d}.parquet" for start in starts}
    size = {start: min(_PART_RUNS, config.runs - start) for start in starts}
    missing = [s for s in starts if not part[s].is_file() or _usable(part[s], config, size[s]) is None]
    if missing and simulate is None:
        require_modules("simulating runs", "tep_studio")
    total, done = config.runs, sum(size[start] for start in set(starts) - set(missing))
    report(done, total)
    jobs = [(config, run) for start in missing for run in range(start, start + size[start])]
    gathered: list[SimulatedRun] = []
    with _mapped(simulate or simulate_run, jobs, workers) as simulated:
        for run in simulated:
            gathered.append(run)
            done += 1
            report(done, total)
            if len(gathered) == size[gathered[0].run]:
                _write(part[gathered[0].run], _table(gathered, config))
                gathered = []
    table = pa.concat_tables([read_table(part[start]).slice(0, size[start] * config.frames) for start in starts])
    _write(path, table)
    for finished in part.values():
        finished.unlink()
    folder.rmdir()
    return table


def simulate_run(config: SimulationConfig, run: int) -> SimulatedRun:
    """One run; after a shutdown of the plant with another seed. Raises DataError if several seeds shut it down."""
    from tep_studio.control.runner import ClosedLoopSimulation

    fault = config.fault(run)
    hours = config.frames * FRAME_HOURS

    def disturbances(hour: float) -> Floats:
        vector = np.zeros(DISTURBANCES, np.float32)
        vector[fault - 1] = float(hour >= (config.onset_frame - 0.5) * FRAME_HOURS)
        return vector

    for attempt in range(_ATTEMPTS):
        seed = config.first_seed + run + attempt * _REDRAW
        simulation = ClosedLoopSimulation(control_interval=FRAME_HOURS / STEPS_PER_FRAME, horizon=hours)
        result = simulation.run(
            seed=seed, mode="mode1", disturbance_schedule=disturbances, record_every=STEPS_PER_FRAME
        )
        if not result.terminated and len(result.results) >= config.frames:
            rows = [[*step.measurements, *step.implemented_action[:VALVES]] for step in result.results[: config.frames]]
            return SimulatedRun(run, fault, seed, np.array(rows, np.float32))
    raise DataError(
        f"disturbance {fault} shuts the plant down within {hours:.0f} h with every one of {_ATTEMPTS} seeds; "
        "simulate fewer frames of it"
    )


def run_values(table: pa.Table, frames: int) -> Floats:
    """The readings of a simulated table as (runs, frames, 52)."""
    columns = [table[name].to_numpy(zero_copy_only=False) for name in VARIABLES]
    return np.stack(columns, axis=1).astype(np.float32).reshape(-1, frames, len(VARIABLES))


def _table(runs: Sequence[SimulatedRun], config: SimulationConfig) -> pa.Table:
    frames = config.frames
    values = np.concatenate([run.values for run in runs])
    columns: dict[str, NDArray[Any]] = {
        "run": np.repeat(np.array([run.run for run in runs], np.int32), frames),
        "fault": np.repeat(np.array([run.fault for run in runs], np.int16), frames),
        "seed": np.repeat(np.array([run.seed for run in runs], np.int32), frames),
        "sample": np.tile(np.arange(frames, dtype=np.int16), len(runs)),
    }
    columns |= {name: values[:, column] for column, name in enumerate(VARIABLES)}
    columns["label"] = np.where(columns["sample"] >= config.onset_frame, columns["fault"], 0).astype(np.int16)
    return pa.table(columns).replace_schema_metadata({_SETTINGS: config.model_dump_json()})


def _write(path: Path, table: pa.Table) -> None:
    names = [name for name in table.column_names if name not in VARIABLES]
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd", use_dictionary=names, use_byte_stream_split=list(VARIABLES))


def _usable(path: Path, config: SimulationConfig, runs: int) -> pa.Table | None:
    """The first `runs` runs of a file, or None if it has fewer. Raises DataError if they are of other settings.

    Runs do not depend on how many follow, so a file of more runs serves as well.
    """
    table = read_table(path)
    text = (table.schema.metadata or {}).get(_SETTINGS.encode(), b"{}").decode()
    expected = config.model_dump(mode="json")
    if any(json.loads(text).get(name) != value for name, value in expected.items() if name != "runs_per_fault"):
        raise DataError(f"{path} holds runs of other settings ({text}); delete it to simulate again")
    return table.slice(0, runs * config.frames) if len(table) >= runs * config.frames else None


@contextmanager
def _mapped(
    simulate: Callable[[SimulationConfig, int], SimulatedRun],
    jobs: Sequence[tuple[SimulationConfig, int]],
    workers: int,
) -> Iterator[Iterator[SimulatedRun]]:
    if workers == 1 or not jobs:
        yield (simulate(*job) for job in jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield pool.imap(partial(_job, simulate), jobs)


def _job(simulate: Callable[[SimulationConfig, int], SimulatedRun], job: tuple[SimulationConfig, int]) -> SimulatedRun:
    return simulate(*job)
