"""A report's numbers in operators' units: how long until an alarm, warning time, false alarms a day, wrong hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from agents.replay.reports.book import AlarmSpan, FrameTable
from agents.replay.scores import FUSED
from models.data.runs import class_runs
from models.evaluation.scoring import NORMAL, RECOVERY_FRAMES, UNKNOWN, evident
from pipeline.arrays import Bools
from pipeline.config.sections.alarms import BLIND, OFFLINE, STALE

CHATTER_MS: Final = 3_600_000
"""An alarm that comes back within this time of its end chatters."""
CONDITIONS: Final = frozenset({STALE, OFFLINE, BLIND})
"""What alarms name besides faults: that a machine is not heard of."""
_DAY_MS: Final = 86_400_000
_HOUR_MS: Final = 3_600_000


class Episode(NamedTuple):
    """A labelled fault of one machine, over frames; and what alarms made of it."""

    machine: str
    fault: int
    start_ms: int
    end_ms: int
    began: bool
    """Whether its start is in what was read; else nobody knows when its first alarm was raised."""
    ended: bool
    """Whether its end is in what was read."""
    alarm_ms: int | None
    """When the first alarm was raised in it; its start if an alarm of this very fault stood already."""
    named_ms: int | None
    """When the first alarm of this very fault was raised, which may be before the start."""


def fault_alarms(alarms: Sequence[AlarmSpan]) -> list[AlarmSpan]:
    """The alarms of faults that called somebody."""
    return [one for one in alarms if one.suppressed is None and one.fault not in CONDITIONS]


def episodes_of(
    table: FrameTable,
    alarms: Sequence[AlarmSpan],
    classes: Sequence[str],
    has_begun_before: Callable[[str, int], bool],
) -> list[Episode]:
    """The faults in the labels, by machine and time; `has_begun_before` says of a machine's first frame whether its
    fault was there already."""
    by_machine: dict[str, list[AlarmSpan]] = {}
    for alarm in fault_alarms(alarms):
        by_machine.setdefault(alarm.machine, []).append(alarm)
    episodes = []
    for machine, rows in table.edges.items():
        start_ms, truth = table.start_ms[rows], table.truth[rows]
        period = int(table.period_ms[rows][0])
        for first, end, label in class_runs(truth):
            if label <= NORMAL:
                continue
            begin_ms, end_ms = int(start_ms[first]), int(start_ms[end - 1]) + period
            alarm_ms, named_ms = _first_alarms(by_machine.get(machine, []), classes[label], begin_ms, end_ms)
            began, ended = first > 0 or not has_begun_before(machine, begin_ms), end < len(truth)
            episodes.append(Episode(machine, int(label), begin_ms, end_ms, began, ended, alarm_ms, named_ms))
    return episodes


def _first_alarms(alarms: Sequence[AlarmSpan], fault: str, begin_ms: int, end_ms: int) -> tuple[int | None, int | None]:
    """When the first alarm of any fault was raised in this time, and the first of this fault that stood in it."""
    raised = [one.raised_ms for one in alarms if one.raised_ms is not None and begin_ms < one.raised_ms <= end_ms]
    named = [
        begin_ms if one.raised_ms is None else one.raised_ms
        for one in alarms
        if one.fault == fault
        and (one.raised_ms is None or one.raised_ms <= end_ms)
        and (one.over_ms is None or one.over_ms > begin_ms)
    ]
    named_ms = min(named, default=None)
    if named_ms is not None:
        raised.append(max(named_ms, begin_ms))
    return min(raised, default=None), named_ms


def operator_numbers(
    table: FrameTable, alarms: Sequence[AlarmSpan], episodes: Sequence[Episode], classes: Sequence[str]
) -> dict[str, Any]:
    """All of them as plain values, in seconds, hours and machine-days; None where there is nothing to count.

    - `alarm_delay_seconds_*`: from the labelled start of a fault to its first alarm, of any fault.
    - `forewarning_seconds_*`: from the first alarm of the right fault to the labelled end of the fault: the warning
      time where labels end at the failure.
    - `faults_begun_before`: those that were there before what was read, which no other number of faults counts.
    - `missed`: faults during which no alarm was raised; `misnamed`: those whose alarms named other faults only.
    - `alarms`: of faults; `condition_alarms`: of machines that are not heard of; `suppressed_alarms` called nobody. Of
      these only the first count in what follows.
    - `false_alarms`: raised where the label says normal; `after_fault` of them within RECOVERY_FRAMES of a fault's end.
    - `chatter`: alarms that came back within CHATTER_MS of their end.
    - `wrong_hours`: labelled time in which the diagnosis is not the label: `wrong_fault_hours` another fault,
      `unknown_hours` an unknown one, `unseen_hours` none, `false_hours` a fault in the normal state.
    """
    labelled = table.truth >= 0
    suppressed = sum(one.suppressed is not None for one in alarms)
    conditions = sum(one.suppressed is None and one.fault in CONDITIONS for one in alarms)
    alarms = fault_alarms(alarms)
    false, after_fault = _false_alarms(table, alarms)
    normal_days = float(table.period_ms[table.truth == NORMAL].sum()) / _DAY_MS
    days = float(table.period_ms.sum()) / _DAY_MS
    chatter = _chatter(alarms)
    raised = sum(one.raised_ms is not None for one in alarms)
    has_labels = bool(labelled.any())
    return {
        "machines": len(table.edges),
        "machine_days": days,
        "normal_machine_days": normal_days if has_labels else None,
        "alarms": raised,
        "condition_alarms": conditions,
        "suppressed_alarms": suppressed,
        "alarms_per_machine_day": raised / days if days else None,
        "false_alarms": false if has_labels else None,
        "false_alarms_after_fault": after_fault if has_labels else None,
        "false_alarms_per_machine_day": false / normal_days if normal_days else None,
        "chatter": chatter,
        "chatter_per_machine_day": chatter / days if days else None,
        **_wrong_time(table, labelled, classes),
        **(_of_episodes(episodes) if has_labels else {}),
        "per_fault": {
            classes[fault]: _of_episodes([one for one in episodes if one.fault == fault])
            for fault in sorted({one.fault for one in episodes})
        },
    }


def _of_episodes(all_episodes: Sequence[Episode]) -> dict[str, Any]:
    episodes = [one for one in all_episodes if one.began]
    delays = [(one.alarm_ms - one.start_ms) / 1000 for one in episodes if one.alarm_ms is not None]
    warnings = [(one.end_ms - one.named_ms) / 1000 for one in episodes if one.named_ms is not None and one.ended]
    return {
        "faults": len(episodes),
        "faults_begun_before": len(all_episodes) - len(episodes),
        "missed": sum(one.alarm_ms is None for one in episodes),
        "misnamed": sum(one.alarm_ms is not None and one.named_ms is None for one in episodes),
        "alarm_delay_seconds_median": float(np.median(delays)) if delays else None,
        "alarm_delay_seconds_max": max(delays, default=None),
        "forewarning_seconds_median": float(np.median(warnings)) if warnings else None,
        "forewarning_seconds_min": min(warnings, default=None),
    }


def _false_alarms(table: FrameTable, alarms: Sequence[AlarmSpan]) -> tuple[int, int]:
    """How many alarms were raised in the normal state, and how many of them soon after a fault."""
    false = after_fault = 0
    for alarm in alarms:
        rows = table.edges.get(alarm.machine)
        if rows is None or alarm.raised_ms is None:
            continue
        # An alarm is raised at the end of the frame that says so.
        row = int(np.searchsorted(table.start_ms[rows], alarm.raised_ms)) - 1
        truth = table.truth[rows]
        if row >= 0 and truth[row] == NORMAL:
            false += 1
            after_fault += bool((truth[max(row - RECOVERY_FRAMES, 0) : row] > NORMAL).any())
    return false, after_fault


def _chatter(alarms: Sequence[AlarmSpan]) -> int:
    over: dict[tuple[str, str], int] = {}
    chatter = 0
    for alarm in sorted(alarms, key=lambda one: one.raised_ms or 0):
        key = alarm.machine, alarm.fault
        if alarm.raised_ms is not None and key in over:
            chatter += alarm.raised_ms - over[key] < CHATTER_MS
        if alarm.over_ms is not None:
            over[key] = alarm.over_ms
    return chatter


def _wrong_time(table: FrameTable, labelled: Bools, classes: Sequence[str]) -> dict[str, Any]:
    names = "wrong_hours", "wrong_fault_hours", "unknown_hours", "unseen_hours", "false_hours", "labelled_hours"
    said = table.answers.get(FUSED)
    if said is None or not labelled.any():
        return dict.fromkeys(names)
    said = evident(said)
    is_unknown = (said == UNKNOWN) | (said == len(classes) - 1)
    wrong = labelled & (table.truth != said)
    faulty = wrong & (table.truth != NORMAL)
    parts = (
        wrong,
        faulty & (said != NORMAL) & ~is_unknown,
        faulty & is_unknown,
        faulty & (said == NORMAL),
        wrong & (table.truth == NORMAL),
        labelled,
    )
    return {name: float(table.period_ms[rows].sum()) / _HOUR_MS for name, rows in zip(names, parts, strict=True)}
