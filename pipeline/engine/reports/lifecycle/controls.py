"""What control records of people ask for: who does what to which alarms, and settings that come with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.config.sections.alarms import AlarmSettings, parse_entry
from pipeline.engine.reports.lifecycle.life import AlarmOverride, Moment, Person
from pipeline.errors import ProfileError
from pipeline.wire.messages import MAX_PERSON, MAX_WHY, Control, Reason, RejectedError

MAX_OVERRIDES: Final = 64
"""Settings from control records that a machine or an area keeps at most."""

_ACTS: Final[Mapping[str, Callable[[Moment, str | None], None]]] = {
    "acknowledge": Moment.acknowledge,
    "unshelve": Moment.unshelve,
    "suppress": Moment.suppress,
    "unsuppress": Moment.unsuppress,
    "comment": Moment.comment,
}


def check_control(control: Control, faults: Mapping[str, Sequence[str]]) -> None:
    """Raise RejectedError if a control record about alarms cannot be applied to any machine or utility; `faults` has
    the classes of each machine type."""
    for name, given, most in (("by", control.by, MAX_PERSON), ("why", control.why, MAX_WHY)):
        if not given or not given.strip() or len(given) > most:
            raise RejectedError(Reason.SCHEMA, f"'{control.kind}' needs `{name}` of 1 to {most} characters")
    if control.kind == "configure":
        override_of(control, 0, faults)
    elif control.machine is None:
        raise RejectedError(Reason.SCHEMA, f"'{control.kind}' needs a machine")
    elif control.kind == "shelve":
        _duration_ms(control)


def person_of(control: Control, sent_ms: int) -> Person:
    """Who sent a control record that was checked, at this time stamp."""
    assert control.by is not None and control.why is not None
    return Person(control.by.strip(), control.why.strip(), sent_ms)


def act_of(
    control: Control, name: str, settings: Mapping[str, AlarmSettings], time_ms: int
) -> Callable[[Moment], None]:
    """What somebody does to the alarms of a machine or utility, at this event time; raises RejectedError.

    `settings` are those of every alarm that it can have.
    """
    fault = control.fault
    if fault is not None and fault not in settings:
        raise RejectedError(
            Reason.SCHEMA, f"machine {name[:80]} has no alarm {fault[:80]!r}; it has {', '.join(settings)}"
        )
    if control.kind != "shelve":
        act = _ACTS[control.kind]
        return lambda moment: act(moment, fault)
    for_ms = _duration_ms(control)
    limits = (settings[fault],) if fault is not None else settings.values()
    if for_ms > (limit_ms := min(one.shelve_limit_ms for one in limits)):
        raise RejectedError(Reason.SCHEMA, f"shelving for {for_ms} ms is longer than shelve_limit, {limit_ms} ms")
    return lambda moment: moment.shelve(fault, time_ms + for_ms)


def override_of(control: Control, sent_ms: int, faults: Mapping[str, Sequence[str]]) -> AlarmOverride:
    """The settings that a control record brings; raises RejectedError."""
    try:
        parse_entry(control.settings or {}, faults)
    except ProfileError as error:
        raise RejectedError(Reason.SCHEMA, f"settings: {error}") from error
    return AlarmOverride(control.settings or {}, *person_of(control, sent_ms))


def with_override(overrides: Sequence[AlarmOverride], override: AlarmOverride) -> list[AlarmOverride]:
    """The overrides with one more; what it replaces altogether is left out."""

    def replaced(other: Mapping[str, Any]) -> bool:
        new = override.entry
        return all(other.get(name) == new.get(name) for name in ("machine_type", "machine", "fault")) and (
            other.keys() <= new.keys()
        )

    return [*(one for one in overrides if not replaced(one.entry)), override]


def require_few(overrides: Sequence[AlarmOverride]) -> None:
    """Raise RejectedError if there are too many."""
    if len(overrides) > MAX_OVERRIDES:
        text = f"{MAX_OVERRIDES} settings have come with control records already; put lasting ones into the profile"
        raise RejectedError(Reason.BUFFER_FULL, text)


def _duration_ms(control: Control) -> int:
    try:
        given = control.duration
        return given if isinstance(given, int) and given > 0 else parse_duration_ms(given)
    except ValueError as error:
        raise RejectedError(Reason.SCHEMA, f"duration: {error}") from error
