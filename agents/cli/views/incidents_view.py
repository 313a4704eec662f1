"""What people are shown of incidents: one row for each, and a line for each alarm that is like one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from agents.cli.views.printable import cell, table, time_cell
from agents.words import Words
from pipeline.config.hints import shown_time
from pipeline.config.topics import ALARMS
from pipeline.engine.reports.incidents.record import (
    Incident,
    SimilarIncident,
    decode_alarm_change,
    decode_similar,
)
from pipeline.wire.records import Output

_LEAST_SCORE = 0.5
"""Incidents that are less similar have no line."""
_SHOWN_TEXT = 60
"""Characters of an incident's text that a line has room for."""


def incidents_table(incidents: Sequence[Incident], words: Words) -> Table:
    """Incidents, in the order given."""
    shown = table("machine", "from", "to", "found", "diagnosed", "text")
    for one in incidents:
        cells = (
            words.machine(one.machine),
            time_cell(one.start),
            _end(one.end),
            _fault(words, one.machine, one.found),
            _fault(words, one.machine, one.diagnosed),
            one.words,
        )
        shown.add_row(*map(cell, cells))
    return shown


def similar_table(similar: Sequence[SimilarIncident], words: Words) -> Table:
    """Incidents with their scores, the most similar first."""
    shown = table("score", "machine", "from", "to", "fault", "", "text")
    for one in similar:
        cells = (
            f"{one.score:.3f}",
            words.machine(one.machine),
            time_cell(one.start),
            _end(one.end),
            _fault(words, one.machine, one.fault),
            "found" if one.found else "diagnosed",
            one.text,
        )
        shown.add_row(*map(cell, cells))
    return shown


class AlarmLines:
    """A line for each raised alarm that is like a past incident, with the most similar one."""

    def __init__(self, words: Words, header: str) -> None:
        """`header` is the name of the header with an alarm's similar incidents."""
        self._words = words
        self._header = header
        self.lines: list[str] = []
        """In the order of the alarms."""

    def add(self, output: Output) -> None:
        """Take an output of any topic."""
        similar = dict(output.headers).get(self._header) if output.topic == ALARMS else None
        if not similar or output.value is None:
            return
        alarm, nearest = decode_alarm_change(output.value), decode_similar(similar)[0]
        if nearest.score < _LEAST_SCORE:
            return
        text = " ".join(nearest.text.split())
        said = f", “{text[:_SHOWN_TEXT]}{'…' if len(text) > _SHOWN_TEXT else ''}”" if text else ""
        self.lines.append(
            f"{shown_time(alarm.time)}  {self._words.machine(alarm.machine)}: "
            f"{self._words.fault(alarm.machine, alarm.fault)}; most similar ({nearest.score:.2f}): "
            f"{self._words.machine(nearest.machine)} from {shown_time(nearest.start)}, "
            f"{_fault(self._words, nearest.machine, nearest.fault)}{said}"
        )


def _end(end_ms: int | None) -> str:
    return time_cell(end_ms) or "still there"


def _fault(words: Words, machine: str, fault: str | None) -> str:
    return "" if fault is None else words.fault(machine, fault)
