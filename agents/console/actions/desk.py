"""What people do at the console: checked against the profile and the plant as it is, and sent as records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from agents.audit.reports.alarm_list import AlarmState
from agents.console.actions.controls import control_value, require_alarm, require_person, require_shelvable
from agents.console.actions.feedback import require_corrected, require_label_names
from agents.console.actions.requests import (
    ActionKind,
    AlarmRequest,
    LabelRequest,
    Written,
    WrittenRecord,
    WrittenRecords,
)
from agents.console.actions.sending import Sender, Sent, send_about
from agents.console.errors import BadRequestError, ConflictError, NotFoundError
from agents.delivery.partitioning import partition_of
from agents.words import Words
from pipeline.config.classes import UNKNOWN
from pipeline.config.profile import NORMAL, PlantProfile
from pipeline.config.quantities.durations import parse_duration_ms, shown_duration
from pipeline.config.sections.titles import is_pattern
from pipeline.config.topics import CONTROL, LABELS
from pipeline.engine.reports.lifecycle.life import ALL_FAULTS
from pipeline.wire.labels import label_output
from pipeline.wire.messages import MAX_PERSON, RejectedError, is_time_ms

_DONE: dict[ActionKind, str] = {
    "acknowledge": "acknowledged",
    "shelve": "shelved",
    "unshelve": "back from the shelf",
    "suppress": "out of service",
    "unsuppress": "in service again",
    "comment": "commented on",
}
_SHOWN_ALARMS = 3


class KnownAlarm(Protocol):
    """What has to be known of an alarm that is not normal."""

    @property
    def fault(self) -> str:
        """`*` of what is shelved or out of service for all alarms of the machine."""

    @property
    def state(self) -> str:
        """As AlarmState."""

    @property
    def id(self) -> str | None:
        """With which it was raised; None if it is only shelved or out of service."""


class KnownPlant(Protocol):
    """The plant as it is, as far as its output topics have been read."""

    def knows(self, machine: str) -> bool:
        """Whether anything was read of a machine."""

    def newest_ms(self, machine: str) -> int | None:
        """The end of its newest frame, in event time."""

    def alarms_of(self, machine: str) -> Sequence[KnownAlarm]:
        """Its alarms that are not normal."""


class _Target(NamedTuple):
    """One alarm of a machine, or all of them."""

    machine: str
    fault: str | None
    id: str | None = None
    """With which it was raised, if that is how somebody named it."""


class Actions:
    """Sends what people do; checks only what can be known before, for the engine has the last word."""

    def __init__(self, sender: Sender, profile: PlantProfile, plant: KnownPlant) -> None:
        self._sender = sender
        self._profile = profile
        self._plant = plant
        self._words = Words(profile)

    async def act(self, kind: ActionKind, request: AlarmRequest, by: str, wall_ms: int) -> Written:
        """Act on alarms in the name of `by`.

        Raises BadRequestError, NotFoundError, ConflictError if it would have no effect, SettingsError if the profile
        forbids it, or the sender's errors.
        """
        require_person(by, request.why)
        targets = self._targets(request)
        for_ms = {machine: self._shelved_ms(kind, request, machine) for machine, _, _ in targets}
        for machine, fault, _ in targets:
            if (wanted_ms := for_ms[machine]) is not None:
                require_shelvable(self._profile, machine, fault, wanted_ms, "that")
        targets = [target for target in targets if self._has_effect(kind, target)]
        if not targets:
            raise ConflictError(_NO_EFFECT[kind], do="load the alarms again: somebody else may have been faster")
        values = [
            (machine, control_value(kind, machine, by, request.why, fault=fault, for_ms=for_ms[machine]))
            for machine, fault, _ in targets
        ]
        sent = await send_about(self._sender, CONTROL, values, wall_ms)
        until = f" for {shown_duration(next(iter(for_ms.values())) or 0)}" if kind == "shelve" else ""
        return _written(targets, sent, f"{self._said(kind, targets)}: {_DONE[kind]}{until}")

    async def label(self, request: LabelRequest, by: str, wall_ms: int) -> Written:
        """Write what a machine had, in the name of `by`.

        Raises BadRequestError, NotFoundError, SettingsError if the profile or the times do not fit, or the sender's
        errors.
        """
        machine, fault, corrects = request.machine, request.fault, request.corrects
        require_label_names(self._profile, machine, fault)
        if corrects is not None:
            require_corrected(corrects, machine)
        self._require_known(machine)
        newest_ms = self._plant.newest_ms(machine)
        now_ms = max(wall_ms, newest_ms or 0)
        until_ms = request.until_ms
        if until_ms is None and fault in (NORMAL, UNKNOWN):
            until_ms = newest_ms
        for name, time_ms in (("from_ms", request.from_ms), ("until_ms", until_ms)):
            if time_ms is not None and not (is_time_ms(time_ms) and time_ms <= now_ms):
                raise BadRequestError(
                    f"{name} {time_ms} is not a time of the past in milliseconds", do="choose a time up to now"
                )
        partition = partition_of(machine.encode(errors="replace"), await self._sender.partitions(LABELS))
        try:
            output = label_output(
                machine,
                fault,
                request.from_ms,
                until_ms,
                partition=partition,
                written_ms=wall_ms,
                note=request.comment,
                by=by[:MAX_PERSON],
                corrects=corrects,
            )
        except RejectedError as error:
            raise BadRequestError(f"this is no label: {error.detail}", do="correct the times") from None
        sent = await self._sender.send([output])
        target = _Target(machine, fault)
        said = f"{self._words.machine(machine)}: {self._words.fault(machine, fault)} is written down"
        return _written([target], sent, said)

    # -- what is meant ----------------------------------------------------------------------------------------

    def _targets(self, request: AlarmRequest) -> list[_Target]:
        ids = request.alarms if request.alarm is None else [request.alarm]
        if (request.machine is None) == (ids is None) or (request.alarm is not None and request.alarms is not None):
            raise BadRequestError(
                "the request does not say, or says twice, which alarms it is about",
                do="give one of machine, alarm and alarms",
            )
        if ids is not None:
            if request.fault is not None:
                raise BadRequestError("fault goes with machine", do="leave fault out, as the alarm's id says it")
            targets = [_target_of(one) for one in dict.fromkeys(ids)]
        else:
            assert request.machine is not None
            targets = [_Target(request.machine, request.fault)]
        for machine, fault, _ in targets:
            if is_pattern(machine):
                raise BadRequestError(f"{machine[:80]!r} is a pattern", do="give a machine's id")
            require_alarm(self._profile, machine, fault)
            self._require_known(machine)
        return targets

    def _require_known(self, machine: str) -> None:
        if not self._plant.knows(machine):
            raise NotFoundError(
                f"nothing has been read of machine {machine[:80]!r}", do=f"see `faultline why {machine[:80]}`"
            )

    def _shelved_ms(self, kind: ActionKind, request: AlarmRequest, machine: str) -> int | None:
        """How long the machine's alarms are to be shelved; None of anything else."""
        if kind != "shelve":
            if request.for_ is not None or request.until_ms is not None:
                raise BadRequestError(f"'{kind}' has no end", do="leave for and until_ms out")
            return None
        if (request.for_ is None) == (request.until_ms is None):
            raise BadRequestError("it does not say for how long to shelve", do="give either for or until_ms")
        if request.until_ms is not None:
            newest_ms = self._plant.newest_ms(machine)
            for_ms = 0 if newest_ms is None else request.until_ms - newest_ms
        else:
            try:
                for_ms = request.for_ if isinstance(request.for_, int) else parse_duration_ms(request.for_)
            except ValueError as error:
                raise BadRequestError(f"for: {error}", do="write for example 2h") from None
        if for_ms <= 0:
            raise BadRequestError("shelving would be over already", do="choose a later end")
        return for_ms

    def _has_effect(self, kind: ActionKind, target: _Target) -> bool:
        """Whether the alarms as they are known leave it anything to do."""
        own = [one for one in self._plant.alarms_of(target.machine) if target.fault in (None, one.fault)]
        if kind == "acknowledge":
            waiting = [one.id for one in own if one.id is not None and one.state != AlarmState.ACKNOWLEDGED]
            return bool(waiting) if target.id is None else target.id in waiting
        if kind in ("unshelve", "unsuppress"):
            state = AlarmState.SHELVED if kind == "unshelve" else AlarmState.OUT_OF_SERVICE
            held = [one for one in self._plant.alarms_of(target.machine) if one.state == state]
            if target.fault is not None and any(one.fault == ALL_FAULTS for one in held):
                raise ConflictError(
                    f"all alarms of {target.machine} are {state.value} together",
                    do=f"{kind} them all, without a fault",
                )
            return any(target.fault in (None, one.fault) for one in held)
        return True

    def _said(self, kind: ActionKind, targets: Iterable[_Target]) -> str:
        shown = []
        for machine, fault, _ in targets:
            named = self._words.machine(machine)
            if fault is not None or kind != "comment":  # a comment without a fault is about the machine
                named = f"{'all alarms' if fault is None else self._words.alarm(machine, fault)} of {named}"
            shown.append(named)
        more = len(shown) - _SHOWN_ALARMS
        return ", ".join(shown[:_SHOWN_ALARMS]) + (f" and {more} more" if more > 0 else "")


_NO_EFFECT: dict[ActionKind, str] = {
    "acknowledge": "no such alarm waits for acknowledgement",
    "unshelve": "no such alarm is shelved",
    "unsuppress": "no such alarm is out of service",
}


def _target_of(alarm: str) -> _Target:
    """The machine and fault of an alarm's id; raises BadRequestError."""
    try:
        machine, _, _, fault, _ = alarm.rsplit(":", 4)
    except ValueError:
        raise BadRequestError(
            f"{alarm[:80]!r} is no id of an alarm", do="give the id with which it was raised, or machine and fault"
        ) from None
    return _Target(machine, fault, alarm)


def _written(targets: Sequence[_Target], sent: Sequence[Sent], said: str) -> Written:
    records = [
        WrittenRecord(machine, fault, place.partition, place.offset)
        for (machine, fault, _), place in zip(targets, sent, strict=True)
    ]
    return Written(WrittenRecords(sent[0].topic, records), said)
