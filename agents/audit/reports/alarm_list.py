"""Alarms as their records say: the state of each that is not normal, and the history of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from agents.words import Words
from pipeline.config.sections.alarms import PRIORITIES
from pipeline.config.sections.titles import Priority
from pipeline.engine.reports.lifecycle.life import ALL_FAULTS
from pipeline.engine.reports.lifecycle.records import Alarm, decode_alarm
from pipeline.wire.messages import RejectedError


class AlarmState(StrEnum):
    """The state of an alarm in the terms of ISA-18.2, the most urgent first."""

    UNACKNOWLEDGED = "unacknowledged"
    """The fault is there, and nobody has acknowledged the alarm."""
    RETURNED = "returned-unacknowledged"
    """The fault is gone, and nobody has acknowledged the alarm."""
    LATCHED = "latched"
    """The fault is gone, and the alarm stays until it is acknowledged."""
    ACKNOWLEDGED = "acknowledged"
    """The fault is there, and somebody has acknowledged the alarm."""
    SHELVED = "shelved"
    OUT_OF_SERVICE = "out-of-service"
    SUPPRESSED = "suppressed-by-design"
    NORMAL = "normal"


WAITING: Final = frozenset({AlarmState.UNACKNOWLEDGED, AlarmState.RETURNED, AlarmState.LATCHED})
"""Alarms that wait for acknowledgement."""

_RANKS: Final = {state: rank for rank, state in enumerate(AlarmState)}
_OPEN: Final = {
    "raised": AlarmState.UNACKNOWLEDGED,
    "realarmed": AlarmState.UNACKNOWLEDGED,
    "acknowledged": AlarmState.ACKNOWLEDGED,
    "returned": AlarmState.RETURNED,
    "latched": AlarmState.LATCHED,
}
_HELD: Final = {"shelved": AlarmState.SHELVED, "suppressed": AlarmState.OUT_OF_SERVICE}
_RELEASED: Final = {"unshelved": AlarmState.SHELVED, "unsuppressed": AlarmState.OUT_OF_SERVICE}


@dataclass(frozen=True, slots=True)
class AlarmStatus:
    """One alarm as it is; times are event time in milliseconds, None where they are not known."""

    machine: str
    fault: str
    """`*` for whatever may be raised on a machine whose alarms are shelved or out of service as a whole."""
    state: AlarmState
    priority: Priority
    escalated: bool = False
    id: str | None = None
    """That of the record with which it was raised."""
    raised_ms: int | None = None
    since_ms: int = 0
    """Since when it is in its state."""
    until_ms: int | None = None
    """Until when it is shelved."""
    by: str | None = None
    """Who acknowledged, shelved or suppressed it."""
    why: str | None = None
    confidence: float = 0.0
    diagnosis: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(slots=True)
class AlarmSummary:
    """What the records of a topic or a recording say, and how many of them could not be read."""

    alarms: list[AlarmStatus]
    """Those that are not normal, the most urgent first."""
    history: list[Alarm]
    """Every record once, in the order of event time."""
    unreadable: int


@dataclass(slots=True)
class AlarmsOfMachine:
    """The alarms of one machine, by its records in their order."""

    model: str = ""
    open: dict[str, AlarmStatus] = field(default_factory=dict)
    """By fault, whether or not they are shelved or out of service."""
    held: dict[tuple[AlarmState, str], AlarmStatus] = field(default_factory=dict)
    """What is shelved or out of service, by state and fault."""
    by_design: set[str] = field(default_factory=set)

    def take(self, record: Alarm) -> None:
        """What changes with a record, which has not been taken before."""
        model = record.id.removeprefix(f"{record.machine}:").split(":")[1:2]
        if model and model[0] != self.model:  # another model begins without the alarms of the one before
            self.open.clear()
            self.held.clear()
            self.model = model[0]
        fault = record.fault
        if record.state in _HELD:
            state = _HELD[record.state]
            status = AlarmStatus(record.machine, fault, state, record.priority, since_ms=record.time)
            self.held[state, fault] = replace(status, until_ms=record.until, by=record.by, why=record.why)
        elif record.state in _RELEASED:
            self.held.pop((_RELEASED[record.state], fault), None)
        elif record.state == "cleared":
            self.open.pop(fault, None)
        elif record.state in _OPEN or record.state == "escalated":
            self._change(record)

    def _change(self, record: Alarm) -> None:
        fault = record.fault
        before = self.open.get(fault)
        if before is None or record.state == "raised":
            first = (record.id, record.time) if record.state == "raised" else (record.alarm, None)
            before = AlarmStatus(
                record.machine,
                fault,
                AlarmState.UNACKNOWLEDGED,
                record.priority,
                id=first[0],
                raised_ms=first[1],
                since_ms=record.time,
                confidence=record.confidence,
                diagnosis=record.diagnosis,
            )
        if record.state == "escalated":
            self.open[fault] = replace(before, priority=record.priority, escalated=True)
        else:
            state = _OPEN[record.state]
            self.open[fault] = replace(before, state=state, since_ms=record.time, by=record.by, why=record.why)
        (self.by_design.add if record.suppressed == "by_design" else self.by_design.discard)(fault)

    def statuses(self) -> list[AlarmStatus]:
        """Alarms as they are now; what is held without any alarm has a row of its own."""
        found = [self._shown(alarm) for alarm in self.open.values()]
        return [*found, *(held for (_, fault), held in self.held.items() if fault not in self.open)]

    def _shown(self, alarm: AlarmStatus) -> AlarmStatus:
        for state in (AlarmState.OUT_OF_SERVICE, AlarmState.SHELVED):
            held = self.held.get((state, alarm.fault)) or self.held.get((state, ALL_FAULTS))
            if held is not None:
                since_ms, until_ms = held.since_ms, held.until_ms
                return replace(alarm, state=state, since_ms=since_ms, until_ms=until_ms, by=held.by, why=held.why)
        return replace(alarm, state=AlarmState.SUPPRESSED) if alarm.fault in self.by_design else alarm


def urgency(alarm: AlarmStatus, priority: Priority | None = None) -> tuple[int, int, int, str]:
    """What orders alarms, the most urgent first; by this priority instead of the alarm's own, if it is given."""
    place = PRIORITIES.index(priority or alarm.priority)
    return _RANKS[alarm.state], -place, -alarm.since_ms, alarm.machine


def shown_priority(alarm: AlarmStatus, words: Words) -> Priority:
    """How urgent people are told that an alarm is."""
    return alarm.priority if alarm.escalated else words.priority(alarm.machine, alarm.fault, alarm.priority)


def summarize_alarms(values: Iterable[bytes | None]) -> AlarmSummary:
    """Alarms from the records of the topic `alarms`, those of each machine in their order.

    A record that came twice, because its input was read again after a crash, counts once.
    """
    machines: dict[str, AlarmsOfMachine] = {}
    records: dict[str, Alarm] = {}
    unreadable = 0
    for value in values:
        try:
            record = decode_alarm(value or b"")
        except RejectedError:
            unreadable += 1
            continue
        if record.id in records:
            continue
        records[record.id] = record
        if record.state != "configured":
            machines.setdefault(record.machine, AlarmsOfMachine()).take(record)
    alarms = [status for machine in machines.values() for status in machine.statuses()]
    alarms.sort(key=urgency)
    return AlarmSummary(alarms, sorted(records.values(), key=lambda one: one.time), unreadable)
