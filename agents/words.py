"""Diagnoses in the words of people: what a profile calls machines, faults, variables and components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from pipeline.config.profile import MachineType, PlantProfile, Variable
from pipeline.config.sections.alarms import BLIND, OFFLINE, STALE
from pipeline.config.sections.areas import utility_id
from pipeline.config.sections.titles import DEFAULT_PRIORITY, Fault, Priority, machine_title
from pipeline.wire.messages import VariableEvidence

_CONDITIONS = {
    "*": "any alarm",
    "unknown": "Unknown fault",
    STALE: "No data lately",
    OFFLINE: "Machine offline",
    BLIND: "No usable data",
}
_KEPT_MACHINES = 10_000
_EXACT_BELOW = 1e9
_LEAST_SHARE = 0.01


class Words:
    """What a plant's ids mean. What has no title is called by its id, so that nothing is ever left out.

    Titles come from a file, and ids from records: whoever shows them on a terminal or a page has to escape them.
    """

    def __init__(self, profile: PlantProfile) -> None:
        self._profile = profile
        self._utilities = {
            utility_id(name, key): (area, utility)
            for name, area in profile.areas.items()
            for key, utility in area.utilities.items()
        }
        # A utility fails as its machines seem to.
        stand_ins: dict[str, str] = {id_: utility.machines[0] for id_, (_, utility) in self._utilities.items()}

        def type_of(machine: str) -> MachineType | None:
            return profile.type_of(stand_ins.get(machine, machine))

        self._type_of = lru_cache(_KEPT_MACHINES)(type_of)
        self._machine_title = lru_cache(_KEPT_MACHINES)(lambda machine: machine_title(profile.machines, machine))
        self._faults = {kind.name: {fault.name: fault for fault in kind.described_faults} for kind in self._types}
        self._variables = {kind.name: {variable.name: variable for variable in kind.variables} for kind in self._types}

    @property
    def _types(self) -> tuple[MachineType, ...]:
        return self._profile.machine_types

    def machine(self, machine: str) -> str:
        """A machine's id and title, such as `te-07 North line`; of a utility, too, by the id that its alarms have."""
        if (found := self._utilities.get(machine)) is not None:
            return with_title(machine, found[1].title)
        said = self._machine_title(machine)
        return with_title(machine, said.title if said else None)

    def area(self, machine: str) -> str | None:
        """Where a machine or a utility is, if the profile says so."""
        if (found := self._utilities.get(machine)) is not None:
            return found[0].title
        said = self._machine_title(machine)
        return said.area if said else None

    @property
    def has_areas(self) -> bool:
        """Whether the profile says of any machine where it is."""
        return any(said.area is not None for said in self._profile.machines.values())

    def declared_area(self, area: str) -> str:
        """The id and title of an area that machines are diagnosed together in, such as `hall_1 Hall 1`."""
        declared = self._profile.areas.get(area)
        return with_title(area, declared.title if declared else None)

    def utility(self, area: str, utility: str) -> str:
        """The name and title of what machines of an area share, such as `cooling_water Cooling water header`."""
        found = self._utilities.get(utility_id(area, utility))
        return with_title(utility, found[1].title if found else None)

    def utility_fault(self, area: str, utility: str, fault: str) -> str:
        """The id and title of a utility's fault, which are those of the fault as it shows in its machines."""
        return self.fault(utility_id(area, utility), fault)

    def about_fault(self, machine: str, fault: str) -> Fault | None:
        """What the profile says of a class of diagnoses; None if it does not have it."""
        kind = self._type_of(machine)
        return None if kind is None else self._faults[kind.name].get(fault)

    def fault(self, machine: str, fault: str) -> str:
        """A fault's id and title, such as `idv_6 A feed lost`."""
        described = self.about_fault(machine, fault)
        return with_title(fault, described.title if described else None)

    def fault_of_plant(self, fault: str) -> str:
        """The same, for a table of all machines: the first type that gives the fault a title counts."""
        described = (faults[fault] for faults in self._faults.values() if fault in faults)
        return with_title(fault, next((one.title for one in described if one.title), None))

    def alarm(self, machine: str, fault: str) -> str:
        """What an alarm is about: a fault as above, or how the machine is, such as `offline Machine offline`."""
        described = self.about_fault(machine, fault)
        return self.fault(machine, fault) if described else with_title(fault, _CONDITIONS.get(fault))

    def priority(self, machine: str, fault: str, recorded: Priority) -> Priority:
        """How urgent an alarm is: as its record says where the profile has settings of alarms, or the record says more
        than what all alarms have without; else as the profile says of the fault."""
        described = self.about_fault(machine, fault)
        if self._profile.alarms or recorded != DEFAULT_PRIORITY or described is None or described.priority is None:
            return recorded
        return described.priority

    def component(self, machine: str, fault: str) -> str | None:
        """The titles of the components where a fault begins; None if the profile names none."""
        described = self.about_fault(machine, fault)
        if described is None or not described.shares:
            return None
        return ", ".join(self._component(machine, name) for name in described.shares)

    def likely_components(self, machine: str, components: Mapping[str, float] | None, most: int) -> str:
        """The most probable components of a diagnosis, such as `Reactor 97%, Condenser 2%`; those under 1 % are left
        out, and of equal ones the first comes first."""
        likely = [(name, share) for name, share in (components or {}).items() if share >= _LEAST_SHARE]
        likely.sort(key=lambda one: -one[1])
        return ", ".join(f"{self._component(machine, name)} {share:.0%}" for name, share in likely[:most])

    @property
    def has_components(self) -> bool:
        """Whether the profile says of any fault in which component it begins."""
        return any(fault.shares for kind in self._types for fault in kind.described_faults)

    def variable(self, machine: str, variable: str) -> str:
        """What people call a variable: its title, or else its description or name."""
        declared = self._declared(machine, variable)
        return (declared.title or declared.description or variable) if declared else variable

    def measurement(self, machine: str, evidence: VariableEvidence) -> str:
        """A value and how unusual it is, such as `Reactor temperature 122.9 degC, 4.1 sigma above normal`."""
        side = "below" if evidence.deviation < 0 else "above"
        return f"{self._value(machine, evidence)}, {abs(evidence.deviation):.1f} sigma {side} normal"

    def short_measurement(self, machine: str, evidence: VariableEvidence) -> str:
        """The same for a narrow column, such as `Reactor temperature 122.9 degC +4.1σ`."""
        return f"{self._value(machine, evidence)} {evidence.deviation:+.1f}σ"

    def variables(self, machine: str, names: Iterable[str]) -> str:
        """Titles and ids of variables in one line."""
        titles = ((self.variable(machine, name), name) for name in names)
        return ", ".join(title if title == name else f"{title} ({name})" for title, name in titles)

    def _component(self, machine: str, name: str) -> str:
        kind = self._type_of(machine)
        declared = None if kind is None else kind.components.get(name)
        return name if declared is None else declared.title or name

    def _declared(self, machine: str, variable: str) -> Variable | None:
        kind = self._type_of(machine)
        return None if kind is None else self._variables[kind.name].get(variable)

    def _value(self, machine: str, evidence: VariableEvidence) -> str:
        declared = self._declared(machine, evidence.name)
        unit = declared.unit if declared is not None and declared.aggregation != "count" else ""
        title = self.variable(machine, evidence.name)
        return f"{title} {shown_value(evidence.value)}{'' if unit in ('', '%') else ' '}{unit}"


def with_title(name: str, title: str | None) -> str:
    """An id, and its title behind it if it has one: lists that are sorted by id stay easy to search."""
    return name if title is None else f"{name} {title}"


def shown_value(value: float) -> str:
    """A measured value with four digits that count, and all digits before the point."""
    if 1_000 <= abs(value) < _EXACT_BELOW:
        return f"{value:.0f}"
    return f"{value:.4g}"


def printable(text: object, limit: int | None = None) -> str:
    """A text on one line: blanks are spaces, and what a terminal would obey or hide stands as its code, such as \\x1b.

    Of a longer text the first `limit` characters are left.
    """
    shown = str(text)
    if limit is not None and len(shown) > limit:
        shown = f"{shown[:limit]}…"
    if shown.isprintable():
        return shown
    return "".join(map(_printable_character, shown))


def _printable_character(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else ascii(character)[1:-1]
