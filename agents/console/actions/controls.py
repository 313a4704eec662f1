"""Control records about alarms, and what is refused before one is sent because it would have no effect."""

from __future__ import annotations

from pipeline.config.profile import MachineType, PlantProfile
from pipeline.config.quantities.durations import shown_duration
from pipeline.config.sections.alarms import SHELVE_LIMIT_MS, alarm_names
from pipeline.config.sections.titles import is_pattern
from pipeline.errors import SettingsError
from pipeline.files.yaml_fields import did_you_mean
from pipeline.wire import messages
from pipeline.wire.messages import MAX_PERSON, MAX_WHY, OperatorKind


def require_alarm(plant: PlantProfile, machine: str, fault: str | None) -> tuple[MachineType, ...]:
    """The types of a machine or of a pattern of machines; raises SettingsError if none of them can have such an alarm.

    Without a fault it is about all alarms.
    """
    if machine in plant.area_of_utility:
        raise SettingsError(f"{machine!r} is a utility of an area: nobody can act on its alarms yet")
    kinds = plant.machine_types if is_pattern(machine) else tuple(kind for kind in [plant.type_of(machine)] if kind)
    if not kinds:
        patterns = ", ".join(kind.match for kind in plant.machine_types)
        raise SettingsError(f"{machine!r} is no machine of plant {plant.plant}, whose ids fit {patterns}")
    known = tuple(dict.fromkeys(name for kind in kinds for name in alarm_names(kind.faults)))
    if fault is not None and fault not in known:
        raise SettingsError(f"{fault!r} is no alarm of {machine}; {did_you_mean(fault, known)}")
    return kinds


def require_shelvable(plant: PlantProfile, machine: str, fault: str | None, for_ms: int, named: str) -> None:
    """Raise SettingsError if that is longer than the profile allows; control records may have changed it since."""
    if for_ms > (limit_ms := _shelve_limit_ms(plant, machine, fault)):
        raise SettingsError(
            f"{named} is longer than shelve_limit of machine {machine}, {shown_duration(limit_ms)}; shelve it for less"
        )


def _shelve_limit_ms(plant: PlantProfile, machine: str, fault: str | None) -> int:
    kind = plant.type_of(machine)
    if kind is None:
        return SHELVE_LIMIT_MS
    own = [one for one in plant.alarms if one.is_for_machine(kind.name, machine) and one.shelve_limit_ms is not None]
    limits = [
        ([SHELVE_LIMIT_MS] + [one.shelve_limit_ms or 0 for one in own if one.fault in (None, name)])[-1]
        for name in ((fault,) if fault is not None else alarm_names(kind.faults))
    ]
    return min(limits)


def require_person(by: str, why: str, prefix: str = "") -> None:
    """Raise SettingsError unless it says who acts and why; `prefix` is that of options."""
    if not by.strip() or not why.strip():
        raise SettingsError(f"{prefix}by and {prefix}why are empty; say who does this, and why")
    for name, given, most in (("by", by, MAX_PERSON), ("why", why, MAX_WHY)):
        if len(given) > most:
            raise SettingsError(f"{prefix}{name} has {len(given):,} characters; shorten it to {most:,}")


def control_value(
    kind: OperatorKind, machine: str, by: str, why: str, *, fault: str | None = None, for_ms: int | None = None
) -> bytes:
    """The value of the record with which somebody acts on a machine's alarm, or on all of its alarms."""
    control = messages.Control(kind, machine=machine, fault=fault, by=by, why=why, duration=for_ms)
    return messages.encode(control)
