"""A layer of HGNN-IMA, compiled: attention over neighbours nests one over modalities (`models.areas.networks.ima`)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import types

from models.areas.stepping.kernels import SOURCES, F, add_product, clear, dot, project, room, softmax, update
from models.areas.stepping.layers import EDGES, FLOATS, Edges, add_part
from pipeline.arrays import Floats
from pipeline.compiled import CompiledFunction, kernel

_ZERO, _ONE = F(0), F(1)
_LEAST: Final = F(1e-12)


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
def mix_modalities(scores: Scores, modalities: int, stride: int, count: int, adapt: bool) -> None:
    """g, attention of each modality, becomes b = sum of l g, with l the softmax of s over an edge's modalities, or the
    same share of each."""
    g, s, l = scores.g, scores.s, scores.one  # noqa: E741
    for e in range(count):
        for m in range(modalities):
            l[m] = s[m * stride + e] if adapt else _ZERO
        softmax(l, 0, modalities)
        mixed = _ZERO
        for m in range(modalities):
            mixed += l[m] * g[m * stride + e]
        for m in range(modalities):
            g[m * stride + e] = mixed


@kernel
def weigh(scores: Scores, modalities: int, stride: int, count: int, how: Nesting) -> None:
    """g becomes the weights of the edges."""
    g, k = scores.g, scores.k
    for e in range(count):
        differing = _ZERO
        for m in range(modalities):
            for other in range(m + 1, modalities):
                differing += abs(g[m * stride + e] - g[other * stride + e])
        k[e] = -differing
    softmax(k, 0, count)
    for m in range(modalities):
        softmax(g, m * stride, count)
    if not how.cross:
        return
    if how.inf:
        mix_modalities(scores, modalities, stride, count, how.adapt)
    for m in range(modalities):
        total = _ZERO
        for e in range(count):
            if how.align:
                g[m * stride + e] *= k[e]
            total += g[m * stride + e]
        if how.softmax:
            softmax(g, m * stride, count)
        else:
            for e in range(count):
                g[m * stride + e] /= max(total, _LEAST)


@kernel
def receive(
    asked: Floats, offered: Sources, edges: Edges, r: int, begin: int, end: int, modalities: int, heads: int,
    how: Nesting, scores: Scores, received: Floats, weights: Floats,
) -> None:  # fmt: skip
    """received (M, W) += what a node with the queries `asked` (M, W) takes along the edges [begin, end) of relation
    r."""
    nodes, relations, width = edges.first[3], len(edges.source_type), len(asked) // modalities
    size, count = width // heads, end - begin
    stride = room(count)
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


@kernel
def offer(h: Floats, edges: Edges, layer: InterModal, modalities: int) -> Sources:
    """Keys and values of all sources."""
    nodes, relations, width = edges.first[3], len(edges.source_type), len(layer.norm) // 2
    each = relations * nodes * width
    offered = Sources(np.zeros(modalities * each, F), np.zeros(modalities * each, F), np.zeros(modalities * each, F))
    matrices = relations * width * width
    for m in range(modalities):
        at, place = m * nodes * width, slice(m * each, (m + 1) * each)
        first, types_of, starts = edges.first, edges.source_type, edges.starts
        project(h, at, first, types_of, starts, layer.key, width, offered.keys[place])
        modal = layer.modal[m * matrices : (m + 1) * matrices]
        project(h, at, first, types_of, starts, modal, width, offered.modal_keys[place])
        project(h, at, first, types_of, starts, layer.value, width, offered.values[place])
    return offered


def _inter_modal(
    h: Floats, edges: Edges, layer: InterModal, modalities: int, heads: int, how: Nesting, changed: Floats,
    weights: Floats,
) -> None:  # fmt: skip
    """Vectors (M, V, W) after a round of messages, and the `weights` (E,) of the edges, means of modalities and heads;
    edges are as in `models.areas.stepping.layers`."""
    first, nodes, width = edges.first, edges.first[3], len(layer.norm) // 2
    offered = offer(h, edges, layer, modalities)
    asked, received = np.zeros(modalities * width, F), np.zeros(modalities * width, F)
    most, work = modalities * room(len(edges.sources)), np.zeros(width, F)
    scores = Scores(np.zeros(most, F), np.zeros(most, F), np.zeros(most, F), np.zeros(room(modalities), F))
    weights[:] = _ZERO
    for t in range(3):
        matrix = t * width * width
        for n in range(first[t], first[t + 1]):
            clear(asked, 0, modalities * width)
            clear(received, 0, modalities * width)
            for m in range(modalities):
                add_product(h, (m * nodes + n) * width, width, layer.query, matrix, width, asked, m * width)
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
