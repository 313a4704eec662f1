"""What has alarms: machines, and utilities of areas; which alarms each can have, and how long they may be shelved."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from pipeline.config.profile import PlantProfile
from pipeline.config.sections.alarms import SHELVE_LIMIT_MS, alarm_names
from pipeline.config.sections.areas import utility_id
from pipeline.config.sections.titles import is_pattern
from pipeline.errors import SettingsError
from pipeline.files.yaml_fields import did_you_mean


def require_owner(plant: PlantProfile, name: str, fault: str | None) -> None:
    """Raise SettingsError if no machine or utility of that name or pattern can have such an alarm."""
    known: list[str] = []
    for utility, faults in _utilities(plant).items():
        if fnmatchcase(utility, name):
            known += faults
    kinds = plant.machine_types if is_pattern(name) else [kind for kind in [plant.type_of(name)] if kind]
    if not known or is_pattern(name):
        known += (one for kind in kinds for one in alarm_names(kind.faults))
    if not known:
        patterns = ", ".join(kind.match for kind in plant.machine_types)
        raise SettingsError(f"{name!r} is no machine of plant {plant.plant}, whose ids fit {patterns}")
    if fault is not None and fault not in known:
        raise SettingsError(f"{fault!r} is no alarm of {name}; {did_you_mean(fault, tuple(dict.fromkeys(known)))}")


def owners(plant: PlantProfile, machines: Iterable[str], name: str, fault: str | None) -> list[str]:
    """The machines among these, and the utilities of the profile that have such a fault, of a name or pattern."""
    utilities = (one for one, faults in _utilities(plant).items() if fault is None or fault in faults)
    return sorted(one for one in {*machines, *utilities} if fnmatchcase(one, name))


def is_utility(plant: PlantProfile, name: str) -> bool:
    """Whether this is the id of a utility."""
    return name in plant.area_of_utility


def shelve_limit_ms(plant: PlantProfile, name: str, fault: str | None) -> int:
    """As far as the profile says; settings may have changed since by control records."""
    faults = _utilities(plant).get(name)
    kind = plant.type_of(name) if faults is None else None
    if faults is None and kind is None:
        return SHELVE_LIMIT_MS
    type_name = "" if kind is None else kind.name
    names = faults if faults is not None else alarm_names(kind.faults) if kind is not None else ()
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
