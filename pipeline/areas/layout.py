"""What is known of an area before any diagnosis: its machines, utilities and relations, and the causes it may name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from pipeline.arrays import Ints
from pipeline.config.classes import RECOVERING, UNKNOWN
from pipeline.config.profile import PlantProfile
from pipeline.config.sections.areas import WAIT_PERIODS, Area, utility_id


class Relation(StrEnum):
    """How one node of an area's graph, the source, is related to another, the target. Each has its reverse."""

    SUPPLIES = "supplies"
    """A utility supplies a machine."""
    DRAWS_FROM = "draws_from"
    FEEDS = "feeds"
    """A machine feeds a machine."""
    FED_BY = "fed_by"
    SHARES = "shares"
    """Two machines share a utility; in both directions."""
    SAME_TYPE = "same_type"
    """Two machines are of one type; in both directions."""


class CauseKind(StrEnum):
    """What a cause is."""

    NONE = "none"
    """Nothing is wrong in the area."""
    UTILITY = "utility"
    """A utility has failed, which shows in its machines."""
    MACHINE = "machine"
    """A machine has a fault of its own."""


class Cause(NamedTuple):
    """What may be wrong in an area."""

    kind: CauseKind
    name: str | None = None
    """The utility or the machine."""
    fault: str | None = None
    """Of a utility; which fault a machine has of its own is said by its corrected answer."""


@dataclass(frozen=True, slots=True)
class Edges:
    """The pairs of nodes that one relation holds for, sorted by target, then source.

    Nodes are numbered: the machines first, in their order, and behind them the utilities.
    """

    sources: Ints  # (E,)
    targets: Ints  # (E,)


@dataclass(frozen=True, slots=True)
class UtilityLayout:
    """A utility of an area."""

    name: str
    id: str
    """With the area in front, as texts and alarms have it."""
    faults: tuple[str, ...]
    machines: Ints
    """Which of the area's machines share it, in ascending order."""


@dataclass(frozen=True, slots=True)
class AreaLayout:
    """An area: N machines of one or more types, U utilities, K causes.

    All types share one axis of classes where arrays have C columns: a machine's classes are the first ones, of its own
    type's tuple, and the columns behind them are 0.
    """

    name: str
    period_ms: int
    wait_ms: int
    """How long a frame waits for machines that are behind the others."""
    machines: tuple[str, ...]  # sorted
    types: tuple[str, ...]
    """The machine types, in the profile's order."""
    type_of: Ints  # (N,) index into `types`
    classes: tuple[tuple[str, ...], ...]
    """Of each type: the normal state, its faults, and last `recovering` and `unknown`, which not all models have."""
    utilities: tuple[UtilityLayout, ...]
    causes: tuple[Cause, ...]
    """First `none`, then each utility's faults, then each machine's own fault."""
    edges: Mapping[Relation, Edges]
    """Every relation, also those that hold for no pair."""
    digest: str
    """Hash of what states and runners depend on: all but titles and `wait`."""

    @property
    def widest(self) -> int:
        """C, the classes of the type that has most."""
        return max(len(classes) for classes in self.classes)

    @property
    def own_causes(self) -> slice:
        """Which causes are machines' own faults, in the order of the machines."""
        return slice(len(self.causes) - len(self.machines), len(self.causes))

    def classes_of(self, machine: int) -> tuple[str, ...]:
        """The classes of a machine by its number."""
        return self.classes[int(self.type_of[machine])]


def area_layouts(profile: PlantProfile) -> dict[str, AreaLayout]:
    """The layout of every area of a plant, by name."""
    return {name: _layout(name, area, profile) for name, area in profile.areas.items()}


def _layout(name: str, area: Area, profile: PlantProfile) -> AreaLayout:
    machines = area.all_machines
    kinds = [kind for machine in machines if (kind := profile.type_of(machine)) is not None]
    assert len(kinds) == len(machines), "the profile has checked its areas"
    types = [kind for kind in profile.machine_types if kind in kinds]
    names = tuple(kind.name for kind in types)
    type_of = np.array([names.index(kind.name) for kind in kinds], np.int64)
    number = {machine: index for index, machine in enumerate(machines)}
    utilities = tuple(
        UtilityLayout(
            key,
            utility_id(name, key),
            utility.faults,
            np.array(sorted(number[machine] for machine in utility.machines), np.int64),
        )
        for key, utility in area.utilities.items()
    )
    causes = [Cause(CauseKind.NONE)]
    causes += [Cause(CauseKind.UTILITY, one.name, fault) for one in utilities for fault in one.faults]
    causes += [Cause(CauseKind.MACHINE, machine) for machine in machines]
    feeds = [(number[source], number[target]) for source, fed in area.feeds.items() for target in fed]
    period_ms = types[0].frame_period_ms
    essence = {
        "area": name,
        "period_ms": period_ms,
        "machines": list(zip(machines, [kind.name for kind in kinds], strict=True)),
        "faults": {kind.name: kind.faults for kind in types},
        "utilities": [[one.name, one.faults, one.machines.tolist()] for one in utilities],
        "feeds": sorted(feeds),
    }
    return AreaLayout(
        name=name,
        period_ms=period_ms,
        wait_ms=WAIT_PERIODS * period_ms if area.wait_ms is None else area.wait_ms,
        machines=machines,
        types=names,
        type_of=type_of,
        classes=tuple((*kind.faults, *_added(kind.faults)) for kind in types),
        utilities=utilities,
        causes=tuple(causes),
        edges=_edges(type_of, utilities, feeds),
        digest=hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()[:16],
    )


def _added(faults: tuple[str, ...]) -> list[str]:
    return [name for name in (RECOVERING, UNKNOWN) if name not in faults]


def _edges(type_of: Ints, utilities: tuple[UtilityLayout, ...], feeds: list[tuple[int, int]]) -> dict[Relation, Edges]:
    count = len(type_of)
    supplies = [(count + place, m) for place, one in enumerate(utilities) for m in one.machines.tolist()]
    pairs = [(one, other) for one in range(count) for other in range(count) if one != other]
    members = [frozenset(one.machines.tolist()) for one in utilities]
    shares = [pair for pair in pairs if any(own.issuperset(pair) for own in members)]
    return {
        Relation.SUPPLIES: _sorted(supplies),
        Relation.DRAWS_FROM: _sorted((target, source) for source, target in supplies),
        Relation.FEEDS: _sorted(feeds),
        Relation.FED_BY: _sorted((target, source) for source, target in feeds),
        Relation.SHARES: _sorted(shares),
        Relation.SAME_TYPE: _sorted((one, other) for one, other in pairs if type_of[one] == type_of[other]),
    }


def _sorted(pairs: Iterable[tuple[int, int]]) -> Edges:
    columns = np.array(sorted(pairs, key=lambda pair: (pair[1], pair[0])), np.int64).reshape(-1, 2)
    return Edges(columns[:, 0].copy(), columns[:, 1].copy())
