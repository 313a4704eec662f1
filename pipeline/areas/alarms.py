"""The alarms of an area's utilities: what frames, time and people do to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from pydantic import ValidationError

from pipeline.areas.layout import AreaLayout, CauseKind, UtilityLayout
from pipeline.arrays import Floats
from pipeline.compiled import Notify
from pipeline.config.sections.alarms import AlarmEntry, AlarmSettings
from pipeline.config.sections.titles import Priority
from pipeline.engine.reports.alarms import AlarmRule, Alarms, PendingChange
from pipeline.engine.reports.lifecycle.controls import act_of, override_of, person_of, require_few, with_override
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
from pipeline.wire.messages import Control, Reason, RejectedError

_NO_TYPE: Final = ""
"""Stands for the machine type of a utility: no entry that is for a machine type is for utilities."""
_MAX_SEEN: Final = 256
"""Control records that are remembered, so that one that a worker repeats after a crash has no effect."""
_ONLY = np.zeros(1, np.int64)

_encode = msgspec.msgpack.Encoder().encode


class SavedAlarms(msgspec.Struct, omit_defaults=True, gc=False):
    """Everything about the alarms of an area that its recent answers do not say."""

    utilities: dict[str, MachineAlarms] = {}
    """By the utility's id, without those of which there is nothing to say."""
    overrides: list[AlarmOverride] = []
    seen: list[str] = []
    pending: tuple[int, int] | None = None
    """The cause that the frames agree on while a delay holds its change back, and since when."""


_decode = msgspec.msgpack.Decoder(SavedAlarms).decode


class UtilityAlarms:
    """The alarms of one area: its frames agree on at most one cause, and each utility's alarms have a life."""

    def __init__(
        self,
        layout: AreaLayout,
        entries: Sequence[AlarmEntry],
        priority_of: Callable[[str, str], Priority | None],
        model_hash: str,
        rule: AlarmRule,
        notify: Notify,
    ) -> None:
        """`entries` are the profile's; `priority_of` gives what the profile says of a machine's fault. `rule` counts
        where no entry says otherwise; `notify` gets a line if code has to be compiled first.
        """
        self._layout = layout
        self._model_hash = model_hash
        self._entries = tuple(entries)
        self._causes = [(cause.name or "", cause.fault or "") for cause in layout.causes if cause.kind == _UTILITY]
        self._by_name = {one.name: one for one in layout.utilities}
        self._by_id = {one.id: one for one in layout.utilities}
        self._defaults = {one.id: _defaults(layout, one, priority_of, rule) for one in layout.utilities}
        self._detector = Alarms(rule, 1 + len(self._causes), notify)
        self._detector.reserve(1)
        self._lives: dict[str, MachineAlarms] = {}
        self._overrides: list[AlarmOverride] = []
        self._seen: dict[str, None] = {}
        self._settings: dict[str, Mapping[str, AlarmSettings]] = {}
        self._due_ms = FAR_MS
        self._resolve()

    # -- settings ---------------------------------------------------------------------------------------------

    def _resolve(self) -> None:
        """Work out the settings of every alarm; raises ValidationError."""
        entries = (*self._entries, *(AlarmEntry.model_validate(one.entry) for one in self._overrides))
        for utility, defaults in self._defaults.items():
            own = [one for one in entries if one.is_for_machine(_NO_TYPE, utility)]
            self._settings[utility] = {name: one.with_entries(own, name) for name, one in defaults.items()}
        if entries:
            of_causes = [self._settings[self._by_name[name].id][fault] for name, fault in self._causes]
            self._detector.set_scheme(0, self._detector.add_scheme([None, *of_causes]))
        self._look_ahead()

    def _look_ahead(self) -> None:
        """Note when something is due next."""
        self._lives = {name: life for name, life in self._lives.items() if not life.is_blank}
        due = (next_due_ms(life, self._settings[name]) for name, life in self._lives.items())
        self._due_ms = min(due, default=FAR_MS)

    # -- what happens -----------------------------------------------------------------------------------------

    def step(self, cause: int, probability: float, shares: Floats, end_ms: int, diagnosis: str) -> list[AlarmEvent]:
        """Take the most probable cause of a frame: 0 if it is no utility, negative if nothing is known.

        `probability` is its own as published, `shares` are those of all causes, (K,), and `diagnosis` is the id of the
        area's diagnosis.
        """
        events: list[AlarmEvent] = []
        sure = np.array([probability], np.float32)
        for change in self._detector.step(_ONLY, np.array([cause]), sure, np.array([end_ms])):
            name, fault = self._causes[change.fault - 1]
            moment = self._moment(self._by_name[name].id, end_ms)
            act = moment.begin if change.raised else moment.end
            act(fault, float(shares[change.fault]), diagnosis)
            events += moment.events
        if events:
            self._look_ahead()
        if self._due_ms <= end_ms:
            for utility in list(self._lives):
                moment = self._moment(utility, end_ms)
                moment.pass_time()
                events += moment.events
            self._look_ahead()
        return events

    def apply(
        self, control: Control, value: bytes, time_ms: int, sent_ms: int, faults: Mapping[str, Sequence[str]]
    ) -> list[AlarmEvent]:
        """Do what somebody asks for at this event time, by a control record that a worker has checked.

        `value` is the record's, and `faults` has the classes of each machine type. Raises RejectedError.
        """
        mark = f"{sent_ms}:{hashlib.blake2b(value, digest_size=8).hexdigest()}"
        if mark in self._seen:
            return []
        events = self._applied(control, time_ms, sent_ms, faults)
        self._seen[mark] = None
        if len(self._seen) > _MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        self._look_ahead()
        return events

    def _applied(
        self, control: Control, time_ms: int, sent_ms: int, faults: Mapping[str, Sequence[str]]
    ) -> list[AlarmEvent]:
        person = person_of(control, sent_ms)
        if control.kind == "configure":
            return [self._configure(override_of(control, sent_ms, faults), person)]
        utility = self._by_id.get(control.machine or "")
        if utility is None:
            detail = f"area {self._layout.name} has no utility {(control.machine or '')[:80]!r}"
            raise RejectedError(Reason.UNKNOWN_MACHINE, detail)
        act = act_of(control, utility.id, self._settings[utility.id], time_ms)
        moment = self._moment(utility.id, time_ms, person)
        act(moment)
        return moment.events

    def _configure(self, override: AlarmOverride, person: Person) -> AlarmEvent:
        kept = with_override(self._overrides, override)
        require_few(kept)
        self._overrides = kept
        self._resolve()
        name = str(override.entry.get("machine", "*"))
        moment = Moment(name, self._model_hash, MachineAlarms(), {}, person.sent_ms, person)
        return moment.configured(name, override.entry)

    def _moment(self, utility: str, time_ms: int, person: Person | None = None) -> Moment:
        life = self._lives.setdefault(utility, MachineAlarms())
        return Moment(utility, self._model_hash, life, self._settings[utility], time_ms, person)

    # -- state ------------------------------------------------------------------------------------------------

    def save(self) -> tuple[bytes, bytes]:
        """What the frames agree on, and the life of the alarms; the second is empty if there is nothing to say."""
        pending = self._detector.pending(0)
        saved = SavedAlarms(
            self._lives,
            self._overrides,
            list(self._seen),
            None if pending is None else (pending.fault, pending.since_ms),
        )
        is_blank = not (saved.utilities or saved.overrides or saved.seen or saved.pending)
        return self._detector.save(_ONLY)[0], b"" if is_blank else _encode(saved)

    def load(self, detected: bytes, life: bytes) -> None:
        """Put back what `save` gave; raises StateError if it does not fit."""
        try:
            saved = _decode(life) if life else SavedAlarms()
            for utility, own in saved.utilities.items():
                if utility not in self._by_id or not own.open.keys() <= self._defaults[utility].keys():
                    raise StateError(f"saved alarms of {utility[:80]} name a utility or a fault that is not there")
            self._lives, self._overrides = saved.utilities, saved.overrides
            self._seen = dict.fromkeys(saved.seen)
            self._resolve()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StateError(f"the life of saved alarms cannot be read: {error}") from error
        except ValidationError as error:
            raise StateError(f"saved settings of alarms cannot be read: {error.errors()[0]['msg']}") from error
        self._detector.load(0, detected, None if saved.pending is None else PendingChange(*saved.pending))


_UTILITY: Final = CauseKind.UTILITY


def _defaults(
    layout: AreaLayout,
    utility: UtilityLayout,
    priority_of: Callable[[str, str], Priority | None],
    rule: AlarmRule,
) -> dict[str, AlarmSettings]:
    """Settings of a utility's faults without any entry; the first machine that has a fault says how urgent it is."""
    settings = {}
    for fault in utility.faults:
        known = (priority_of(layout.machines[machine], fault) for machine in utility.machines.tolist())
        priority: Priority = next((one for one in known if one is not None), "high")
        settings[fault] = AlarmSettings(True, rule.k, rule.n, rule.confidence, priority)
    return settings
