"""Training runs: what a run is, reading runs from files, and splitting them without leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.data.tables import column_ms, key_text, number_column, read_table, require_columns, rows_by_key
from models.encoders.placed_texts import PlacedText
from pipeline.arrays import Bools, Floats, Ints
from pipeline.config.profile import MachineType
from pipeline.errors import DataError
from pipeline.wire.plain_text import plain_text

UNLABELLED = -1
"""Class of frames whose class is unknown."""

_RUN_COLUMNS = (("run",), ("fault", "seed"), ("seed",))


class RunFiles(BaseModel):
    """Files of runs in one layout: one row per frame, variables named as in the profile."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    paths: tuple[Path, ...] = Field(min_length=1)
    run: tuple[str, ...] = ()
    """Columns that together name a run; by default `run`, else `fault` and `seed`, else `seed`."""
    group: tuple[str, ...] = ()
    """Columns whose equal values keep runs in one split, also across files; by default `seed`, else each run alone."""
    sample: str = "sample"
    """Frame number within the run; rows keep their order if there is no such column."""
    label: str = "label"
    """Class index or fault name of each frame; empty or negative means unlabelled."""
    time: str = "time"
    """Time of each frame, only needed to place texts that carry times."""
    events: tuple[Path, ...] = ()
    """Texts placed on these runs: the run's columns, `sample` or `time`, and `text`."""


@dataclass(frozen=True, slots=True)
class Run:
    """One uninterrupted recording of a machine, T frames of V variables."""

    name: str
    group: str
    source: str
    """Stem of the file it came from."""
    values: Floats  # (T, V), NaN where not measured
    labels: Ints  # (T,), UNLABELLED where unknown
    texts: tuple[PlacedText, ...] | None = None
    """The run's own texts; None if texts are to be drawn from a pool."""
    start_ms: Ints | None = None  # (T,) where frames have times
    machine: str | None = None
    """The machine, if the run comes from a recording."""
    targets: Ints | None = None
    """(T,) the classes to learn, where they are not the labels: `recovering` is one of them."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def learnt(self) -> Ints:
        """The classes to learn, (T,)."""
        return self.labels if self.targets is None else self.targets

    def before(self, frame: int) -> Run:
        """The run up to this frame."""
        return self.between(0, frame)

    def between(self, start: int, end: int) -> Run:
        """The run from one frame until before another."""
        texts = self.texts
        if texts is not None:
            texts = tuple(replace(text, frame=text.frame - start) for text in texts if start <= text.frame < end)
        times = None if self.start_ms is None else self.start_ms[start:end]
        values, labels = self.values[start:end], self.labels[start:end]
        targets = None if self.targets is None else self.targets[start:end]
        return replace(self, values=values, labels=labels, texts=texts, start_ms=times, targets=targets)


@dataclass(frozen=True, slots=True)
class RunSplit:
    """Runs in three parts that share no group."""

    train: tuple[Run, ...]
    validation: tuple[Run, ...]
    test: tuple[Run, ...]

    def __post_init__(self) -> None:
        check_disjoint(
            {part: {run.group for run in getattr(self, part)} for part in ("train", "validation", "test")},
            what="run group",
        )


def left_out_classes(names: Sequence[str], faults: Sequence[str]) -> tuple[int, ...]:
    """The classes of faults that a training leaves out; raises DataError for a name that is no fault of the profile."""
    if wrong := sorted(set(names) - set(faults[1:])):
        raise DataError(
            f"left_out names {wrong[0]!r}, which is no fault of the profile; it has {', '.join(faults[1:]) or 'none'}"
        )
    return tuple(sorted({faults.index(name) for name in names}))


def leave_out(split: RunSplit, classes: Sequence[int]) -> RunSplit:
    """The split without those training and validation runs in which one of these classes occurs."""

    def others(runs: Sequence[Run]) -> tuple[Run, ...]:
        return tuple(run for run in runs if not np.isin(run.labels, classes).any())

    return RunSplit(others(split.train), others(split.validation), split.test)


def before_first_fault(run: Run) -> Run:
    """The frames before the first that is faulty or has no label."""
    return run.before(int(np.argmax(run.labels != 0))) if run.labels.any() else run


def class_runs(labels: Ints) -> list[tuple[int, int, int]]:
    """Stretches of equal class in (T,) as (first frame, frame after the last, class)."""
    if not len(labels):
        return []
    starts = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1])
    ends = np.append(starts[1:], len(labels))
    return [(int(a), int(b), int(labels[a])) for a, b in zip(starts, ends, strict=True)]


def read_runs(files: RunFiles, machine_type: MachineType) -> list[Run]:
    """All runs of some files, in file and key order; raises DataError naming file and column."""
    runs: list[Run] = []
    times: dict[str, NDArray[np.float64]] = {}
    for path in files.paths:
        table = read_table(path)
        require_columns(table, (*machine_type.variable_names, files.label), path)
        key_columns = _run_columns(files, table, path)
        samples = number_column(table, files.sample, path) if files.sample in table.column_names else None
        clock = column_ms(table[files.time], path) if files.time in table.column_names else None
        labels = _classes(table, files.label, machine_type.faults, path)
        columns = [number_column(table, name, path).astype(np.float32) for name in machine_type.variable_names]
        values = np.stack(columns, axis=1)
        values[~np.isfinite(values)] = np.nan
        grouped = files.group or (("seed",) if "seed" in table.column_names else ())
        require_columns(table, grouped, path)
        for name, unordered in rows_by_key(table, key_columns).items():
            rows = unordered if samples is None else unordered[np.argsort(samples[unordered], kind="stable")]
            group = key_text(table, grouped, int(rows[0])) if grouped else f"{path.stem} {name}"
            run = Run(f"{path.stem} {name}", group, path.stem, values[rows], labels[rows])
            runs.append(run)
            if clock is not None:
                times[run.name] = clock[rows]
    return _with_events(files, runs, times) if files.events else runs


def split_runs(runs: Sequence[Run], *, validation: float, test: float, rng: np.random.Generator) -> RunSplit:
    """Split whole groups by share, within each file and each fault, so that every part has all of them."""
    strata: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    placed: set[str] = set()
    for run in runs:
        if run.group in placed:
            continue
        placed.add(run.group)
        faults = np.unique(run.labels[run.labels > 0])
        stratum = tuple(int(fault) for fault in faults) if len(faults) <= 1 else (-1,)
        strata.setdefault((run.source, stratum), []).append(run.group)
    part_of: dict[str, str] = {}
    for stratum_key in sorted(strata):
        groups = sorted(strata[stratum_key])
        order = rng.permutation(len(groups))
        held_out = [round(share * len(groups)) for share in (validation, test)]
        for rank, index in enumerate(order):
            part = "validation" if rank < held_out[0] else "test" if rank < sum(held_out) else "train"
            part_of[groups[index]] = part
    parts = {part: tuple(run for run in runs if part_of[run.group] == part) for part in ("train", "validation", "test")}
    if not parts["train"] or not parts["validation"]:
        shares = f"{validation:.0%} for validation" + (f" and {test:.0%} for the test" if test else "")
        raise DataError(
            f"{len(placed)} machines or other groups of runs are too few to hold out {shares}; add machines, or "
            "divide each by time with `split: {by: time}`"
        )
    return RunSplit(**parts)


def check_disjoint(parts: Mapping[str, set[str]], *, what: str) -> None:
    """Raise DataError if any two parts share a member."""
    names = list(parts)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            if shared := sorted(parts[one] & parts[other]):
                raise DataError(f"{what} {shared[0]!r} is in {one} and in {other}; scores would be too good")


def _run_columns(files: RunFiles, table: pa.Table, path: Path) -> tuple[str, ...]:
    if files.run:
        require_columns(table, files.run, path)
        return files.run
    for names in _RUN_COLUMNS:
        if set(names) <= set(table.column_names):
            return names
    raise DataError(f"{path} has no column that names runs; add `run`, or name the columns in `run`")


def _classes(table: pa.Table, name: str, faults: Sequence[str], path: Path) -> Ints:
    column = table[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        index = {fault: label for label, fault in enumerate(faults)} | {"": UNLABELLED, None: UNLABELLED}
        texts = column.to_pylist()
        if unknown := sorted({str(text) for text in texts if text not in index}):
            raise DataError(f"{path}: column {name} names {unknown[0]!r}, which is no fault of the profile")
        return np.array([index[text] for text in texts], np.int64)
    numbers = np.nan_to_num(number_column(table, name, path), nan=UNLABELLED).astype(np.int64)
    if len(numbers) and numbers.max() >= len(faults):
        raise DataError(f"{path}: column {name} holds class {numbers.max()}, but the profile has {len(faults)} classes")
    return np.maximum(numbers, UNLABELLED)


def _with_events(files: RunFiles, runs: Sequence[Run], times: Mapping[str, NDArray[np.float64]]) -> list[Run]:
    by_key = {run.name.removeprefix(f"{run.source} "): run for run in runs}
    if len(by_key) < len(runs):
        raise DataError("two files hold runs of the same name, so placed texts are ambiguous; read them separately")
    placed: dict[str, list[PlacedText]] = {run.name: [] for run in runs}
    for path in files.events:
        table = read_table(path)
        require_columns(table, ("text",), path)
        for name, rows in rows_by_key(table, _run_columns(files, table, path)).items():
            if name not in by_key:
                raise DataError(f"{path}: texts are placed on {name}, which is no run of {files.paths[0]}")
            run = by_key[name]
            if files.sample in table.column_names:
                positions = number_column(table, files.sample, path)[rows]
            elif files.time in table.column_names and run.name in times:
                clock = times[run.name]
                positions = np.interp(
                    column_ms(table[files.time], path)[rows],
                    clock,
                    np.arange(len(clock)),
                    right=len(clock),
                )
            else:
                raise DataError(f"{path} places texts neither by {files.sample} nor by {files.time} of the runs")
            for position, row in zip(positions, rows, strict=True):
                frame = int(np.floor(position))
                if 0 <= frame < len(run):
                    text = plain_text(str(table["text"][int(row)].as_py()))
                    placed[run.name].append(PlacedText(frame, float(frame + 1 - position), text))
    ordered = {name: tuple(sorted(texts, key=lambda text: (text.frame, -text.age))) for name, texts in placed.items()}
    return [replace(run, texts=ordered[run.name]) for run in runs]


def normal_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs before their first fault, those that have frames there."""
    return [part for part in map(before_first_fault, runs) if len(part)]


def are_before_first_fault(runs: Sequence[Run]) -> Bools:
    """Which frames are before their run's first fault, (N,), run after run."""
    return np.concatenate([np.arange(len(run)) < len(before_first_fault(run)) for run in runs])
