"""Areas of a plant: machines that share utilities or feed each other, and are diagnosed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Protocol

from pydantic import Field

from pipeline.config.quantities.durations import DurationMs
from pipeline.config.sections.titles import Name, Part, Title, is_pattern
from pipeline.files.yaml_fields import did_you_mean

MachineId = Annotated[str, Field(min_length=1, max_length=200)]

WAIT_PERIODS = 3
"""Frame periods that an area's frame waits for machines that are behind, if the profile does not say how long."""


class Utility(Part):
    """Something that several machines share: a cooling water header, a steam line, a power supply."""

    title: Title | None = None
    faults: tuple[Name, ...] = Field(min_length=1)
    """Its faults, by the names of the faults that machines seem to have then."""
    machines: tuple[MachineId, ...] = Field(min_length=1)
    """The machines that share it."""


class Area(Part):
    """A part of a plant whose machines know of each other."""

    title: Title | None = None
    machines: tuple[MachineId, ...] = ()
    """Machines besides those that utilities and feeds name."""
    utilities: dict[Name, Utility] = Field(default_factory=dict)
    feeds: dict[MachineId, tuple[MachineId, ...]] = Field(default_factory=dict)
    """By machine, the machines that get what flows out of it."""
    wait_ms: DurationMs | None = Field(default=None, alias="wait")
    """How long a frame waits for machines that are behind the others; three frame periods if unset."""

    @property
    def all_machines(self) -> tuple[str, ...]:
        """The ids of its machines, sorted."""
        return tuple(sorted({machine for _, machines in self.named_machines() for machine in machines}))

    @property
    def members(self) -> dict[str, list[str]]:
        """What a worker's outputs depend on: the diagnoses of which machines, and texts about which utilities, are
        for this area."""
        return {"machines": list(self.all_machines), "utilities": sorted(self.utilities)}

    def named_machines(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Where its machines are named, and which are named there."""
        yield "machines", self.machines
        for name, utility in self.utilities.items():
            yield f"utilities.{name}.machines", utility.machines
        yield "feeds", tuple(self.feeds)
        for machine, fed in self.feeds.items():
            yield f"feeds.{machine}", fed


def utility_id(area: str, utility: str) -> str:
    """What texts about a utility and alarms of it have in the place of a machine's id."""
    return f"{area}/{utility}"


class AreaMachineType(Protocol):
    """What areas need to know of a machine type."""

    @property
    def name(self) -> str: ...

    @property
    def match(self) -> str: ...

    @property
    def faults(self) -> tuple[str, ...]: ...

    @property
    def frame_period_ms(self) -> int: ...


TypeOf = Callable[[str], AreaMachineType | None]


def check_areas(areas: Mapping[str, Area], machine_types: Sequence[AreaMachineType], type_of: TypeOf) -> None:
    """Raise ValueError if an area names machines or faults that cannot be, or a machine is in two areas."""
    area_of: dict[str, str] = {}
    for name, area in areas.items():
        try:
            _check_machines(area, machine_types, type_of)
            for utility_name, utility in area.utilities.items():
                _check_faults(utility_name, utility, type_of)
        except ValueError as error:
            raise ValueError(f"areas.{name}.{error}") from None
        for machine in area.all_machines:
            if machine in area_of:
                raise ValueError(f"areas: machine {machine} is in {area_of[machine]} and in {name}; it can be in one")
            area_of[machine] = name


def _check_machines(area: Area, machine_types: Sequence[AreaMachineType], type_of: TypeOf) -> None:
    periods: dict[int, str] = {}
    for place, machines in area.named_machines():
        for machine in machines:
            if is_pattern(machine):
                raise ValueError(f"{place}: {machine!r} is a pattern; name each machine by its id")
            machine_type = type_of(machine)
            if machine_type is None:
                patterns = ", ".join(known.match for known in machine_types)
                raise ValueError(f"{place}: {machine!r} is of no machine type, whose ids match {patterns}")
            periods.setdefault(machine_type.frame_period_ms, machine)
        if twice := sorted({machine for machine in machines if machines.count(machine) > 1}):
            raise ValueError(f"{place}: {twice[0]} is named more than once")
    for machine, fed in area.feeds.items():
        if machine in fed:
            raise ValueError(f"feeds.{machine}: it feeds itself")
    if len(area.all_machines) < 2:
        raise ValueError("machines: an area needs two machines, named by its utilities, feeds or machines")
    if len(periods) > 1:
        (one_ms, one), (other_ms, other) = sorted(periods.items())[:2]
        raise ValueError(
            f"machines: {one} has a frame every {one_ms} ms and {other} every {other_ms} ms; "
            "the machines of an area need one frame_period"
        )


def _check_faults(name: str, utility: Utility, type_of: TypeOf) -> None:
    types = {kind.name: kind for machine in utility.machines if (kind := type_of(machine)) is not None}
    known = tuple(dict.fromkeys(fault for kind in types.values() for fault in kind.faults[1:]))
    for fault in utility.faults:
        if fault not in known:
            of = f"machine type {', '.join(types)}"
            hint = did_you_mean(fault, known) if known else f"{of} has none"
            raise ValueError(f"utilities.{name}.faults: {fault!r} is no fault of {of}; {hint}")
    if twice := sorted({fault for fault in utility.faults if utility.faults.count(fault) > 1}):
        raise ValueError(f"utilities.{name}.faults: {twice[0]} is named more than once")
