"""The life of one machine's alarms: raised, acknowledged, returned, latched, shelved, suppressed, and what is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import msgspec

from pipeline.config.sections.alarms import PRIORITIES, AlarmSettings
from pipeline.config.sections.titles import Priority
from pipeline.engine.reports.lifecycle.records import Alarm, AlarmEvent

ALL_FAULTS: Final = "*"
"""Stands for all alarms of a machine."""

FAR_MS: Final = 2**62
"""No time comes so late."""

CHATTER_MS: Final = 3_600_000
CHATTER_TIMES: Final = 3

_FORGOTTEN: Final = "the machine is forgotten"

Suppression = Literal["shelved", "out_of_service", "by_design"]


class OpenAlarm(msgspec.Struct, omit_defaults=True, gc=False):
    """An alarm that is not in its normal state; times are event time in milliseconds."""

    fault: str
    id: str | None
    """That of its first record; None of one whose raising is not known, from a state of an older release."""
    raised_ms: int
    confidence: float
    diagnosis: str
    priority: Priority
    called_ms: int
    """When it last called for somebody."""
    rose_ms: int
    """Since when it has had its priority without being acknowledged."""
    active: bool = True
    acknowledged: bool = False
    has_history: bool = False
    """Whether there are records of it besides the first."""


class Hold(msgspec.Struct, frozen=True, gc=False):
    """Why alarms are shelved or out of service; until when is None if they stay so."""

    since_ms: int
    until_ms: int | None
    by: str
    why: str


class AlarmOverride(msgspec.Struct, frozen=True, gc=False):
    """Settings that have come with a control record, as in a profile."""

    entry: dict[str, object]
    by: str
    why: str
    sent_ms: int


class MachineAlarms(msgspec.Struct, omit_defaults=True, gc=False):
    """Everything about a machine's alarms that its recent answers do not say."""

    now_ms: int = 0
    """The newest event time at which anything happened, milliseconds."""
    open: dict[str, OpenAlarm] = {}
    shelved: dict[str, Hold] = {}
    out_of_service: dict[str, Hold] = {}
    recent_ms: dict[str, list[int]] = {}
    """By fault, when it was raised last."""
    overrides: list[AlarmOverride] = []
    pending: tuple[int, int] | None = None
    """The class that the frames agree on while a delay holds its change back, and since when."""

    @property
    def is_blank(self) -> bool:
        """Whether it says nothing."""
        return not (self.open or self.shelved or self.out_of_service or self.recent_ms or self.overrides)


class Person(NamedTuple):
    """Who does something, why, and the time stamp of the record that says so."""

    by: str
    why: str
    sent_ms: int


@dataclass(slots=True)
class Moment:
    """What happens to a machine's alarms at one time; everything is applied to `state` and adds to `events`."""

    machine: str
    model_hash: str
    state: MachineAlarms
    settings: Mapping[str, AlarmSettings]
    time_ms: int
    person: Person | None = None
    events: list[AlarmEvent] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Only what happens moves a machine's time: it is then saved with the machine.
        self.time_ms = max(self.time_ms, self.state.now_ms)

    # -- what the frames say ----------------------------------------------------------------------------------

    def begin(self, fault: str, confidence: float, diagnosis: str) -> None:
        """A fault, or a condition of the machine, is there."""
        settings, before = self.settings[fault], self.state.open.get(fault)
        if before is not None and before.active:
            return
        if before is not None and settings.latch:
            before.active = True
            self._call(before)
            return
        if before is not None:
            self._close(before)
        alarm = OpenAlarm(
            fault,
            self._id(fault, "raised"),
            self.time_ms,
            confidence,
            diagnosis,
            settings.priority,
            called_ms=self.time_ms,
            rose_ms=self.time_ms,
        )
        suppression = self.suppression(fault)
        is_chatter = suppression is None and self._note_raised(fault)
        self.state.open[fault] = alarm
        record = self._record(alarm, "raised", suppressed=suppression)
        self._add(AlarmEvent(record, is_chatter=is_chatter))

    def end(self, fault: str, confidence: float, diagnosis: str) -> None:
        """A fault, or a condition of the machine, is gone."""
        settings, alarm = self.settings[fault], self.state.open.get(fault)
        if alarm is None:
            alarm = OpenAlarm(fault, None, -1, 0.0, "", settings.priority, called_ms=-1, rose_ms=-1)
        alarm.active = False
        is_suppressed = self.suppression(fault) is not None
        now: dict[str, Any] = {"confidence": confidence, "diagnosis": diagnosis}
        if settings.latch and not is_suppressed:
            alarm.acknowledged = False
            self._note(alarm, "latched", **now)
        elif settings.acknowledge and not alarm.acknowledged and not is_suppressed:
            self._note(alarm, "returned", **now)
        else:
            self._close(alarm, **now)

    def has_active(self, fault: str) -> bool:
        """Whether the alarm is there, and its cause too."""
        alarm = self.state.open.get(fault)
        return alarm is not None and alarm.active

    # -- what people do ---------------------------------------------------------------------------------------

    def acknowledge(self, fault: str | None) -> None:
        """Somebody has seen an alarm, or all of the machine; those whose fault is gone are over."""
        for alarm in self._open(fault):
            if alarm.acknowledged:
                continue
            alarm.acknowledged = True
            after_ms = self.time_ms - alarm.raised_ms if alarm.raised_ms >= 0 else None
            self._note(alarm, "acknowledged", after_ms=after_ms)
            alarm.called_ms = self.time_ms
            if not alarm.active:
                self._close(alarm)

    def shelve(self, fault: str | None, until_ms: int) -> None:
        """An alarm, or all of the machine, call nobody until then."""
        self._hold(self.state.shelved, fault, until_ms, "shelved")

    def suppress(self, fault: str | None) -> None:
        """An alarm, or all of the machine, are out of service."""
        self._hold(self.state.out_of_service, fault, None, "suppressed")

    def unshelve(self, fault: str | None) -> None:
        """Undo `shelve`; without a fault, whatever is shelved."""
        self._release(self.state.shelved, fault, "unshelved")

    def unsuppress(self, fault: str | None) -> None:
        """Undo `suppress`; without a fault, whatever is out of service."""
        self._release(self.state.out_of_service, fault, "unsuppressed")

    def comment(self, fault: str | None) -> None:
        """Somebody has something to say about an alarm, or about the machine; nothing else changes."""
        self._note_about(fault or ALL_FAULTS, "commented")

    def _hold(self, holds: dict[str, Hold], fault: str | None, until_ms: int | None, state: str) -> None:
        assert self.person is not None
        name = fault or ALL_FAULTS
        holds[name] = Hold(self.time_ms, until_ms, self.person.by, self.person.why)
        self._note_about(name, state, until=until_ms)

    def _release(self, holds: dict[str, Hold], fault: str | None, state: str) -> None:
        for name in [name for name in holds if fault in (None, name)]:
            del holds[name]
            self._note_about(name, state)
            for alarm in self._open(None if name == ALL_FAULTS else name):
                if alarm.active and self.suppression(alarm.fault) is None:
                    self._call(alarm)

    # -- what time does ---------------------------------------------------------------------------------------

    def pass_time(self) -> None:
        """Do what is due: end shelving, call again, raise the priority of what nobody acknowledges."""
        expired = [name for name, hold in self.state.shelved.items() if _until(hold) <= self.time_ms]
        for name in expired:
            self._release(self.state.shelved, name, "unshelved")
        for alarm in self._open(None):
            settings = self.settings[alarm.fault]
            if self.suppression(alarm.fault) is not None:
                continue
            if _rise_ms(alarm, settings) <= self.time_ms:
                alarm.priority = PRIORITIES[PRIORITIES.index(alarm.priority) + 1]
                alarm.rose_ms = self.time_ms
                self._note(alarm, "escalated")
            if _call_ms(alarm, settings) <= self.time_ms:
                self._call(alarm)

    def forget(self) -> None:
        """The machine is forgotten: nothing stands any more."""
        for alarm in self._open(None):
            self._close(alarm, why=_FORGOTTEN)
        for holds, state in ((self.state.shelved, "unshelved"), (self.state.out_of_service, "unsuppressed")):
            for name in list(holds):
                del holds[name]
                self._note_about(name, state, why=_FORGOTTEN)

    # -- records ----------------------------------------------------------------------------------------------

    def suppression(self, fault: str) -> Suppression | None:
        """Why an alarm calls nobody."""
        state = self.state
        if self.settings[fault].suppress:
            return "by_design"
        if fault in state.out_of_service or ALL_FAULTS in state.out_of_service:
            return "out_of_service"
        return "shelved" if fault in state.shelved or ALL_FAULTS in state.shelved else None

    def configured(self, machine: str, entry: dict[str, object]) -> AlarmEvent:
        """The record that settings have changed for the machines that a selector names."""
        record = self._record_about(machine, str(entry.get("fault", ALL_FAULTS)), "configured")
        return AlarmEvent(msgspec.structs.replace(record, settings=entry))

    def _add(self, event: AlarmEvent) -> None:
        self.state.now_ms = self.time_ms
        self.events.append(event)

    def _open(self, fault: str | None) -> list[OpenAlarm]:
        return [alarm for name, alarm in self.state.open.items() if fault in (None, name)]

    def _call(self, alarm: OpenAlarm) -> None:
        if alarm.acknowledged:
            alarm.rose_ms = self.time_ms
        alarm.acknowledged = False
        alarm.called_ms = self.time_ms
        self._note(alarm, "realarmed")

    def _close(self, alarm: OpenAlarm, **values: Any) -> None:
        self.state.open.pop(alarm.fault, None)
        # The end of an alarm that only was raised reads as in releases that knew nothing else.
        link = alarm.id if alarm.has_history else None
        self._add(AlarmEvent(self._record(alarm, "cleared", **{"alarm": link} | values)))

    def _note(self, alarm: OpenAlarm, state: str, *, after_ms: int | None = None, **values: Any) -> None:
        alarm.has_history = True
        record = self._record(alarm, state, alarm=alarm.id, **values)
        self._add(AlarmEvent(record, acknowledged_after_ms=after_ms))

    def _note_about(self, fault: str, state: str, **values: Any) -> None:
        alarm = self.state.open.get(fault)
        if alarm is not None:
            self._note(alarm, state, **values)
        else:
            record = self._record_about(self.machine, fault, state)
            self._add(AlarmEvent(msgspec.structs.replace(record, **values)))

    def _record(self, opened: OpenAlarm, state: str, **values: Any) -> Alarm:
        fields: dict[str, Any] = {"confidence": opened.confidence, "diagnosis": opened.diagnosis, **self._who()}
        if state != "raised":
            fields["suppressed"] = self.suppression(opened.fault)
        fields |= {"priority": opened.priority} | values
        return Alarm(self._id(opened.fault, state), self.machine, opened.fault, state, self.time_ms, **fields)

    def _record_about(self, machine: str, fault: str, state: str) -> Alarm:
        return Alarm(self._id(fault, state), machine, fault, state, self.time_ms, 0.0, "", **self._who())

    def _who(self) -> dict[str, Any]:
        return (
            {} if self.person is None else {"by": self.person.by, "why": self.person.why, "sent": self.person.sent_ms}
        )

    def _id(self, fault: str, state: str) -> str:
        said = "" if self.person is None else f":{self.person.sent_ms}"
        return f"{self.machine}:{self.time_ms}:{self.model_hash[:12]}:{fault}:{state}{said}"

    def _note_raised(self, fault: str) -> bool:
        """Whether an alarm chatters, now that it is raised once more."""
        recent = self.state.recent_ms
        for name in list(recent):
            recent[name] = [time_ms for time_ms in recent[name] if self.time_ms - time_ms < CHATTER_MS]
            if not recent[name]:
                del recent[name]
        own = recent.setdefault(fault, [])
        own.append(self.time_ms)
        del own[:-CHATTER_TIMES]
        return len(own) == CHATTER_TIMES


def next_due_ms(state: MachineAlarms, settings: Mapping[str, AlarmSettings]) -> int:
    """When something is due next, FAR_MS if nothing is; a suppressed alarm may be looked at in vain."""
    times = [_until(hold) for hold in state.shelved.values()]
    for alarm in state.open.values():
        times += (_rise_ms(alarm, settings[alarm.fault]), _call_ms(alarm, settings[alarm.fault]))
    return min(times, default=FAR_MS)


def _until(hold: Hold) -> int:
    return FAR_MS if hold.until_ms is None else hold.until_ms


def _rise_ms(alarm: OpenAlarm, settings: AlarmSettings) -> int:
    if not settings.escalate_after_ms or alarm.acknowledged or alarm.priority == PRIORITIES[-1]:
        return FAR_MS
    return alarm.rose_ms + settings.escalate_after_ms


def _call_ms(alarm: OpenAlarm, settings: AlarmSettings) -> int:
    return alarm.called_ms + settings.re_alarm_ms if settings.re_alarm_ms and alarm.active else FAR_MS
