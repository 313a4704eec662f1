"""The graph of one area: nodes of three types, and edges of nine relations between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from pipeline.arrays import Bools, Ints

MACHINE, UTILITY, TEXT = range(3)
NODE_TYPES: Final = ("machine", "utility", "text")


class Relation(NamedTuple):
    """A relation, whose edges carry evidence from nodes of one type to nodes of one type."""

    name: str
    source: int
    target: int


RELATIONS: Final = (
    Relation("shares", MACHINE, UTILITY),
    Relation("shared by", UTILITY, MACHINE),
    Relation("feeds", MACHINE, MACHINE),
    Relation("fed by", MACHINE, MACHINE),
    Relation("same type", MACHINE, MACHINE),
    Relation("event about machine", TEXT, MACHINE),
    Relation("machine of event", MACHINE, TEXT),
    Relation("event about utility", TEXT, UTILITY),
    Relation("utility of event", UTILITY, TEXT),
)
"""Each with its reverse; `same type` is its own."""


SAME_TYPE_REACH: Final = 2
"""With how many machines of its type on each side a machine is connected."""


class Edges(NamedTuple):
    """Edges of one relation: for each the number of its source and target among the nodes of their types."""

    source: Ints
    target: Ints


@dataclass(frozen=True, slots=True)
class AreaGraph:
    """Machines and utilities of an area, with their relations; event texts come and go and are not part of it."""

    machines: int
    utilities: int
    members: Bools
    """(U, N): which machines share which utility."""
    faults: Bools
    """(U, C): which classes of a machine are faults of the utility."""
    edges: tuple[Edges, ...]
    """Of each relation, in the order of `RELATIONS`; none of texts."""


def area_graph(
    members: Sequence[Sequence[int]],
    faults: Sequence[Sequence[int]],
    *,
    machines: int,
    classes: int,
    machine_types: Sequence[str],
    feeds: Mapping[int, Sequence[int]] | None = None,
) -> AreaGraph:
    """The graph of an area; raises ValueError if a number is out of range.

    For each utility `members` has the machines that share it, and `faults` its classes; `feeds` has for a machine those
    that it feeds. Each machine is connected with the next of its type
    on both sides, in a ring, so that edges grow with the machines and not with their square.
    """
    if len(members) != len(faults) or len(machine_types) != machines:
        raise ValueError("each utility needs its machines and faults, each machine its type")
    shared = np.zeros((len(members), machines), np.bool_)
    caused = np.zeros((len(members), classes), np.bool_)
    for utility, (sharing, of_utility) in enumerate(zip(members, faults, strict=True)):
        if not all(0 <= m < machines for m in sharing) or not all(0 < c < classes for c in of_utility):
            raise ValueError(f"utility {utility} names a machine or fault that is not there")
        shared[utility, list(sharing)] = True
        caused[utility, list(of_utility)] = True
    pairs = [(machine, to) for machine, targets in (feeds or {}).items() for to in targets]
    if not all(0 <= m < machines for pair in pairs for m in pair):
        raise ValueError("feeds name a machine that is not there")
    feeding, fed = np.array([m for m, _ in pairs], np.int64), np.array([to for _, to in pairs], np.int64)
    alike = np.zeros((machines, machines), np.bool_)
    for name in sorted(set(machine_types)):
        ring = [machine for machine in range(machines) if machine_types[machine] == name]
        for place, machine in enumerate(ring):
            near = [ring[(place + step) % len(ring)] for step in range(-SAME_TYPE_REACH, SAME_TYPE_REACH + 1)]
            alike[machine, [other for other in near if other != machine]] = True
    to_utility, to_machine = np.nonzero(shared)
    source, target = np.nonzero(alike)
    none = Edges(np.zeros(0, np.int64), np.zeros(0, np.int64))
    edges = (
        Edges(to_machine, to_utility),
        Edges(to_utility, to_machine),
        Edges(feeding, fed),
        Edges(fed, feeding),
        Edges(source, target),
        *(none,) * 4,
    )
    return AreaGraph(machines, len(members), shared, caused, edges)
