"""Layers of one vector per node, compiled: HGT and HAN, as `models.areas.networks.layers` defines them.

The edges of R relations are `sources` (E,): those of relation r into node n begin at starts[r (V + 1) + n], and end
where the next node's begin.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import types

from models.areas.stepping.kernels import (
    SOURCES,
    F,
    add_scaled,
    dot,
    normalise,
    product,
    project,
    softmax,
    tanh_of,
    update,
)
from models.stepping.kernels.elementary import exp
from models.stepping.kernels.lanes import LANES, load, pick_less, splat, store
from pipeline.arrays import Floats, Ints
from pipeline.compiled import CompiledFunction, kernel

_ZERO, _ONE = F(0), F(1)
_LEAK: Final = F(0.2)


class Edges(NamedTuple):
    """What layers are told of a graph."""

    first: Ints  # (4,)
    source_type: Ints  # (R,)
    starts: Ints
    sources: Ints


class Transformer(NamedTuple):
    """Weights of a layer of HGT; those of relations are multiplied into keys and values."""

    key: Floats  # (R, W, W)
    query: Floats  # (3, W, W)
    value: Floats  # (R, W, W)
    output: Floats  # (3, W, W)
    kept: Floats  # (3,)
    norm: Floats  # (2, W)


class Hierarchy(NamedTuple):
    """Weights of a layer of HAN."""

    matrix: Floats  # (3, W, W)
    from_source: Floats  # (R, W), the heads side by side
    from_target: Floats
    semantic: Floats  # (W, W)
    bias: Floats  # (W,)
    query: Floats  # (W,)
    norm: Floats  # (2, W)


@kernel
def add_part(x: Floats, x_at: int, weight: np.float32, size: int, y: Floats, y_at: int) -> None:
    """y += weight x, of one head's numbers."""
    for k in range(size):
        y[y_at + k] += weight * x[x_at + k]


@kernel
def attend(
    query: Floats, keys: Floats, values: Floats, node: int, heads: int, edges: Edges, scores: Floats, received: Floats,
    weights: Floats,
) -> None:  # fmt: skip
    """received (W,) = what a node takes from its neighbours by all relations, by head; the edges' `weights` are the
    means of the heads."""
    nodes, width = edges.first[3], len(query)
    size = width // heads
    for head in range(heads):
        count = 0
        for r in range(len(edges.source_type)):
            place = r * (nodes + 1) + node
            for e in range(edges.starts[place], edges.starts[place + 1]):
                at = (r * nodes + edges.sources[e]) * width + head * size
                scores[count] = dot(query, head * size, keys, at, size)
                count += 1
        if not count:
            return
        softmax(scores, 0, count)
        count = 0
        for r in range(len(edges.source_type)):
            place = r * (nodes + 1) + node
            for e in range(edges.starts[place], edges.starts[place + 1]):
                at = (r * nodes + edges.sources[e]) * width + head * size
                weights[e] += scores[count] / F(heads)
                add_part(values, at, scores[count], size, received, head * size)
                count += 1


def _transform(
    h: Floats, h_at: int, edges: Edges, layer: Transformer, heads: int, changed: Floats, weights: Floats
) -> None:
    """Vectors (V, W) after a round of messages, at the same place, and the `weights` (E,) of the edges."""
    first, nodes, width = edges.first, edges.first[3], len(layer.norm) // 2
    keys = np.zeros(len(edges.source_type) * nodes * width, F)
    values = np.zeros(len(keys), F)
    project(h, h_at, first, edges.source_type, edges.starts, layer.key, 0, width, keys, 0)
    project(h, h_at, first, edges.source_type, edges.starts, layer.value, 0, width, values, 0)
    scores, asked = np.zeros(len(edges.sources) + LANES, F), np.zeros(width, F)
    received, work = np.zeros(width, F), np.zeros(width, F)
    weights[:] = _ZERO
    for t in range(3):
        matrix = t * width * width
        for n in range(first[t], first[t + 1]):
            at = h_at + n * width
            asked[:] = _ZERO
            received[:] = _ZERO
            product(h, at, width, layer.query, matrix, width, asked, 0, asked, 0)
            attend(asked, keys, values, n, heads, edges, scores, received, weights)
            update(received, 0, layer.output, matrix, layer.kept[t], width, h, at, layer.norm, work, changed)


@kernel
def take_path(
    projected: Floats, node: int, begin: int, end: int, sources: Ints, heads: int, layer: Hierarchy, vector: int,
    scores: Floats, path: Floats, path_at: int, weights: Floats,
) -> None:  # fmt: skip
    """path (W,), 0 before, = what a node takes along the edges [begin, end) of the relation whose vectors begin at
    `vector`."""
    width = len(layer.query)
    size = width // heads
    for head in range(heads):
        part = head * size
        asked = dot(projected, node * width + part, layer.from_target, vector + part, size)
        for e in range(begin, end):
            score = dot(projected, sources[e] * width + part, layer.from_source, vector + part, size) + asked
            scores[e - begin] = score if score > _ZERO else _LEAK * score
        softmax(scores, 0, end - begin)
        for e in range(begin, end):
            weight = scores[e - begin]
            weights[e] += weight / F(heads)
            add_part(projected, sources[e] * width + part, weight, size, path, path_at + part)
    for k in range(path_at, path_at + width, LANES):  # x above 0, else e^x - 1
        x = load(path, k)
        store(path, k, pick_less(x, splat(_ZERO), exp(x) - splat(_ONE), x))


@kernel
def add_paths(paths: Floats, count: int, layer: Hierarchy, shares: Floats, work: Floats, mixed: Floats) -> None:
    """mixed (W,) += so many paths, weighted with the softmax of tanh(path semantic + bias) query."""
    width = len(layer.query)
    for p in range(count):
        product(paths, p * width, width, layer.semantic, 0, width, layer.bias, 0, work, 0)
        tanh_of(work, 0, width)
        shares[p] = dot(work, 0, layer.query, 0, width)
    softmax(shares, 0, count)
    for p in range(count):
        add_scaled(paths, p * width, shares[p], width, mixed, 0)


def _hierarchical(
    h: Floats, h_at: int, edges: Edges, layer: Hierarchy, heads: int, changed: Floats, weights: Floats
) -> None:
    """As `_transform`. A node's paths are itself, and what it takes along each relation."""
    first, nodes, width = edges.first, edges.first[3], len(layer.query)
    relations = len(edges.source_type)
    projected = np.zeros(nodes * width, F)
    for t in range(3):
        for n in range(first[t], first[t + 1]):
            to = n * width
            product(h, h_at + to, width, layer.matrix, t * width * width, width, projected, to, projected, to)
    paths, shares = np.zeros((relations + 1) * width, F), np.zeros(relations + 1 + LANES, F)
    scores, work, mixed = np.zeros(len(edges.sources) + LANES, F), np.zeros(width, F), np.zeros(width, F)
    weights[:] = _ZERO
    for n in range(nodes):
        paths[:] = _ZERO
        add_scaled(projected, n * width, _ONE, width, paths, 0)
        count = 1
        for r in range(relations):
            begin, end = edges.starts[r * (nodes + 1) + n], edges.starts[r * (nodes + 1) + n + 1]
            if end > begin:
                take_path(
                    projected, n, begin, end, edges.sources, heads, layer, r * width, scores, paths, count * width,
                    weights,
                )  # fmt: skip
                count += 1
        mixed[:] = _ZERO
        add_scaled(h, h_at + n * width, _ONE, width, mixed, 0)
        add_paths(paths, count, layer, shares, work, mixed)
        normalise(mixed, 0, width, layer.norm, changed, h_at + n * width)


FLOATS, _INTS = types.Array(types.float32, 1, "C"), types.Array(types.int64, 1, "C")
EDGES: Final = types.NamedUniTuple(_INTS, len(Edges._fields), Edges)


def layer_signature(layer: type[Transformer | Hierarchy]) -> object:
    """Of the function of a layer with these weights."""
    weights = types.NamedUniTuple(FLOATS, len(layer._fields), layer)
    return types.void(FLOATS, types.int64, EDGES, weights, types.int64, FLOATS, FLOATS)


TRANSFORM: Final = CompiledFunction(_transform, layer_signature(Transformer), SOURCES, name="area_transform")
HIERARCHICAL: Final = CompiledFunction(_hierarchical, layer_signature(Hierarchy), SOURCES, name="area_hierarchical")
