"""Alarms with their lives, what is counted of them all, and incidents."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Final

import msgspec

from agents.audit.reports.alarm_list import WAITING, AlarmState, AlarmStatus, shown_priority
from agents.console.book.chapters.alarms import COMMENTED, AlarmLife, AlarmRow, Raised
from agents.console.book.chapters.findings import KnownIncident
from agents.console.book.knowledge import Knowledge
from agents.console.book.rows.plant import CALLING
from agents.console.documents.alarms import (
    Alarm,
    AlarmChange,
    AlarmCounters,
    Chattering,
    Comment,
    Configured,
    Found,
    IncidentRow,
    Similar,
)
from pipeline.engine.reports.lifecycle.life import CHATTER_MS, CHATTER_TIMES
from pipeline.engine.reports.lifecycle.records import Alarm as AlarmRecord
from pipeline.engine.stats import FLOOD_ALARMS, FLOOD_MS, AlarmCounts

WINDOW_MS: Final = 86_400_000
"""Of how much event time alarms are counted, and after how long one that is there stands."""


def active_rows(known: Knowledge) -> list[AlarmRow]:
    """Alarms that are not normal, the most urgent first."""
    rows = [row for machine in known.alarms.machines for row in known.alarms.rows(machine)]
    return sorted(rows, key=lambda row: known.alarms.urgency(row.status))


def active_alarm(known: Knowledge, row: AlarmRow) -> Alarm:
    """An alarm that is not normal."""
    return _alarm(known, row.key, row.status, row.life, None)


def over_alarm(known: Knowledge, life: AlarmLife) -> Alarm | None:
    """An alarm that is over."""
    return None if life.over is None else _alarm(known, life.key, life.over, life, life.over_ms)


def _alarm(known: Knowledge, key: str, status: AlarmStatus, life: AlarmLife | None, over_ms: int | None) -> Alarm:
    titles, machine, fault = known.titles, status.machine, status.fault
    area, about = titles.area(machine), known.words.about_fault(machine, fault)
    state = status.state if over_ms is None else AlarmState.NORMAL
    records = [] if life is None else life.changes
    times = known.alarms.times_raised(machine, fault, known.read_ms or 0)
    raised_ms = status.raised_ms if life is None or life.raised_ms is None else life.raised_ms
    return Alarm(
        key=key,
        id=status.id,
        machine=machine,
        name=titles.name(machine),
        title=titles.machine(machine),
        area=None if area is None else area.id,
        area_title=None if area is None else area.title,
        utility=machine in titles.utilities,
        fault=fault,
        alarm_title=titles.fault(machine, fault),
        description=None if about is None else about.description,
        check_first=() if about is None else about.check_first,
        component=known.words.component(machine, fault),
        state=state.value,
        waiting=state in WAITING,
        priority=shown_priority(status, known.words),
        escalated=status.escalated,
        raised_ms=raised_ms,
        since_ms=status.since_ms if over_ms is None else over_ms,
        until_ms=None if over_ms is not None else status.until_ms,
        over_ms=over_ms,
        acknowledged_ms=None if life is None else life.acknowledged_ms,
        by=status.by,
        why=status.why,
        confidence=status.confidence,
        diagnosis=status.diagnosis,
        times_raised=times,
        chattering=times >= CHATTER_TIMES,
        changes=[_change(known, one) for one in records if one.state != COMMENTED],
        comments=[Comment(one.time, one.sent, one.by, one.why or "") for one in records if one.state == COMMENTED],
        similar=[] if life is None else _similar(known, life),
        found=_found(known, machine, status.id),
    )


def _change(known: Knowledge, record: AlarmRecord) -> AlarmChange:
    has_risen = record.state == "escalated"
    as_status = AlarmStatus(record.machine, record.fault, AlarmState.NORMAL, record.priority, escalated=has_risen)
    priority = shown_priority(as_status, known.words)
    return AlarmChange(record.state, record.time, record.sent, record.by, record.why, priority, record.until)


def _similar(known: Knowledge, life: AlarmLife) -> list[Similar]:
    return [
        Similar(
            id=one.id,
            machine=one.machine,
            name=known.titles.name(one.machine),
            start_ms=one.start,
            end_ms=one.end,
            fault=one.fault,
            fault_title=known.titles.fault_or_none(one.machine, one.fault),
            found=one.found,
            text=one.text,
            score=one.score,
        )
        for one in life.similar
    ]


def _found(known: Knowledge, machine: str, alarm: str | None) -> Found | None:
    incident = known.incidents.get(alarm)
    if incident is None or incident.found is None:
        return None
    return Found(incident.found, known.titles.fault(machine, incident.found), incident.note)


def incident_row(known: Knowledge, incident: KnownIncident) -> IncidentRow:
    """An incident in words."""
    machine = incident.machine
    return IncidentRow(
        id=incident.id,
        kind=incident.kind,
        machine=machine,
        name=known.titles.name(machine),
        start_ms=incident.start_ms,
        end_ms=incident.end_ms,
        diagnosed=incident.diagnosed,
        diagnosed_title=known.titles.fault_or_none(machine, incident.diagnosed),
        found=incident.found,
        found_title=known.titles.fault_or_none(machine, incident.found),
        note=incident.note,
        texts=incident.texts,
    )


def configured(record: AlarmRecord) -> Configured:
    """A change of settings."""
    settings = msgspec.json.encode(record.settings or {}).decode()
    return Configured(record.machine, record.time, record.sent, record.by, record.why, settings)


def counters(known: Knowledge) -> AlarmCounters:
    """What is counted of all alarms."""
    now_ms = known.read_ms or 0
    statuses = [row.status for row in active_rows(known)]
    states = Counter(one.state for one in statuses)
    calling = [one for one in statuses if one.state in CALLING]
    raised = [one for one in known.alarms.raised.since(now_ms - WINDOW_MS + 1) if one.time_ms <= now_ms]
    newest = sum(one.time_ms > now_ms - FLOOD_MS for one in raised)
    floods = AlarmCounts()
    for one in raised:
        floods.note_raised(one.priority, one.time_ms)
    waited = [known_ms / 1_000 for known_ms in known.alarms.acknowledged.since(now_ms - WINDOW_MS + 1)]
    waiting = [_begun_ms(one) for one in statuses if one.state in WAITING]
    chatter, chattering = _chatter(known, raised, now_ms)
    return AlarmCounters(
        window_ms=WINDOW_MS,
        active=len(calling),
        waiting=len(waiting),
        shelved=states[AlarmState.SHELVED],
        out_of_service=states[AlarmState.OUT_OF_SERVICE] + states[AlarmState.SUPPRESSED],
        raised=len(raised),
        priorities=dict(sorted(floods.raised.items())),
        last_ten_minutes=newest,
        flood=newest > FLOOD_ALARMS,
        floods=floods.floods,
        chatter=chatter,
        chattering=chattering,
        standing=sum(now_ms - _begun_ms(one) > WINDOW_MS for one in calling),
        acknowledged=len(waited),
        acknowledge_median_seconds=statistics.median(waited) if waited else None,
        acknowledge_slowest_seconds=max(waited, default=None),
        longest_waiting_seconds=max(0, now_ms - min(waiting)) / 1_000 if waiting else None,
    )


def _begun_ms(status: AlarmStatus) -> int:
    return status.since_ms if status.raised_ms is None else status.raised_ms


def _chatter(known: Knowledge, raised: list[Raised], now_ms: int) -> tuple[int, list[Chattering]]:
    """How often alarms were raised for the third time within an hour, and those that do so now, the worst first."""
    times: dict[tuple[str, str], list[int]] = {}
    for one in raised:
        times.setdefault((one.machine, one.fault), []).append(one.time_ms)
    last = CHATTER_TIMES - 1
    count = sum(later - own[place] < CHATTER_MS for own in times.values() for place, later in enumerate(own[last:]))
    found = []
    for (machine, fault), own in times.items():
        recent = sum(now_ms - time_ms < CHATTER_MS for time_ms in own)
        if recent >= CHATTER_TIMES:
            title = known.titles.fault(machine, fault)
            found.append(Chattering(machine, known.titles.name(machine), fault, title, recent))
    found.sort(key=lambda one: (-one.times, one.machine, one.fault))
    return count, found
