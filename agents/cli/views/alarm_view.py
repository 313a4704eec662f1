"""What `faultline alarms list` and `history` show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from agents.audit.reports.alarm_list import AlarmStatus, shown_priority
from agents.cli.views.printable import cell, table, time_cell
from agents.words import Words
from pipeline.config.hints import shown_time
from pipeline.engine.reports.lifecycle.records import Alarm


def alarms_table(alarms: Sequence[AlarmStatus], words: Words) -> Table:
    """Alarms as rows."""
    rows = [
        {
            "state": one.state.value,
            "priority": shown_priority(one, words),
            "machine": words.machine(one.machine),
            "area": words.area(one.machine) or "",
            "alarm": words.alarm(one.machine, one.fault),
            "component": words.component(one.machine, one.fault) or "",
            "raised": time_cell(one.raised_ms),
            "since": "" if one.since_ms == one.raised_ms else time_cell(one.since_ms),
            "until": time_cell(one.until_ms),
            "by": one.by or "",
            "why": one.why or "",
        }
        for one in alarms
    ]
    return _table(rows)


def history_table(records: Sequence[Alarm], words: Words) -> Table:
    """Records of alarms as rows."""
    rows = [
        {
            "time": time_cell(one.time),
            "machine": words.machine(one.machine),
            "alarm": words.alarm(one.machine, one.fault),
            "what": one.state,
            "priority": one.priority,
            "by": one.by or "",
            "why": one.why or "",
            "more": ", ".join(_more(one)),
        }
        for one in records
    ]
    return _table(rows)


def _more(record: Alarm) -> list[str]:
    return [
        *([f"while {record.suppressed.replace('_', ' ')}"] if record.suppressed else []),
        *([f"until {shown_time(record.until)}"] if record.until is not None else []),
        *([f"{key}={value}" for key, value in record.settings.items()] if record.settings else []),
    ]


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    """A table without the columns in which nothing is said, so that the others have more room."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    shown = table(*columns)
    for row in rows:
        shown.add_row(*(cell(row[name]) for name in columns))
    return shown
