"""Experiments over several seeds: what each needs, mean and 95 % interval of its scores, and the table they make."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from string import Template
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import t as student

from models.configs.yaml_file import read_mapping
from models.evaluation.scoring import Scores
from models.training.loop import OnProgress, Progress
from pipeline.errors import DataError
from pipeline.files.atomic_file import write_text

_SEED = "{seed}"

EPOCH_SCORES = {"ari": "adjusted Rand index", "explained": "share of the class entropy explained"}
"""Partition scores whose course over the epochs is drawn."""


class Column(BaseModel):
    """One column of a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    score: str
    """Name of the score; dots lead into nested ones."""
    heading: str
    scale: float = 1.0
    digits: int = Field(default=3, ge=0, le=9)


class Need(NamedTuple):
    """A file that an experiment reads, and where it comes from."""

    path: Path
    source: str


class Interval(NamedTuple):
    """Mean of one score over the seeds, and half the width of its 95 % interval; None with a single seed."""

    mean: float
    half: float | None
    seeds: int


OnPartProgress = Callable[[str, Progress], None]
"""Takes the part of the experiment that runs, and how far it is."""


@dataclass(frozen=True, slots=True)
class Results:
    """Results of an experiment: for each row of its table one set of scores per seed."""

    title: str
    seeds: tuple[int, ...]
    rows: dict[str, list[Scores]]
    columns: tuple[Column, ...]
    notes: dict[str, Any] = field(default_factory=dict)
    plots: tuple[Path, ...] = ()

    def interval(self, row: str, score: str) -> Interval | None:
        """Of one score of one row; None if no seed has it."""
        return interval([value for scores in self.rows[row] if (value := lookup(scores, score)) is not None])


class Experiment(Protocol):
    """Something that fills a table of docs/results/results.md."""

    @property
    def title(self) -> str:
        """Of its table."""
        ...

    def needs(self) -> list[Need]:
        """Files that must exist before it can run."""
        ...

    def run(self, seeds: Sequence[int], out: Path, on_progress: OnPartProgress) -> Results:
        """The whole experiment; its files go to the folder `out`."""
        ...


def missing_files(experiment: Experiment) -> list[Need]:
    """Files that are not there."""
    return [need for need in experiment.needs() if not need.path.exists()]


def require_data(experiment: Experiment) -> None:
    """Raise DataError that lists every file which is not there and where to get it."""
    if missing := missing_files(experiment):
        listed = "; ".join(f"{need.path} ({need.source})" for need in missing)
        raise DataError(f"{experiment.title}: data is missing: {listed}")


def interval(values: Sequence[float]) -> Interval | None:
    """Mean and Student's t interval, two-sided 95 %."""
    if not values:
        return None
    count = len(values)
    if count == 1:
        return Interval(values[0], None, 1)
    half = float(student.ppf(0.975, count - 1)) * stdev(values) / count**0.5
    return Interval(fmean(values), half, count)


def lookup(scores: Mapping[str, Any], name: str) -> float | None:
    """A score by its dotted name; None where it has no value."""
    value: Any = scores
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return None if value is None or isinstance(value, Mapping) else float(value)


def formatted(interval: Interval | None, column: Column) -> str:
    """An interval as a cell of a table."""
    if interval is None:
        return "-"
    mean = f"{column.scale * interval.mean:.{column.digits}f}"
    return mean if interval.half is None else f"{mean} ± {column.scale * interval.half:.{column.digits}f}"


def markdown(results: Results) -> str:
    """The table, one row per system."""
    head = ["", *(column.heading for column in results.columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in results.rows:
        cells = [formatted(results.interval(row, column.score), column) for column in results.columns]
        lines.append("| " + " | ".join([row, *cells]) + " |")
    return "\n".join(lines) + "\n"


def write_results(results: Results, out: Path) -> tuple[Path, ...]:
    """`results.json` with every seed's scores, and `table.md`."""
    out.mkdir(parents=True, exist_ok=True)
    written = (out / "results.json", out / "table.md")
    summary = {
        row: {
            column.score: None if (mean := results.interval(row, column.score)) is None else mean._asdict()
            for column in results.columns
        }
        for row in results.rows
    }
    whole = {"title": results.title, "seeds": results.seeds, "summary": summary, "notes": results.notes}
    write_text(written[0], json.dumps(whole | {"scores": results.rows}, indent=1) + "\n")
    seeds = ", ".join(map(str, results.seeds))
    write_text(written[1], f"{results.title}; seeds {seeds}, mean and 95 % interval\n\n{markdown(results)}")
    return (*written, *results.plots)


def read_description(path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """A YAML mapping in whose strings `$NAME` is replaced from `names`, else from the environment; raises DataError."""
    expanded: dict[str, Any] = _expanded(read_mapping(path, "experiment"), {**os.environ, **names})
    return expanded


def _expanded(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return Template(value).safe_substitute(names)
    if isinstance(value, list):
        return [_expanded(entry, names) for entry in value]
    if isinstance(value, dict):
        return {name: _expanded(entry, names) for name, entry in value.items()}
    return value


def folder_of_seed(folder: str, seed: int) -> Path:
    """A folder, with `{seed}` in its name replaced by the seed."""
    return Path(os.path.normpath(folder.replace(_SEED, str(seed))))


def above_seed(folder: str) -> Path:
    """The part of such a folder that is the same for all seeds."""
    parts = Path(folder).parts
    seeded = [index for index, part in enumerate(parts) if _SEED in part]
    # `..` cannot be followed from a folder that does not exist, so the path is normalised.
    return Path(os.path.normpath(Path(*parts[: seeded[0]] if seeded else parts)))


def report_part(on_progress: OnPartProgress, part: str) -> OnProgress:
    """What to give a training that is one part of an experiment."""
    return lambda progress: on_progress(part, progress)
