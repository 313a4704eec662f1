"""A layer of HGNN-IMA, compiled: attention over neighbours nests one over modalities (`models.areas.networks.ima`)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import types

from models.areas.stepping.kernels import SOURCES, F, dot, product, project, softmax, update
from models.areas.stepping.layers import EDGES, FLOATS, Edges, add_part
from models.stepping.kernels.lanes import LANES
from pipeline.arrays import Floats
from pipeline.compiled import CompiledFunction, kernel

_ZERO, _ONE = F(0), F(1)
_MIN_TOTAL: Final = F(1e-12)


class InterModal(NamedTuple):
    """Weights of a layer; those of relations are multiplied into keys and values."""

    key: Floats  # (R, W, W)
    modal: Floats  # (M, R, W, W) keys for the scores between modalities
    query: Floats  # (3, W, W)
    value: Floats  # (R, W, W)
    output: Floats  # (3, W, W)
    kept: Floats  # (3,)
    norm: Floats  # (2, W)


class Nesting(NamedTuple):
    """Which parts the attention has; an ablation leaves one out."""

    cross: bool
    adapt: bool
    inf: bool
    align: bool
    softmax: bool
    """Whether the weights are a softmax of b k, as published, or b k by its sum."""


class Sources(NamedTuple):
    """What the sources of edges offer, (M, R, V, W) each."""

    keys: Floats
    modal_keys: Floats
    values: Floats


class Scores(NamedTuple):
    """Scores of the edges of one node, relation and head: those of a modality begin at its number x `stride`."""

    g: Floats
    s: Floats
    k: Floats
    one: Floats  # of one edge


@kernel
def renormalise(b: Floats, at: int, k: Floats, count: int, how: Nesting) -> None:
    """b of one modality's edges becomes softmax(b k), or b k by its sum."""
    total = _ZERO
    for e in range(count):
        if how.align:
            b[at + e] *= k[e]
        total += b[at + e]
    if how.softmax:
        softmax(b, at, count)
        return
    for e in range(count):
        b[at + e] /= max(total, _MIN_TOTAL)


@kernel
def weigh(scores: Scores, modalities: int, stride: int, count: int, how: Nesting) -> None:
    """g, scores of the edges of each modality, becomes their weights; s are the scores between modalities."""
    g, s, k, l = scores.g, scores.s, scores.k, scores.one  # noqa: E741
    for e in range(count):
        k[e] = _ZERO
        for m in range(modalities):
            for other in range(m + 1, modalities):
                k[e] -= abs(g[m * stride + e] - g[other * stride + e])
    softmax(k, 0, count)
    for m in range(modalities):
        softmax(g, m * stride, count)
    if not how.cross:
        return
    for e in range(count if how.inf else 0):
        for m in range(modalities):
            l[m] = s[m * stride + e] if how.adapt else _ZERO
        softmax(l, 0, modalities)
        mixed = _ZERO
        for m in range(modalities):
            mixed += l[m] * g[m * stride + e]
        for m in range(modalities):
            g[m * stride + e] = mixed
    for m in range(modalities):
        renormalise(g, m * stride, k, count, how)


@kernel
def receive(
    asked: Floats, offered: Sources, edges: Edges, r: int, begin: int, end: int, modalities: int, heads: int,
    how: Nesting, scores: Scores, received: Floats, weights: Floats,
) -> None:  # fmt: skip
    """received (M, W) += what a node with the queries `asked` (M, W) takes along the edges [begin, end) of relation
    r."""
    nodes, relations, width = edges.first[3], len(edges.source_type), len(asked) // modalities
    size, count = width // heads, end - begin
    stride = count + LANES
    for head in range(heads):
        part = head * size
        for m in range(modalities):
            for e in range(count):
                at = ((m * relations + r) * nodes + edges.sources[begin + e]) * width + part
                scores.g[m * stride + e] = dot(asked, m * width + part, offered.keys, at, size)
                scores.s[m * stride + e] = dot(asked, m * width + part, offered.modal_keys, at, size)
        weigh(scores, modalities, stride, count, how)
        for m in range(modalities):
            for e in range(count):
                at = ((m * relations + r) * nodes + edges.sources[begin + e]) * width + part
                weight = scores.g[m * stride + e]
                weights[begin + e] += weight / F(modalities * heads)
                add_part(offered.values, at, weight, size, received, m * width + part)


def _inter_modal(
    h: Floats, edges: Edges, layer: InterModal, modalities: int, heads: int, how: Nesting, changed: Floats,
    weights: Floats,
) -> None:  # fmt: skip
    """Vectors (M, V, W) after a round of messages, and the `weights` (E,) of the edges, means of modalities and heads;
    edges are as in `models.areas.stepping.layers`."""
    first, nodes, width = edges.first, edges.first[3], len(layer.norm) // 2
    each, matrices = len(edges.source_type) * nodes * width, len(layer.key)
    offered = Sources(np.zeros(modalities * each, F), np.zeros(modalities * each, F), np.zeros(modalities * each, F))
    for m in range(modalities):
        at, to, types_of, starts = m * nodes * width, m * each, edges.source_type, edges.starts
        project(h, at, first, types_of, starts, layer.key, 0, width, offered.keys, to)
        project(h, at, first, types_of, starts, layer.modal, m * matrices, width, offered.modal_keys, to)
        project(h, at, first, types_of, starts, layer.value, 0, width, offered.values, to)
    asked, received = np.zeros(modalities * width, F), np.zeros(modalities * width, F)
    most, work = modalities * (len(edges.sources) + LANES), np.zeros(width, F)
    scores = Scores(np.zeros(most, F), np.zeros(most, F), np.zeros(most, F), np.zeros(modalities + LANES, F))
    weights[:] = _ZERO
    for t in range(3):
        matrix = t * width * width
        for n in range(first[t], first[t + 1]):
            asked[:] = _ZERO
            received[:] = _ZERO
            for m in range(modalities):
                at, to = (m * nodes + n) * width, m * width
                product(h, at, width, layer.query, matrix, width, asked, to, asked, to)
            reached = 0
            for r in range(len(edges.source_type)):
                begin, end = edges.starts[r * (nodes + 1) + n], edges.starts[r * (nodes + 1) + n + 1]
                if end > begin:
                    reached += 1
                    receive(asked, offered, edges, r, begin, end, modalities, heads, how, scores, received, weights)
            for w in range(modalities * width):
                received[w] /= F(max(reached, 1))
            for m in range(modalities):
                at = (m * nodes + n) * width
                kept = layer.kept[t]
                update(received, m * width, layer.output, matrix, kept, width, h, at, layer.norm, work, changed)


_LAYER: Final = types.NamedUniTuple(FLOATS, len(InterModal._fields), InterModal)
_NESTING: Final = types.NamedUniTuple(types.boolean, len(Nesting._fields), Nesting)
INTER_MODAL: Final = CompiledFunction(
    _inter_modal,
    types.void(FLOATS, EDGES, _LAYER, types.int64, types.int64, _NESTING, FLOATS, FLOATS),
    SOURCES,
    name="area_inter_modal",
)
