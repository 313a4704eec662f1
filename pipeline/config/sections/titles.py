"""What a profile says for people, with no effect on diagnoses: titles, what to check first, components, areas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from pipeline.files.yaml_fields import did_you_mean

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
"""A few words, as on a label: they have to fit in a cell of a table."""
Sentence = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1_000)]
Priority = Literal["low", "medium", "high", "critical"]

_WILDCARDS = frozenset("*?[")


class Part(BaseModel):
    """A mapping in a profile, which has no other keys than those declared."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    priority: Priority | None = None
    """How urgent it is."""


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
    """A profile as JSON, as it was before there was anything in it for people: what workers do depends on the rest."""
    types = []
    for described in plant["machine_types"]:
        kept = {key: value for key, value in described.items() if key not in ("components", "described_faults")}
        kept["faults"] = [fault["name"] for fault in described["described_faults"]]
        kept["variables"] = [
            {key: value for key, value in variable.items() if key not in ("title", "component")}
            for variable in described["variables"]
        ]
        types.append(kept)
    return {key: value for key, value in plant.items() if key not in ("machines", "alarms")} | {"machine_types": types}
