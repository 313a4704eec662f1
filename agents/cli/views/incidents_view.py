"""What `faultline incidents` shows: one row for each incident."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from agents.cli.views.printable import cell
from agents.words import Words
from pipeline.config.hints import shown_time
from pipeline.engine.reports.incidents.record import Incident, SimilarIncident


def incidents_table(incidents: Sequence[Incident], words: Words) -> Table:
    """Incidents, in the order given."""
    table = Table("machine", "from", "to", "found", "diagnosed", "text")
    for one in incidents:
        cells = (
            words.machine(one.machine),
            shown_time(one.start),
            _end(one.end),
            _fault(words, one.machine, one.found),
            _fault(words, one.machine, one.diagnosed),
            one.words,
        )
        table.add_row(*map(cell, cells))
    return table


def similar_table(similar: Sequence[SimilarIncident], words: Words) -> Table:
    """Incidents with their scores, the most similar first."""
    table = Table("score", "machine", "from", "to", "fault", "", "text")
    for one in similar:
        cells = (
            f"{one.score:.3f}",
            words.machine(one.machine),
            shown_time(one.start),
            _end(one.end),
            _fault(words, one.machine, one.fault),
            "found" if one.found else "diagnosed",
            one.text,
        )
        table.add_row(*map(cell, cells))
    return table


def _end(end_ms: int | None) -> str:
    return "still there" if end_ms is None else shown_time(end_ms)


def _fault(words: Words, machine: str, fault: str | None) -> str:
    return "" if fault is None else words.fault(machine, fault)
