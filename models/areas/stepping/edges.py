"""The edges of an area's graph as its compiled step takes them: by relation and target, one after the other."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from models.areas.graph import RELATIONS, TEXT, UTILITY, AreaGraph
from models.areas.stepping.layers import Edges
from pipeline.arrays import Bools, Floats, Ints

SOURCE_TYPES: Final = np.array([relation.source for relation in RELATIONS], np.int64)
_OF_TEXTS: Final = 5
"""The number of the first relation with event texts."""


class StepEdges(NamedTuple):
    """Nodes are numbered machines first, then utilities, then event texts."""

    edges: Edges
    targets: Ints  # (E,)
    taken: Floats
    """(E,) one by the number of relations into the target, if its type is machine, else 0."""


def step_edges(graph: AreaGraph, text_machines: Bools, text_utilities: Bools) -> StepEdges:
    """The edges of a frame, with event texts about machines (X, N) and utilities (X, U)."""
    texts = len(text_machines)
    first = np.cumsum([0, graph.machines, graph.utilities, texts]).astype(np.int64)
    about = [np.nonzero(text_machines), np.nonzero(text_machines)[::-1]]
    about += [np.nonzero(text_utilities), np.nonzero(text_utilities)[::-1]]
    pairs = [*((edges.source, edges.target) for edges in graph.edges[:_OF_TEXTS]), *about]
    nodes = int(first[-1])
    starts = np.zeros((len(RELATIONS), nodes + 1), np.int64)
    sources, targets, count = [], [], 0
    for r, (relation, (source, target)) in enumerate(zip(RELATIONS, pairs, strict=True)):
        order = np.lexsort((source, target))
        sources.append(source[order] + first[relation.source])
        targets.append(target[order] + first[relation.target])
        starts[r, 0] = count
        starts[r, 1:] = count + np.cumsum(np.bincount(targets[-1], minlength=nodes))
        count += len(source)
    into = (np.diff(starts, axis=1) > 0).sum(axis=0)
    ends = np.concatenate(targets)
    share = np.float32(1) / np.maximum(into[ends], 1).astype(np.float32)
    taken = np.where(ends < first[UTILITY], share, np.float32(0))
    return StepEdges(Edges(first, SOURCE_TYPES, starts.ravel(), np.concatenate(sources)), ends, taken)


def neighbours(edges: StepEdges, weights: Floats, *, over_relations: bool) -> Floats:
    """(N, N + U) how much each machine takes from each node, by the weights (E,) of the edges.

    They are weights over all neighbours of a machine, or, with `over_relations`, over those by each relation, of which
    the mean is taken. What texts give is left out.
    """
    first, sources = edges.edges.first, edges.edges.sources
    taken = np.zeros((int(first[UTILITY]), int(first[TEXT])), np.float32)
    shown = (edges.taken > 0) & (sources < first[TEXT])
    given = (weights * edges.taken if over_relations else weights)[shown]
    np.add.at(taken, (edges.targets[shown], sources[shown]), given)
    return taken
