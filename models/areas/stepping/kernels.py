"""Kernels that all networks of areas share: linear maps, softmax, layer norm, and the inputs of a graph.

Arrays are flat, and begin where a place such as `x_at` says. Vectors have W numbers, whole lanes; sums are in the order
in which they are written. A graph has V nodes: machines, then utilities, then event texts; `first` (4,) says where each
type begins, and where the last one ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from models.stepping.kernels.elementary import tanh
from models.stepping.kernels.lanes import LANES, broadcast, load, splat, square_root, store
from models.stepping.kernels.operation import SOURCES as OF_MACHINES
from models.stepping.kernels.vectors import exponentiate
from pipeline.arrays import Floats, Ints
from pipeline.compiled import CompiledFunction, kernel

SOURCES: Final = (*sorted(Path(__file__).parent.glob("*.py")), *OF_MACHINES)

F: Final = np.float32
_ZERO, _ONE = F(0), F(1)
_EPSILON: Final = F(1e-5)
"""Of torch's layer norm."""


@kernel
def add_scaled(x: Floats, x_at: int, scale: np.float32, width: int, y: Floats, y_at: int) -> None:
    """y += scale x, W numbers."""
    for k in range(0, width, LANES):
        store(y, y_at + k, load(y, y_at + k) + splat(scale) * load(x, x_at + k))


@kernel
def product(
    x: Floats, x_at: int, count: int, weights: Floats, weights_at: int, width: int, bias: Floats, bias_at: int,
    y: Floats, y_at: int,
) -> None:  # fmt: skip
    """y (W,) = bias (W,) + x (D,) weights (D, W), with D as `count`; bias may be y."""
    for k in range(0, width, LANES):
        sums, at = load(bias, bias_at + k), weights_at + k
        for d in range(count):
            sums = sums + broadcast(x, x_at + d) * load(weights, at)
            at += width
        store(y, y_at + k, sums)


@kernel
def dot(x: Floats, x_at: int, y: Floats, y_at: int, count: int) -> np.float32:
    """Sum of the products of so many numbers."""
    total = _ZERO
    for k in range(count):
        total += x[x_at + k] * y[y_at + k]
    return total


@kernel
def tanh_of(values: Floats, at: int, count: int) -> None:
    """Hyperbolic tangents of so many numbers, in place; the array has as many to spare as there are lanes."""
    for i in range(at, at + count, LANES):
        store(values, i, tanh(load(values, i)))


@kernel
def softmax(values: Floats, at: int, count: int) -> None:
    """Softmax of so many numbers, in place; the lanes behind them are overwritten."""
    total = splat(exponentiate(values, at, count))
    for i in range(at, at + count, LANES):
        store(values, i, load(values, i) / total)


@kernel
def normalise(x: Floats, x_at: int, width: int, norm: Floats, y: Floats, y_at: int) -> None:
    """y = layer norm of x; `norm` has W gains, then W shifts."""
    mean, variance = _ZERO, _ZERO
    for k in range(width):
        mean += x[x_at + k]
    mean /= F(width)
    for k in range(width):
        away = x[x_at + k] - mean
        variance += away * away
    scale = splat(_ONE / square_root(variance / F(width) + _EPSILON))
    for k in range(0, width, LANES):
        normal = (load(x, x_at + k) - splat(mean)) * scale
        store(y, y_at + k, normal * load(norm, k) + load(norm, width + k))


@kernel
def update(
    received: Floats, received_at: int, output: Floats, output_at: int, kept: np.float32, width: int, h: Floats,
    h_at: int, norm: Floats, work: Floats, y: Floats,
) -> None:  # fmt: skip
    """y = layer norm of kept * received output + (1 - kept) * h, at the place of h."""
    work[:] = _ZERO
    product(received, received_at, width, output, output_at, width, work, 0, work, 0)
    for k in range(0, width, LANES):
        store(work, k, load(work, k) * splat(kept))
    add_scaled(h, h_at, _ONE - kept, width, work, 0)
    normalise(work, 0, width, norm, y, h_at)


@kernel
def project(
    h: Floats, h_at: int, first: Ints, source_type: Ints, starts: Ints, matrices: Floats, matrices_at: int, width: int,
    projected: Floats, projected_at: int,
) -> None:  # fmt: skip
    """Of each of R relations that has edges, the vectors of its sources through its matrix, to (R, V, W), which is 0
    before."""
    nodes = first[3]
    for r in range(len(source_type)):
        if starts[(r + 1) * (nodes + 1) - 1] > starts[r * (nodes + 1)]:
            matrix = matrices_at + r * width * width
            for n in range(first[source_type[r]], first[source_type[r] + 1]):
                to = projected_at + (r * nodes + n) * width
                product(h, h_at + n * width, width, matrices, matrix, width, projected, to, projected, to)


def _encode(x: Floats, columns: int, weights: Floats, bias: Floats, present: Floats, h_at: int, h: Floats) -> None:
    """h = tanh(x weights + bias) of each node, W numbers each, but of those not `present` (N,), which stay 0.

    x has a row of so many columns for each node, of which the first D are read; weights are (D, W).
    """
    width = len(bias)
    count = len(weights) // width
    for n in range(len(present)):
        if present[n] > _ZERO:
            at = h_at + n * width
            product(x, n * columns, count, weights, 0, width, bias, 0, h, at)
            tanh_of(h, at, width)


def _join(h: Floats, present: Floats, first: Ints, weights: Floats, bias: Floats, width: int, joined: Floats) -> None:
    """joined (V, W) = tanh([h_1 ... h_M, present] weights + bias), by node type.

    h is (M, V, W), present (V, M), weights (3, M W + M, W), bias (3, W).
    """
    nodes = first[3]
    modalities = len(present) // nodes
    for t in range(3):
        for n in range(first[t], first[t + 1]):
            to, at = n * width, t * modalities * (width + 1) * width
            last = at + modalities * width * width
            product(present, n * modalities, modalities, weights, last, width, bias, t * width, joined, to)
            for m in range(modalities):
                product(h, (m * nodes + n) * width, width, weights, at, width, joined, to, joined, to)
                at += width * width
            tanh_of(joined, to, width)


def _read_out(h: Floats, score: Floats, modalities: int, read: Floats) -> None:
    """read (V, W), 0 before, = mean of a node's modalities h (M, V, W), weighted with softmax(tanh(h score))."""
    width = len(score)
    nodes = len(read) // width
    shares = np.zeros(modalities + LANES, F)
    for n in range(nodes):
        for m in range(modalities):
            shares[m] = dot(h, (m * nodes + n) * width, score, 0, width)
        tanh_of(shares, 0, modalities)
        softmax(shares, 0, modalities)
        for m in range(modalities):
            add_scaled(h, (m * nodes + n) * width, shares[m], width, read, n * width)


_FLOATS, _INTS = "f4[::1]", "i8[::1]"
ENCODE: Final = CompiledFunction(
    _encode, f"void({_FLOATS}, i8, {_FLOATS}, {_FLOATS}, {_FLOATS}, i8, {_FLOATS})", SOURCES, name="area_encode"
)
JOIN: Final = CompiledFunction(
    _join,
    f"void({_FLOATS}, {_FLOATS}, {_INTS}, {_FLOATS}, {_FLOATS}, i8, {_FLOATS})",
    SOURCES,
    name="area_join",
)
READ_OUT: Final = CompiledFunction(
    _read_out, f"void({_FLOATS}, {_FLOATS}, i8, {_FLOATS})", SOURCES, name="area_read_out"
)
