"""The alarms of every machine of one type: what frames, silence, time and people do to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
from pydantic import ValidationError

from pipeline.arrays import Floats, Ints
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType
from pipeline.config.sections.alarms import (
    BLIND,
    MACHINE_CONDITIONS,
    OFFLINE,
    STALE,
    AlarmEntry,
    AlarmSettings,
)
from pipeline.config.sections.titles import Priority
from pipeline.config.topics import ALARMS
from pipeline.engine.reports.alarms import AlarmRule, Alarms, PendingChange
from pipeline.engine.reports.lifecycle.controls import require_few, with_override
from pipeline.engine.reports.lifecycle.life import (
    FAR_MS,
    AlarmOverride,
    MachineAlarms,
    Moment,
    Person,
    next_due_ms,
)
from pipeline.engine.reports.lifecycle.records import AlarmEvent
from pipeline.errors import StateError
from pipeline.frames import Frames
from pipeline.wire import messages
from pipeline.wire.diagnosis_columns import UNIT
from pipeline.wire.messages import ModelRef
from pipeline.wire.records import Output

_CONDITION_PRIORITIES: Final[Mapping[str, Priority]] = {STALE: "low", OFFLINE: "medium", BLIND: "medium"}
_AT_ONCE_MS: Final = -FAR_MS

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(MachineAlarms).decode


class AlarmedMachine(Protocol):
    """What has to be known of a machine."""

    name: str
    key: bytes
    partition: int
    slot: int


class Published(NamedTuple):
    """A record to publish, and what is counted of it."""

    output: Output
    event: AlarmEvent


@dataclass(frozen=True, slots=True)
class _Scheme:
    settings: Mapping[str, AlarmSettings]
    number: int


class AlarmBoard:
    """The alarms of the machines of one type, one slot each."""

    def __init__(
        self,
        machine_type: MachineType,
        entries: Sequence[AlarmEntry],
        classes: Sequence[str],
        unknown: int,
        model: ModelRef,
        rule: AlarmRule,
        notify: Notify,
    ) -> None:
        """`entries` are the profile's, `classes` the model's, of which `unknown` is the unknown fault; `rule` counts
        where no entry says otherwise.
        """
        self._type = machine_type
        self._entries = tuple(entries)
        self._classes = tuple(classes)
        self._model = model
        self._conditions = [name for name in MACHINE_CONDITIONS if name not in classes]
        self._defaults = self._default_settings(rule, unknown)
        self._detector = Alarms(rule, len(classes), notify)
        self._schemes: dict[tuple[AlarmEntry, ...], _Scheme] = {}
        self._scheme_of: dict[int, _Scheme] = {}  # by slot
        self._states: dict[int, MachineAlarms] = {}  # by slot, of those of which there is anything to say
        self._override_entries: dict[bytes, AlarmEntry] = {}  # by their encoding
        self._overrides: dict[int, list[AlarmOverride]] = {}  # by partition, for machines that are new there
        # When a machine has to be looked at: at once if its settings are not known yet or it is silent.
        self._look_ms: Ints = np.zeros(0, np.int64)
        self._newest_ms: Ints = np.zeros(0, np.int64)  # the end of each machine's newest frame, since the start

    def _default_settings(self, rule: AlarmRule, unknown: int) -> dict[str, AlarmSettings]:
        said = {fault.name: fault.priority for fault in self._type.described_faults} if self._entries else {}
        settings = {}
        for index, name in enumerate(self._classes[1:], 1):
            priority = said.get(name) or ("medium" if index == unknown else "high")
            settings[name] = AlarmSettings(True, rule.k, rule.n, rule.confidence, priority)
        for name in self._conditions:
            priority = _CONDITION_PRIORITIES[name]
            settings[name] = AlarmSettings(bool(self._entries), 1, 1, 0.0, priority)
        return settings

    # -- slots ------------------------------------------------------------------------------------------------

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        self._detector.load_code()

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        self._detector.reserve(slots)
        size = len(self._look_ms)
        if slots > size:
            grown = max(slots, 2 * size, 64) - size
            self._look_ms = np.concatenate([self._look_ms, np.full(grown, _AT_ONCE_MS)])
            self._newest_ms = np.concatenate([self._newest_ms, np.zeros(grown, np.int64)])

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self._detector.drop(slot)
        self._look_ms[slot], self._newest_ms[slot] = _AT_ONCE_MS, 0
        self._states.pop(slot, None)
        self._scheme_of.pop(slot, None)

    def save(self, slots: Ints) -> list[tuple[bytes, bytes]]:
        """Of each machine what its frames agree on, and the life of its alarms; empty if there is none."""
        return [
            (detected, self._life_state(slot))
            for slot, detected in zip(slots.tolist(), self._detector.save(slots), strict=True)
        ]

    def _life_state(self, slot: int) -> bytes:
        state, pending = self._states.get(slot, MachineAlarms()), self._detector.pending(slot)
        state.pending = None if pending is None else (pending.fault, pending.since_ms)
        return b"" if state.is_blank and pending is None else _encode(state)

    def load(self, machine: AlarmedMachine, detected: bytes, life: bytes) -> None:
        """Put back what `save` gave; raises StateError if it does not fit."""
        try:
            state = _decode(life) if life else MachineAlarms()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StateError(f"the life of saved alarms cannot be read: {error}") from error
        pending = None if state.pending is None else PendingChange(*state.pending)
        self._detector.load(machine.slot, detected, pending)
        if unknown := state.open.keys() - self._defaults.keys():
            raise StateError(f"saved alarms name {sorted(unknown)[0]!r}, which the model does not know")
        if not state.is_blank:
            self._states[machine.slot] = state
        known = self._overrides.get(machine.partition, [])
        if state.overrides and (not known or known[-1].sent_ms <= state.overrides[-1].sent_ms):
            self._overrides[machine.partition] = state.overrides
        try:
            self._resolve(machine)
        except ValidationError as error:
            raise StateError(f"saved settings of alarms cannot be read: {error.errors()[0]['msg']}") from error
        self._settle(machine, state)

    def release(self, partitions: frozenset[int]) -> None:
        """Forget the settings of partitions that now belong to another worker."""
        for partition in partitions:
            self._overrides.pop(partition, None)

    # -- settings ---------------------------------------------------------------------------------------------

    def settings(self, machine: AlarmedMachine) -> Mapping[str, AlarmSettings]:
        """The settings of every alarm that a machine can have."""
        scheme = self._scheme_of.get(machine.slot)
        return (self._resolve(machine) if scheme is None else scheme).settings

    def _resolve(self, machine: AlarmedMachine) -> _Scheme:
        state = self._states.get(machine.slot)
        if state is None and (new := self._overrides.get(machine.partition)):
            state = self._states[machine.slot] = MachineAlarms(overrides=list(new))
        overrides = [] if state is None else state.overrides
        entries = (*self._entries, *map(self._entry_of, overrides))
        own = tuple(entry for entry in entries if entry.is_for_machine(self._type.name, machine.name))
        scheme = self._scheme(own)
        self._scheme_of[machine.slot] = scheme
        self._detector.set_scheme(machine.slot, scheme.number)
        return scheme

    def _entry_of(self, override: AlarmOverride) -> AlarmEntry:
        """Its settings, which are checked once for all machines; raises ValidationError."""
        key = _encode(override.entry)
        if (entry := self._override_entries.get(key)) is None:
            entry = self._override_entries[key] = AlarmEntry.model_validate(override.entry)
        return entry

    def _scheme(self, entries: tuple[AlarmEntry, ...]) -> _Scheme:
        scheme = self._schemes.get(entries)
        if scheme is None:
            settings = {name: default.with_entries(entries, name) for name, default in self._defaults.items()}
            number = self._detector.add_scheme([settings.get(name) for name in self._classes])
            scheme = self._schemes[entries] = _Scheme(settings, number)
        return scheme

    def configure(self, override: AlarmOverride, machines: Sequence[AlarmedMachine], partition: int) -> None:
        """Machines of a partition, and those that come to it later, have further settings from now on; an earlier
        entry for the same alarms that sets nothing else is replaced. Raises RejectedError if there are too many.
        """
        kept = with_override(self._overrides.get(partition, []), override)
        require_few(kept)
        self._overrides[partition] = kept
        for machine in machines:
            state = self._states.setdefault(machine.slot, MachineAlarms())
            state.overrides = with_override(state.overrides, override)
            self._resolve(machine)
            self._settle(machine, state)

    # -- what happens -----------------------------------------------------------------------------------------

    def step(
        self, frames: Frames, faults: Ints, confidence: Floats, machines: Sequence[AlarmedMachine]
    ) -> list[Published]:
        """Take a round of frames with its answers (class 0 = normal; negative = no evidence)."""
        end_ms = frames.end_ms
        self._newest_ms[frames.slots] = end_ms
        looked_at = np.flatnonzero(self._look_ms[frames.slots] <= end_ms).tolist()
        for row in looked_at:
            if machines[row].slot not in self._scheme_of:
                self._resolve(machines[row])
                self._settle(machines[row], self._states.get(machines[row].slot))
        published: list[Published] = []
        for change in self._detector.step(frames.slots, faults, confidence, end_ms):
            machine, fault = machines[change.row], self._classes[change.fault]
            moment = self._moment(machine, int(end_ms[change.row]))
            act = moment.begin if change.raised else moment.end
            sure = round(float(confidence[change.row]) * UNIT) / UNIT
            act(fault, sure, self._diagnosis(machine, int(end_ms[change.row])))
            published += self._done(machine, moment)
        for row in looked_at:
            machine, moment = machines[row], self._moment(machines[row], int(end_ms[row]))
            if frames.observed[row].any():
                for name in (STALE, OFFLINE):
                    if name in self._conditions and moment.has_active(name):
                        moment.end(name, 0.0, self._diagnosis(machine, int(end_ms[row])))
            moment.pass_time()
            published += self._done(machine, moment)
        return published

    def announced(self, machine: AlarmedMachine, end_ms: int, *, offline: bool) -> list[Published]:
        """A silent machine has let a frame pass that ends here."""
        settings, name = self.settings(machine), OFFLINE if offline else STALE
        if name not in self._conditions or not settings[name].alarm:
            return []
        moment, diagnosis = self._moment(machine, end_ms), self._diagnosis(machine, end_ms)
        if offline and STALE in self._conditions and moment.has_active(STALE):
            moment.end(STALE, 0.0, diagnosis)
        moment.begin(name, 0.0, diagnosis)
        moment.pass_time()
        return self._done(machine, moment)

    def tick(self, now_ms: int, machine: AlarmedMachine, *, silent: bool, blind: bool) -> list[Published]:
        """Time passes for a machine: of its frames, if there are any, it knows more."""
        if not (silent or blind) and machine.slot in self._scheme_of and machine.slot not in self._states:
            return []  # it is well, and has no alarm that could end
        moment = self._moment(machine, now_ms)
        if BLIND in self._conditions and moment.settings[BLIND].alarm and blind != moment.has_active(BLIND):
            act = moment.begin if blind else moment.end
            act(BLIND, 0.0, "")
        if silent or blind:
            moment.pass_time()
        return self._done(machine, moment)

    def needs_time(self, partition: int) -> bool:
        """Whether `tick` may lead to anything; this depends on nothing but settings and what people did."""
        if self._entries or self._overrides.get(partition):
            return True
        return any(state.shelved for state in self._states.values())

    def act(
        self, machine: AlarmedMachine, time_ms: int, person: Person, act: Callable[[Moment], None]
    ) -> list[Published]:
        """Somebody does something with a machine's alarms."""
        moment = self._moment(machine, time_ms, person)
        act(moment)
        return self._done(machine, moment)

    def forget(self, machine: AlarmedMachine, time_ms: int) -> list[Published]:
        """A machine is about to be dropped: its alarms are over."""
        if machine.slot not in self._states:
            return []
        moment = self._moment(machine, time_ms)
        moment.forget()
        return self._done(machine, moment)

    def audit(self, override: AlarmOverride, partition: int, time_ms: int) -> Published:
        """The record that settings have changed."""
        person = Person(override.by, override.why, override.sent_ms)
        name = str(override.entry.get("machine", "*"))
        moment = Moment(name, self._model.hash, MachineAlarms(), {}, time_ms, person)
        event = moment.configured(name, override.entry)
        return _published(event, partition, name.encode(), time_ms)

    def _moment(self, machine: AlarmedMachine, time_ms: int, person: Person | None = None) -> Moment:
        settings = self.settings(machine)
        state = self._states.setdefault(machine.slot, MachineAlarms())
        return Moment(machine.name, self._model.hash, state, settings, time_ms, person)

    def _done(self, machine: AlarmedMachine, moment: Moment) -> list[Published]:
        self._settle(machine, moment.state)
        return [_published(event, machine.partition, machine.key, event.record.time) for event in moment.events]

    def _settle(self, machine: AlarmedMachine, state: MachineAlarms | None) -> None:
        """Note when a machine has to be looked at again."""
        if state is None or state.is_blank:
            self._states.pop(machine.slot, None)
            self._look_ms[machine.slot] = FAR_MS
            return
        is_silent = any((alarm := state.open.get(name)) and alarm.active for name in (STALE, OFFLINE))
        due_ms = _AT_ONCE_MS if is_silent else next_due_ms(state, self._scheme_of[machine.slot].settings)
        self._look_ms[machine.slot] = due_ms

    def _diagnosis(self, machine: AlarmedMachine, end_ms: int) -> str:
        return f"{machine.name}:{end_ms}:{self._model.hash[:12]}:0"

    # -- observation ------------------------------------------------------------------------------------------

    def active_for_ms(self) -> list[int]:
        """Of every alarm that is there, for how long in event time, as far as that is known."""
        return [
            max(state.now_ms, int(self._newest_ms[slot])) - alarm.raised_ms
            for slot, state in self._states.items()
            for alarm in state.open.values()
            if alarm.active and alarm.raised_ms >= 0
        ]


def _published(event: AlarmEvent, partition: int, key: bytes, time_ms: int) -> Published:
    return Published(Output(ALARMS, partition, key, messages.encode(event.record), time_ms), event)
