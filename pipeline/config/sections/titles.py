"""What a profile says for people: titles, what to check first, components and the faults that begin there, areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from pipeline.files.yaml_fields import did_you_mean

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
"""A few words, as on a label: they have to fit in a cell of a table."""
Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1_000)]
Priority = Literal["low", "medium", "high", "critical"]

DEFAULT_PRIORITY: Final[Priority] = "high"
"""Of an alarm of which nobody has said how urgent it is; records leave it out."""

_WILDCARDS = frozenset("*?[")


class Part(BaseModel):
    """A mapping in a profile, which has no other keys than those declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _with_weights(given: Any) -> Any:
    """A list of components is a mapping with equal weights."""
    if not isinstance(given, list | tuple):
        return given
    if twice := sorted({str(name) for name in given if given.count(name) > 1}):
        raise ValueError(f"{twice[0]} is in the list more than once; give weights, as {{{twice[0]}: 2, ...}}")
    return dict.fromkeys(given, 1.0)


Weight = Annotated[float, Field(gt=0, le=1e6)]
WeightedComponents = Annotated[dict[Name, Weight], BeforeValidator(_with_weights)]
"""Components with weights, of which a list is written where all are equal."""


class Fault(Part):
    """A class of diagnoses: the normal state, or a fault with what people should know of it."""

    name: Name
    """Its id, in topics, labels and models."""
    title: Title | None = None
    description: Sentence | None = None
    """What it is, and how it shows."""
    check_first: tuple[Sentence, ...] = ()
    """What to look at, in this order."""
    component: Name | None = None
    """Where in the machine it begins, if that is one place."""
    components: WeightedComponents = Field(default_factory=dict)
    """Where it may begin, if there are several places, with how likely each is in relation to the others."""
    priority: Priority | None = None
    """How urgent it is."""

    @model_validator(mode="after")
    def _begins_in_one_way(self) -> Self:
        if self.component is not None and self.components:
            raise ValueError("give component for one place, or components for several, and not both")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """The components where it begins, with shares that sum to 1; empty if none is named."""
        if self.component is not None:
            return {self.component: 1.0}
        total = sum(self.components.values())
        return {name: weight / total for name, weight in self.components.items()}


def _described(entry: Any) -> Any:
    if isinstance(entry, str):
        return {"name": entry}
    if isinstance(entry, dict | Fault):
        return entry
    raise ValueError(f"{entry!r} is neither a name, such as leak, nor a mapping, such as {{name: leak, title: Leak}}")


FaultEntry = Annotated[Fault, BeforeValidator(_described)]
"""A fault in a profile's list, where a name alone is enough."""


class Component(Part):
    """A part of a machine: a vessel, a pump, a feed."""

    title: Title | None = None
    feeds: tuple[Name, ...] = ()
    """Components that get what flows out of it."""


class MachineTitle(Part):
    """How a machine, or all machines whose ids match a pattern, are called, and where they are."""

    title: Title | None = None
    area: Title | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.title is None and self.area is None:
            raise ValueError("it has neither a title nor an area; give one, or leave it out")
        return self


class ComponentTable(NamedTuple):
    """Which share of a fault's probability is a component's: one entry for each pair of them."""

    names: tuple[str, ...]
    """The components where faults begin, in the profile's order."""
    faults: tuple[int, ...]
    """Of each entry, the fault's place among the profile's faults."""
    components: tuple[int, ...]
    """Of each entry, the component's place among the names."""
    shares: tuple[float, ...]


def component_table(components: Mapping[str, Component], faults: Sequence[Fault]) -> ComponentTable:
    """The table of these faults, sorted by component and fault; empty if none of them names one."""
    names = tuple(name for name in components if any(name in fault.shares for fault in faults))
    entries = [
        (place, at, share)
        for at, name in enumerate(names)
        for place, fault in enumerate(faults)
        if (share := fault.shares.get(name)) is not None
    ]
    places, ats, shares = zip(*entries, strict=True) if entries else ((), (), ())
    return ComponentTable(names, places, ats, shares)


class Placed(NamedTuple):
    """Something that names its component."""

    what: str
    """As errors should call it, such as `variable flow`."""
    component: str | None


def check_components(components: Mapping[str, Component], placed: Sequence[Placed]) -> None:
    """Raise ValueError if a component is named that is not declared, or one feeds itself or another twice."""
    named = [*placed, *(Placed(f"component {name} feeds", to) for name, one in components.items() for to in one.feeds)]
    for what, component in named:
        if component is None or component in components:
            continue
        if not components:
            raise ValueError(f"{what}: component {component!r} is not declared; add `components:` with it")
        raise ValueError(f"{what}: there is no component {component!r}; {did_you_mean(component, tuple(components))}")
    for name, one in components.items():
        if name in one.feeds:
            raise ValueError(f"component {name} feeds itself")
        if len(set(one.feeds)) != len(one.feeds):
            raise ValueError(f"component {name} feeds one component more than once")


def is_pattern(machine: str) -> bool:
    """Whether this stands for all ids that match it."""
    return not _WILDCARDS.isdisjoint(machine)


def machine_title(machines: Mapping[str, MachineTitle], machine: str) -> MachineTitle | None:
    """What is said of a machine, by its id and by patterns; for each key the id comes first, then the first pattern."""
    said = [one for pattern, one in machines.items() if is_pattern(pattern) and fnmatchcase(machine, pattern)]
    if machine in machines:
        said.insert(0, machines[machine])
    if not said:
        return None
    return MachineTitle(
        title=next((one.title for one in said if one.title is not None), None),
        area=next((one.area for one in said if one.area is not None), None),
    )


def without_words(plant: Mapping[str, Any]) -> dict[str, Any]:
    """A profile as JSON without what it says for people alone: what workers do depends on the rest, which includes in
    which components faults begin."""
    types = []
    for described in plant["machine_types"]:
        kept = {
            key: value
            for key, value in described.items()
            if key not in ("components", "described_faults", "modalities")
        }
        faults = described["described_faults"]
        kept["faults"] = [fault["name"] for fault in faults]
        places = {fault["name"]: fault["components"] or {fault["component"]: 1.0} for fault in faults}
        if any(fault["components"] or fault["component"] for fault in faults):
            kept["components_of_faults"] = places
        if modalities := described["modalities"]:
            kept["modalities"] = {name: modality["variables"] for name, modality in modalities.items()}
        kept["variables"] = [
            {key: value for key, value in variable.items() if key not in ("title", "component")}
            for variable in described["variables"]
        ]
        types.append(kept)
    return {key: value for key, value in plant.items() if key not in ("machines", "alarms")} | {"machine_types": types}
