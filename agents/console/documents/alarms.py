"""Documents about alarms: each with its life, in ISA-18.2 terms, and what is counted of all; and past incidents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class AlarmChange(msgspec.Struct, frozen=True, gc=False):
    """Something that happened to an alarm, in event time, and the time stamp of what somebody did."""

    state: str
    time_ms: int
    sent_ms: int | None
    by: str | None
    why: str | None
    priority: str
    until_ms: int | None


class Comment(msgspec.Struct, frozen=True, gc=False):
    """What somebody wrote about an alarm."""

    time_ms: int
    sent_ms: int | None
    by: str | None
    text: str


class Similar(msgspec.Struct, frozen=True, gc=False):
    """A past incident that is like the alarm."""

    id: str
    machine: str
    name: str
    start_ms: int
    end_ms: int | None
    fault: str | None
    fault_title: str | None
    found: bool
    text: str
    score: float


class Found(msgspec.Struct, frozen=True, gc=False):
    """What a technician found, by a label that overlaps the alarm."""

    fault: str
    fault_title: str
    note: str | None


class Alarm(msgspec.Struct, frozen=True):
    """One alarm as it is; times are event time in milliseconds."""

    key: str
    """Its id where that is known; else machine, fault and state."""
    id: str | None
    """That of the record with which it was raised."""
    machine: str
    name: str
    title: str
    area: str | None
    area_title: str | None
    utility: bool
    """Whether `machine` is a utility of an area."""
    fault: str
    alarm_title: str
    description: str | None
    check_first: Sequence[str]
    component: str | None
    state: str
    """Of AlarmState, in agents/audit/reports/alarm_list.py."""
    waiting: bool
    """Whether it waits for acknowledgement."""
    priority: str
    escalated: bool
    raised_ms: int | None
    since_ms: int
    until_ms: int | None
    over_ms: int | None
    acknowledged_ms: int | None
    by: str | None
    why: str | None
    confidence: float
    diagnosis: str
    times_raised: int
    """How often this fault's alarm was raised on the machine within the last hour."""
    chattering: bool
    changes: Sequence[AlarmChange]
    comments: Sequence[Comment]
    similar: Sequence[Similar]
    found: Found | None


class Chattering(msgspec.Struct, frozen=True, gc=False):
    """An alarm that comes again and again."""

    machine: str
    name: str
    fault: str
    alarm_title: str
    times: int
    """How often it was raised within the last hour."""


class AlarmCounters(msgspec.Struct, frozen=True):
    """Counts over the last 24 hours of event time; alarms that are shelved, suppressed or out of service call nobody
    and do not count but where it says so."""

    window_ms: int
    active: int
    waiting: int
    shelved: int
    out_of_service: int
    raised: int
    priorities: Mapping[str, int]
    """Alarms that were raised."""
    last_ten_minutes: int
    flood: bool
    """Whether there is a flood now: more than ten alarms in ten minutes."""
    floods: int
    chatter: int
    """Alarms that were raised for the third time or more within an hour."""
    chattering: Sequence[Chattering]
    standing: int
    """Alarms that have been there for more than a day."""
    acknowledged: int
    acknowledge_median_seconds: float | None
    acknowledge_slowest_seconds: float | None
    longest_waiting_seconds: float | None


class Configured(msgspec.Struct, frozen=True, gc=False):
    """Settings of alarms that somebody has changed while workers run."""

    machine: str
    time_ms: int
    sent_ms: int | None
    by: str | None
    why: str | None
    settings: str
    """As JSON."""


class AlarmsDocument(msgspec.Struct, frozen=True):
    """Alarms that are not normal, the most urgent first, and those that are over, the newest first."""

    version: int
    read_ms: int | None
    active: Sequence[Alarm]
    recent: Sequence[Alarm]
    counters: AlarmCounters
    configured: Sequence[Configured]
    incidents: int


class IncidentRow(msgspec.Struct, frozen=True):
    """A past or present incident: an alarm, or a labelled fault without one."""

    id: str
    kind: str
    machine: str
    name: str
    start_ms: int
    end_ms: int | None
    diagnosed: str | None
    diagnosed_title: str | None
    found: str | None
    found_title: str | None
    note: str | None
    texts: Sequence[str]


class IncidentsDocument(msgspec.Struct, frozen=True):
    """Incidents, the newest first."""

    incidents: Sequence[IncidentRow]
