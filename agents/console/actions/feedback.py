"""Labels that people write, and what is refused before one is sent because nothing could learn from it."""

from __future__ import annotations

from agents.audit.why.replayed import DiagnosisId
from pipeline.config.classes import RECOVERING, UNKNOWN
from pipeline.config.profile import PlantProfile
from pipeline.errors import SettingsError
from pipeline.files.yaml_fields import did_you_mean


def require_label_names(plant: PlantProfile, machine: str, fault: str, *, new: bool = False, prefix: str = "") -> None:
    """Raise SettingsError if the profile has no such machine, or no such fault unless it is new.

    `prefix` is that of options.
    """
    kind = plant.type_of(machine)
    if kind is None:
        patterns = ", ".join(one.match for one in plant.machine_types)
        raise SettingsError(
            f"{prefix}machine {machine!r} is no machine of plant {plant.plant}, whose ids fit {patterns}"
        )
    known = (*kind.faults, UNKNOWN)
    if new and fault == RECOVERING:
        raise SettingsError(
            f"{prefix}fault {RECOVERING!r} is a state that models find by themselves; choose another name"
        )
    if new and fault in known:
        raise SettingsError(f"{prefix}fault {fault!r} is not new: the profile has it; leave --new out")
    if fault not in known and not new:
        hint = " (--new for a fault that the profile does not have yet)" if prefix else ""
        raise SettingsError(
            f"{prefix}fault {fault!r} is no fault of machine type {kind.name}; {did_you_mean(fault, known)}{hint}"
        )


def require_corrected(corrects: str, machine: str, prefix: str = "") -> None:
    """Raise SettingsError unless it is the id of a diagnosis of the machine; `prefix` is that of options."""
    try:
        found = DiagnosisId.parse(corrects)
    except SettingsError as error:
        raise SettingsError(f"{prefix}corrects: {error}") from None
    if str(found) != corrects:
        raise SettingsError(f"{prefix}corrects {corrects[:200]!r} is the id of an alarm; give that of a diagnosis")
    if found.machine != machine:
        raise SettingsError(f"{prefix}corrects {corrects[:200]!r} is a diagnosis of {found.machine}, not of {machine}")
