"""Titles alone, beside the ids that documents have, and where machines and utilities are."""

from __future__ import annotations

from typing import Final, NamedTuple

from agents.words import Words
from pipeline.config.classes import NO_EVIDENCE, RECOVERING
from pipeline.config.profile import NORMAL, PlantProfile

_ANSWERS: Final = {NORMAL: "Normal", NO_EVIDENCE: "No evidence", RECOVERING: "Recovering"}
DRIFT_KINDS: Final = {
    "level": "Level",
    "spread": "Spread",
    "missing": "Missing values",
    "confidence": "Confidence of diagnoses",
    "disagreement": "Disagreement of modalities",
    "unknown": "Share of unknown faults",
}


class AreaName(NamedTuple):
    """An area's id and title."""

    id: str
    title: str


class Titles:
    """What ids are called; what has no title is called by its id."""

    def __init__(self, profile: PlantProfile, words: Words) -> None:
        self.words = words
        self.utilities = profile.area_of_utility
        """The area of each utility, by the utility's id."""
        self._area_of = profile.area_of | self.utilities
        self._declared = {area: AreaName(area, _title(words.declared_area(area), area)) for area in profile.areas}

    def name(self, machine: str) -> str:
        """Id and title of a machine or a utility."""
        return self.words.machine(machine)

    def machine(self, machine: str) -> str:
        """The title of a machine or a utility."""
        return _title(self.words.machine(machine), machine)

    def fault(self, machine: str, fault: str) -> str:
        """The title of a fault, of another answer, or of what an alarm is about."""
        title = _title(self.words.alarm(machine, fault), fault)
        return _ANSWERS.get(fault, title) if title == fault else title

    def fault_or_none(self, machine: str, fault: str | None) -> str | None:
        """The same, where there may be none."""
        return None if fault is None else self.fault(machine, fault)

    def fault_of_plant(self, fault: str) -> str:
        """The title of a fault that is not about one machine."""
        return _title(self.words.fault_of_plant(fault), fault)

    def area(self, machine: str) -> AreaName | None:
        """Where a machine or a utility is: its declared area, else what the profile says."""
        declared = self._area_of.get(machine)
        if declared is not None:
            return self._declared[declared]
        said = self.words.area(machine)
        return None if said is None else AreaName(said, said)

    def declared(self, area: str) -> AreaName:
        """A declared area."""
        return self._declared[area]


def _title(named: str, id_: str) -> str:
    return named.removeprefix(id_).strip() or id_
