"""Control records about alarms, and what is refused before one is sent because it would have no effect."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from pipeline.config.profile import PlantProfile
from pipeline.config.quantities.durations import shown_duration
from pipeline.config.sections.alarms import SHELVE_LIMIT_MS, alarm_names
from pipeline.config.sections.areas import utility_id
from pipeline.config.sections.titles import is_pattern
from pipeline.errors import SettingsError
from pipeline.files.yaml_fields import did_you_mean
from pipeline.wire import messages
from pipeline.wire.messages import MAX_PERSON, MAX_WHY, OperatorKind


def require_alarm(plant: PlantProfile, name: str, fault: str | None) -> None:
    """Raise SettingsError if no machine or utility of that id or pattern can have such an alarm.

    Without a fault it is about all alarms.
    """
    known = [one for utility, faults in _utilities(plant).items() if fnmatchcase(utility, name) for one in faults]
    if name not in plant.area_of_utility:
        kinds = plant.machine_types if is_pattern(name) else [kind for kind in [plant.type_of(name)] if kind]
        known += (one for kind in kinds for one in alarm_names(kind.faults))
    if not known:
        patterns = ", ".join(kind.match for kind in plant.machine_types)
        raise SettingsError(f"{name!r} is no machine of plant {plant.plant}, whose ids fit {patterns}")
    if fault is not None and fault not in known:
        raise SettingsError(f"{fault!r} is no alarm of {name}; {did_you_mean(fault, tuple(dict.fromkeys(known)))}")


def alarm_owners(plant: PlantProfile, machines: Iterable[str], name: str, fault: str | None) -> list[str]:
    """Of an id or pattern the machines among these, and the utilities that have such a fault."""
    utilities = (one for one, faults in _utilities(plant).items() if fault is None or fault in faults)
    return sorted(one for one in {*machines, *utilities} if fnmatchcase(one, name))


def require_shelvable(plant: PlantProfile, machine: str, fault: str | None, for_ms: int, named: str) -> None:
    """Raise SettingsError if that is longer than the profile allows; control records may have changed it since."""
    if for_ms > (limit_ms := _shelve_limit_ms(plant, machine, fault)):
        raise SettingsError(
            f"{named} is longer than shelve_limit of machine {machine}, {shown_duration(limit_ms)}; shelve it for less"
        )


def _shelve_limit_ms(plant: PlantProfile, name: str, fault: str | None) -> int:
    kind, names = plant.type_of(name), _utilities(plant).get(name)
    if names is None and kind is not None:
        names = alarm_names(kind.faults)
    if names is None:
        return SHELVE_LIMIT_MS
    type_name = kind.name if kind is not None and name not in plant.area_of_utility else ""
    own = [one for one in plant.alarms if one.is_for_machine(type_name, name) and one.shelve_limit_ms is not None]
    limits = [
        ([SHELVE_LIMIT_MS] + [one.shelve_limit_ms or 0 for one in own if one.fault in (None, alarm)])[-1]
        for alarm in ((fault,) if fault is not None else names)
    ]
    return min(limits)


def _utilities(plant: PlantProfile) -> dict[str, tuple[str, ...]]:
    """The faults of every utility, by its id."""
    return {
        utility_id(name, key): utility.faults
        for name, area in plant.areas.items()
        for key, utility in area.utilities.items()
    }


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
