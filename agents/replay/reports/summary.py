"""A report as plain values, for JSON: each side's numbers, and the differences of two sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents.replay.reports.book import AlarmSpan, FrameTable, ReportBook
from agents.replay.reports.operators import Episode, episodes_of, operator_numbers
from agents.replay.reports.quality import Curve, answer_numbers, roc_curves
from agents.replay.scores import FUSED
from agents.words import Words

FORMAT: Final = 1
"""Counts up when a key changes its meaning or goes; new keys may come."""

HEADLINES: Final[Mapping[str, tuple[str, ...]]] = {
    "faults": ("operators", "faults"),
    "faults_begun_before": ("operators", "faults_begun_before"),
    "missed": ("operators", "missed"),
    "misnamed": ("operators", "misnamed"),
    "alarm_delay_seconds_median": ("operators", "alarm_delay_seconds_median"),
    "forewarning_seconds_median": ("operators", "forewarning_seconds_median"),
    "false_alarms_per_machine_day": ("operators", "false_alarms_per_machine_day"),
    "alarms_per_machine_day": ("operators", "alarms_per_machine_day"),
    "chatter": ("operators", "chatter"),
    "wrong_hours": ("operators", "wrong_hours"),
    "accuracy": ("scores", FUSED, "accuracy"),
    "macro_f1": ("scores", FUSED, "macro_f1"),
    "detection_rate": ("scores", FUSED, "detection_rate"),
    "false_alarm_rate": ("scores", FUSED, "false_alarm_rate"),
    "detection_delay_median_frames": ("scores", FUSED, "detection_delay_median_frames"),
    "ari": ("answers", "partition", FUSED, "ari"),
    "mutual_information": ("answers", "partition", FUSED, "mutual_information"),
    "ece": ("answers", "calibration", "ece"),
    "mean_entropy": ("answers", "mean_entropy"),
}
"""The numbers that two sides are compared by, and where they are in a side."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one model made of one source, with all that a page shows of it."""

    title: str
    book: ReportBook
    table: FrameTable
    alarms: Sequence[AlarmSpan]
    episodes: Sequence[Episode]
    curves: Mapping[str, Curve]
    """ROC curves, by class and of any fault."""
    numbers: dict[str, Any]
    """As in JSON."""


def side_of(book: ReportBook, words: Words, *, title: str, source: str, counts: Mapping[str, Any]) -> Side:
    """The numbers of all that was collected; `counts` are added to them as they are."""
    table, alarms, classes = book.table(), book.alarms(), book.scores.classes
    episodes, curves = episodes_of(table, alarms, classes, book.scores.has_begun_before), roc_curves(table, classes)
    systems = tuple(dict.fromkeys((FUSED, "sensors", "text", *book.modalities)))
    operators = operator_numbers(table, alarms, episodes, classes)
    for fault, found in operators["per_fault"].items():
        operators["per_fault"][fault] = {"title": words.fault_of_plant(fault)} | found
    numbers = {
        "title": title,
        "source": source,
        "models": list(book.models),
        "begin_ms": int(table.start_ms.min()) if len(table.start_ms) else None,
        "end_ms": int((table.start_ms + table.period_ms).max()) if len(table.start_ms) else None,
        **counts,
        "labels": len(book.scores.labels),
        "bad_labels": book.scores.bad_labels,
        "unreadable": book.unreadable,
        "trained": book.scores.trained(),
        "operators": operators,
        "scores": book.scores.scores(systems),
        "answers": answer_numbers(book, table, curves),
        "machines": [_machine(book, table, alarms, words, machine) for machine in table.edges],
        "episodes": [_episode(episode, classes) for episode in episodes],
        "alarms": [alarm._asdict() for alarm in alarms],
    }
    return Side(title, book, table, alarms, episodes, curves, numbers)


def report_of(sides: Sequence[Side], plant: str, made_ms: int) -> dict[str, Any]:
    """The whole report; with two sides also `differences`, of the second from the first."""
    return {
        "format": FORMAT,
        "plant": plant,
        "made_ms": made_ms,
        "sides": [side.numbers for side in sides],
        "differences": differences(sides[0].numbers, sides[1].numbers) if len(sides) > 1 else None,
    }


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, float | None]:
    """Of each headline the second's value less the first's; None where either has none."""
    found = {}
    for name in HEADLINES:
        one, other = headline(first, name), headline(second, name)
        found[name] = None if one is None or other is None else other - one
    return found


def headline(numbers: Mapping[str, Any], name: str) -> float | None:
    """One of the HEADLINES of a side."""
    value: Any = numbers
    for key in HEADLINES[name]:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if value is None else float(value)


def _machine(
    book: ReportBook, table: FrameTable, alarms: Sequence[AlarmSpan], words: Words, machine: str
) -> dict[str, Any]:
    rows = table.edges[machine]
    return {
        "machine": machine,
        "title": words.machine(machine),
        "area": words.area(machine),
        "frames": rows.stop - rows.start,
        "alarms": sum(one.machine == machine and one.raised_ms is not None for one in alarms),
        "texts": len(book.texts.get(machine, ())),
    }


def _episode(episode: Episode, classes: Sequence[str]) -> dict[str, Any]:
    return episode._asdict() | {"fault": classes[episode.fault]}
