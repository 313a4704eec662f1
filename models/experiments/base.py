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

import yaml
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import t as student  # type: ignore[import-untyped]

from models.evaluation.scoring import Scores
from models.training.loop import Progress
from pipeline.errors import DataError

_SEED = "{seed}"


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


Done = Callable[[str, Progress], None]
"""Is told what is going on: which of the experiment's parts, and how far it is."""


@dataclass(frozen=True, slots=True)
class Results:
    """What an experiment found: for each row of its table one set of scores for each seed."""

    title: str
    seeds: tuple[int, ...]
    rows: dict[str, list[Scores]]
    columns: tuple[Column, ...]
    notes: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()

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
        """Files that must be there before it can run."""
        ...

    def run(self, seeds: Sequence[int], out: Path, on_progress: Done) -> Results:
        """Everything, with what it leaves behind in the folder `out`."""
        ...


def lacking(experiment: Experiment) -> list[Need]:
    """What is not there."""
    return [need for need in experiment.needs() if not need.path.exists()]


def require_data(experiment: Experiment) -> None:
    """Raise DataError that lists every file which is not there and where to get it."""
    if missing := lacking(experiment):
        listed = "; ".join(f"{need.path} ({need.source})" for need in missing)
        raise DataError(f"{experiment.title}: data is lacking: {listed}")


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
    found: Any = scores
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return None if found is None or isinstance(found, Mapping) else float(found)


def shown(found: Interval | None, column: Column) -> str:
    """An interval as it stands in a table."""
    if found is None:
        return "-"
    mean = f"{column.scale * found.mean:.{column.digits}f}"
    return mean if found.half is None else f"{mean} ± {column.scale * found.half:.{column.digits}f}"


def markdown(results: Results) -> str:
    """The table, one row a system."""
    head = ["", *(column.heading for column in results.columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in results.rows:
        cells = [shown(results.interval(row, column.score), column) for column in results.columns]
        lines.append("| " + " | ".join([row, *cells]) + " |")
    return "\n".join(lines) + "\n"


def write_results(results: Results, out: Path) -> tuple[Path, ...]:
    """`results.json` with every seed's scores, and `table.md`."""
    out.mkdir(parents=True, exist_ok=True)
    written = (out / "results.json", out / "table.md")
    summary = {
        row: {
            column.score: None if (found := results.interval(row, column.score)) is None else found._asdict()
            for column in results.columns
        }
        for row in results.rows
    }
    whole = {"title": results.title, "seeds": results.seeds, "summary": summary, "notes": results.notes}
    written[0].write_text(json.dumps(whole | {"scores": results.rows}, indent=1) + "\n")
    seeds = ", ".join(map(str, results.seeds))
    written[1].write_text(f"{results.title}; seeds {seeds}, mean and 95 % interval\n\n{markdown(results)}")
    return (*written, *results.pictures)


def read_description(path: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """A YAML mapping in whose strings `$NAME` is replaced from `names`, else from the environment; raises DataError."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"experiment {path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise DataError(f"experiment {path} is no mapping of names to values")
    expanded: dict[str, Any] = _expanded(raw, {**os.environ, **names})
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
    """A folder in whose name `{seed}` stands for the seed."""
    return Path(os.path.normpath(folder.replace(_SEED, str(seed))))


def above_seed(folder: str) -> Path:
    """The part of such a folder that is the same for every seed."""
    parts = Path(folder).parts
    whole = [at for at, part in enumerate(parts) if _SEED in part]
    # Folders that do not exist cannot be gone up from, so `..` has to go.
    return Path(os.path.normpath(Path(*parts[: whole[0]] if whole else parts)))
