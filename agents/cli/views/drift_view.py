"""What `faultline drift` shows: one row for each statistic of a machine that drifts, or has drifted."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from agents.audit.reports.drift_list import DriftEpisode
from agents.cli.views.printable import cell
from agents.words import Words
from pipeline.config.hints import shown_time


def drift_table(episodes: Sequence[DriftEpisode], words: Words) -> Table:
    """The episodes as rows."""
    table = Table("machine", "drift of", "variable", "size", "value", "reference", "since", "reported", "ended")
    for one in episodes:
        cells = (
            words.machine(one.machine),
            one.kind,
            "" if one.variable is None else words.variables(one.machine, [one.variable]),
            f"{one.size:+.2f}",
            f"{one.value:.3f}",
            f"{one.reference:.3f}",
            shown_time(one.since_ms),
            _shown(one.reported_ms),
            _shown(one.ended_ms),
        )
        table.add_row(*map(cell, cells))
    return table


def _shown(time_ms: int | None) -> str:
    return "" if time_ms is None else shown_time(time_ms)
