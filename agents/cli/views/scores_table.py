"""Tables of scores, and of how many episodes and frames the parts of a training have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from agents.cli.views.printable import cell
from agents.words import Words

if TYPE_CHECKING:
    from models.data.class_counts import Counts

_OF_A_FAULT = {
    "episodes": ("episodes", "{:,}"),
    "undetected_share": ("undetected", "{:.0%}"),
    "detection_delay_median_frames": ("delay, frames", "{:.1f}"),
    "detection_rate": ("detected", "{:.1%}"),
    "accuracy": ("right", "{:.1%}"),
}
"""What a table of faults shows: measures, their headings and how they are written."""
_NOT_A_NUMBER = frozenset({"per_fault", "partition", "clusters", "remaining_life"})


def scores_table(title: str, scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """One column a system, one row a measure that any of them has a value of; `scores` has at least one system."""
    table = Table(title=cell(title, "table.title"), title_justify="left")
    table.add_column("")
    for name in scores:
        table.add_column(cell(name), justify="right")
    first = next(iter(scores.values()))
    for measure in (name for name in first if name not in _NOT_A_NUMBER):
        values = [found.get(measure) for found in scores.values()]
        if any(value is not None for value in values):
            table.add_row(*map(cell, (measure.replace("_", " "), *map(shown, values))))
    return table


def faults_table(title: str, per_fault: Mapping[str, Mapping[str, Any]], words: Words) -> Table:
    """One row a fault, with the shares of its frames that name a fault at all, and this one."""
    table = Table(title=cell(title, "table.title"), title_justify="left")
    table.add_column("fault")
    for heading, _ in _OF_A_FAULT.values():
        table.add_column(heading, justify="right")
    for fault, scores in per_fault.items():
        found = ((scores[measure], form) for measure, (_, form) in _OF_A_FAULT.items())
        cells = ("-" if value is None else form.format(value) for value, form in found)
        table.add_row(cell(words.fault_of_plant(fault)), *map(cell, cells))
    return table


def counts_table(counts: Counts) -> Table:
    """One row a class, two columns a part: episodes and frames."""
    table = Table(title=cell("episodes and frames", "table.title"), title_justify="left")
    table.add_column("")
    for part, count in counts.items():
        table.add_column(cell(f"{part} ({count.groups})"), justify="right")
    for name in next(iter(counts.values())).classes:
        of_parts = [count.classes[name] for count in counts.values()]
        table.add_row(cell(name), *(cell(f"{one.episodes:,} / {one.frames:,}") for one in of_parts))
    if any(count.unlabelled for count in counts.values()):
        table.add_row(cell("without a label"), *(cell(f"- / {count.unlabelled:,}") for count in counts.values()))
    return table


def remaining_life_text(scores: Mapping[str, Any]) -> str:
    """Scores of remaining life in one line, in frames."""
    return (
        f"root mean squared error {scores['rmse']:.1f} frames, {scores['coverage']:.1%} inside the interval of "
        f"{scores['width']:.1f} frames on average ({scores['runs']} runs to failure)"
    )


def shown(value: float | None) -> str:
    """A score as tables have it."""
    return "-" if value is None else f"{value:.4f}" if abs(value) < 2 else f"{value:.1f}"
