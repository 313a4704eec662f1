"""What `faultline drift` shows: one row for each statistic of a machine that drifts, or has drifted."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from agents.audit.reports.drift_list import DriftEpisode
from agents.cli.views.printable import cell, table, time_cell
from agents.words import Words


def drift_table(episodes: Sequence[DriftEpisode], words: Words) -> Table:
    """The episodes as rows."""
    shown = table("machine", "drift of", "variable", "size", "value", "reference", "since", "reported", "ended")
    for one in episodes:
        cells = (
            words.machine(one.machine),
            one.kind,
            "" if one.variable is None else words.variables(one.machine, [one.variable]),
            f"{one.size:+.2f}",
            f"{one.value:.3f}",
            f"{one.reference:.3f}",
            time_cell(one.since_ms),
            time_cell(one.reported_ms),
            time_cell(one.ended_ms),
        )
        shown.add_row(*map(cell, cells))
    return shown
