"""Alarms as their records say: the state of each, its life, who did what, and what is counted of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from agents.audit.reports.alarm_list import AlarmsOfMachine, AlarmState, AlarmStatus, urgency
from agents.console.book.bounded import Limits, Newest, SeenIds
from pipeline.config.sections.titles import Priority
from pipeline.engine.reports.incidents.record import SIMILAR, SimilarIncident, decode_similar
from pipeline.engine.reports.lifecycle.life import ALL_FAULTS, CHATTER_MS
from pipeline.engine.reports.lifecycle.records import Alarm
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Headers

COMMENTED: Final = "commented"
_HOLDS: Final = frozenset({"shelved", "unshelved", "suppressed", "unsuppressed"})
_OVER: Final = "cleared"


@dataclass(slots=True)
class AlarmLife:
    """What happened to one alarm."""

    key: str
    changes: list[Alarm] = field(default_factory=list)
    similar: list[SimilarIncident] = field(default_factory=list)
    raised_ms: int | None = None
    acknowledged_ms: int | None = None
    over: AlarmStatus | None = None
    """How it was when it was over."""
    over_ms: int | None = None
    version: int = 0
    """When it changed last."""

    def note(self, record: Alarm, limit: int) -> None:
        """Add a change; of too many the first one and the newest are kept."""
        self.changes.append(record)
        if len(self.changes) > limit:
            del self.changes[1]


@dataclass(frozen=True, slots=True)
class AlarmRow:
    """An alarm as it is, or what is shelved or out of service without one."""

    key: str
    status: AlarmStatus
    life: AlarmLife | None
    """None where there is no alarm."""


@dataclass(frozen=True, slots=True)
class Raised:
    """An alarm was raised, and somebody was called."""

    machine: str
    fault: str
    priority: str
    time_ms: int


@dataclass(slots=True)
class _Machine:
    alarms: AlarmsOfMachine
    seen: SeenIds
    lives: dict[str, AlarmLife] = field(default_factory=dict)
    """By the alarm's id, those that are not over."""
    raised_ms: dict[str, list[int]] = field(default_factory=dict)
    """By fault, when its alarm was raised, in the hour up to the newest time."""


class AlarmBook:
    """The alarms of every machine and utility."""

    def __init__(self, limits: Limits, priority_of: Callable[[AlarmStatus], Priority]) -> None:
        """`priority_of` is the priority that people are shown."""
        self._limits = limits
        self._priority_of = priority_of
        self._machines: dict[str, _Machine] = {}
        self._over: Newest[AlarmLife] = Newest(limits.recent)
        self.raised: Newest[Raised] = Newest(limits.raised)
        self.acknowledged: Newest[int] = Newest(limits.recent)
        """How long alarms waited for acknowledgement, in milliseconds of event time."""
        self.configured: Newest[Alarm] = Newest(limits.names)
        self.newest_ms: int | None = None

    def take(self, record: Alarm, headers: Headers, version: int) -> bool:
        """Take a record of the topic; returns whether it is news."""
        if record.state == "configured":
            is_new = record.id not in self.configured
            return is_new and self.configured.put(record.id, record.time, record)
        machine = self._machines.get(record.machine)
        if machine is None:
            machine = self._machines[record.machine] = _Machine(AlarmsOfMachine(), SeenIds(self._limits.ids))
            if len(self._machines) > self._limits.machines:
                self._make_room()
        if not machine.seen.is_new(record.id):
            return False
        if self.newest_ms is None or record.time > self.newest_ms:
            self.newest_ms = record.time
        self._apply(machine, record, headers, version)
        return True

    def _apply(self, machine: _Machine, record: Alarm, headers: Headers, version: int) -> None:
        alarms, fault = machine.alarms, record.fault
        before = dict(alarms.open)
        if record.state != COMMENTED:
            alarms.take(record)
        opened = before.get(fault) or alarms.open.get(fault)
        id_ = record.id if record.state == "raised" else record.alarm or (opened.id if opened else None)
        if record.state in _HOLDS or (record.state == COMMENTED and record.alarm is None):
            concerned = [one.id for name, one in alarms.open.items() if fault in (name, ALL_FAULTS)]
        else:
            concerned = [id_]
        for one in concerned:
            if one is not None:
                life = self._life(machine, one)
                life.note(record, self._limits.alarm_changes)
                life.version = version
        if id_ is not None:
            self._note(machine, machine.lives.get(id_), record, headers)
        self._close(machine, before, record, version)
        while len(alarms.open) > self._limits.names:
            del alarms.open[next(iter(alarms.open))]
        while len(alarms.held) > self._limits.names:
            del alarms.held[next(iter(alarms.held))]

    def _life(self, machine: _Machine, id_: str) -> AlarmLife:
        life = machine.lives.get(id_) or self._over.get(id_)
        if life is None:
            life = machine.lives[id_] = AlarmLife(id_)
        return life

    def _note(self, machine: _Machine, life: AlarmLife | None, record: Alarm, headers: Headers) -> None:
        """What is known of an alarm besides its state, and counts."""
        if life is None:
            return
        if record.state == "raised":
            life.raised_ms = record.time
            life.similar = _similar(headers)
            if record.suppressed is None:
                opened = machine.alarms.open.get(record.fault)
                priority = record.priority if opened is None else self._priority_of(opened)
                raised = Raised(record.machine, record.fault, priority, record.time)
                self.raised.put(record.id, record.time, raised)
                own = [one for one in machine.raised_ms.pop(record.fault, ()) if record.time - one < CHATTER_MS]
                machine.raised_ms[record.fault] = [*own, record.time][-self._limits.alarm_changes :]
                if len(machine.raised_ms) > self._limits.names:
                    del machine.raised_ms[next(iter(machine.raised_ms))]
        elif record.state == "acknowledged" and life.acknowledged_ms is None:
            life.acknowledged_ms = record.time
            if life.raised_ms is not None:
                self.acknowledged.put(life.key, record.time, record.time - life.raised_ms)

    def _close(self, machine: _Machine, before: dict[str, AlarmStatus], record: Alarm, version: int) -> None:
        """Alarms that are over since this record: cleared, of another model, or raised again without a record of it."""
        now = {one.id for one in machine.alarms.open.values()}
        for one in before.values():
            if one.id is None or one.id in now:
                continue
            life = machine.lives.pop(one.id, None) or AlarmLife(one.id, raised_ms=one.raised_ms)
            self._end(life, one, record, version)
        for id_ in [id_ for id_, life in machine.lives.items() if id_ not in now]:
            life = machine.lives.pop(id_)  # what was raised before reading began, and is over
            if record.state == _OVER:
                status = AlarmStatus(record.machine, record.fault, AlarmState.NORMAL, record.priority, id=id_)
                self._end(life, status, record, version)

    def _end(self, life: AlarmLife, status: AlarmStatus, record: Alarm, version: int) -> None:
        life.over, life.over_ms, life.version = status, record.time, version
        self._over.put(life.key, record.time, life)

    def _make_room(self) -> None:
        """Forget a machine of which there is nothing to say."""
        idle = (name for name, one in self._machines.items() if not one.alarms.open and not one.alarms.held)
        del self._machines[next(idle, next(iter(self._machines)))]

    # -- what is known ------------------------------------------------------------------------------------------

    def statuses(self, machine: str) -> list[AlarmStatus]:
        """A machine's alarms that are not normal, the most urgent first."""
        found = self._machines.get(machine)
        if found is None or self.are_normal(machine):
            return []
        return sorted(found.alarms.statuses(), key=self.urgency)

    def urgency(self, status: AlarmStatus) -> tuple[int, int, int, str]:
        """What orders alarms, the most urgent first."""
        return urgency(status, self._priority_of(status))

    def are_normal(self, machine: str) -> bool:
        """Whether there is nothing to say of a machine's alarms."""
        found = self._machines.get(machine)
        return found is None or not (found.alarms.open or found.alarms.held)

    def rows(self, machine: str) -> list[AlarmRow]:
        """The same, with their lives."""
        found = self._machines.get(machine)
        lives = {} if found is None else found.lives
        return [AlarmRow(key_of(one), one, lives.get(one.id or "")) for one in self.statuses(machine)]

    @property
    def machines(self) -> Iterable[str]:
        """Machines and utilities of which there were alarms."""
        return self._machines.keys()

    def over(self) -> Iterator[AlarmLife]:
        """Alarms that are over, the newest first."""
        return iter(self._over)

    def find_over(self, id_: str) -> AlarmLife | None:
        """An alarm that is over, by its id."""
        return self._over.get(id_)

    def touch(self, machine: str, id_: str, version: int) -> bool:
        """Something else has changed that is shown with an alarm; returns whether the alarm is known."""
        found = self._machines.get(machine)
        life = self._over.get(id_) if found is None else found.lives.get(id_) or self._over.get(id_)
        if life is not None:
            life.version = version
        return life is not None

    def times_raised(self, machine: str, fault: str, now_ms: int) -> int:
        """How often an alarm was raised within the last hour."""
        found = self._machines.get(machine)
        own = () if found is None else found.raised_ms.get(fault, ())
        return sum(now_ms - time_ms < CHATTER_MS for time_ms in own)

    def open_since(self, machine: str, fault: str) -> int | None:
        """Since when the alarm of this fault has been open; None if it is not."""
        found = self._machines.get(machine)
        opened = None if found is None else found.alarms.open.get(fault)
        return None if opened is None else opened.since_ms if opened.raised_ms is None else opened.raised_ms


def key_of(alarm: AlarmStatus) -> str:
    """What names a row: the alarm's id, or machine, fault and state of what has none."""
    return alarm.id or f"{alarm.machine}:{alarm.fault}:{alarm.state.value}"


def _similar(headers: Headers) -> list[SimilarIncident]:
    found = dict(headers).get(SIMILAR)
    try:
        return [] if found is None else decode_similar(found)[:3]
    except RejectedError:
        return []
