"""The product of a matrix with the vectors of some rows, each row's sums in one order whatever other rows there are.

Sixteen columns of the matrix form a panel: their biases, then one line for each input (`pack`). A panel is applied to
four rows at a time, or four panels to one row, so that eight sums are under way at once; every sum begins with the bias
and takes the inputs in ascending order in either case, so a row's bits do not depend on how many rows there are.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.codes import STATE
from models.stepping.kernels.lanes import Lanes, broadcast, load, pick_less, splat, store
from pipeline.arrays import Floats, Ints
from pipeline.compiled import kernel

PANEL: Final = 16
_ROWS: Final = 4
_PANELS: Final = 4
_ZERO = np.float32(0)


def pack(matrix: Floats, bias: Floats | None) -> Floats:
    """A matrix (in, out), and its bias (out,) unless it adds to what is there, as panels one behind the other."""
    outputs = matrix.shape[1]
    width = -(-outputs // PANEL) * PANEL
    lines = matrix if bias is None else np.concatenate([bias[None], matrix])
    full = np.zeros((len(lines), width), np.float32)
    full[:, :outputs] = lines
    panels: Floats = full.reshape(len(lines), -1, PANEL).transpose(1, 0, 2)
    return np.ascontiguousarray(panels).ravel()


@kernel
def dense(op: Ints, block: Block, rows: Ints) -> None:
    """target = inputs W + bias, or target += inputs W; with ReLU if wanted.

    Operands: space, source, inputs, target, width (of whole panels), weights, 1 to add, 1 for ReLU.
    """
    source, count, target, width, weight, adding, relu = op[3], op[4], op[5], op[6], op[7], op[8] == 1, op[9] == 1
    inputs, bases = (block.states, block.state_at) if op[2] == STATE else (block.work, block.at)
    size = (count if adding else count + 1) * PANEL
    panels, whole = width // PANEL, len(rows) // _ROWS * _ROWS
    for panel in range(panels):
        place, w = target + panel * PANEL, weight + panel * size
        for r in range(0, whole, _ROWS):
            a, b, c, d = rows[r], rows[r + 1], rows[r + 2], rows[r + 3]
            x = (bases[a] + source, bases[b] + source, bases[c] + source, bases[d] + source)
            t = (block.at[a] + place, block.at[b] + place, block.at[c] + place, block.at[d] + place)
            _four_rows(inputs, x, count, block.weights, w, block.work, t, adding, relu)
    for r in range(whole, len(rows)):
        x0, t0 = bases[rows[r]] + source, block.at[rows[r]] + target
        panel = 0
        while panel + _PANELS <= panels:
            w, place = weight + panel * size, t0 + panel * PANEL
            _four_panels(inputs, x0, count, block.weights, w, size, block.work, place, adding, relu)
            panel += _PANELS
        while panel < panels:
            w, place = weight + panel * size, t0 + panel * PANEL
            _one_panel(inputs, x0, count, block.weights, w, block.work, place, adding, relu)
            panel += 1


@kernel
def _rectified(x: Lanes, relu: bool) -> Lanes:
    return pick_less(x, splat(_ZERO), splat(_ZERO), x) if relu else x


@kernel
def _four_rows(
    inputs: Floats,
    x: tuple[int, int, int, int],
    count: int,
    weights: Floats,
    w: int,
    work: Floats,
    t: tuple[int, int, int, int],
    adding: bool,
    relu: bool,
) -> None:
    """One panel for four rows, whose inputs begin at x and whose outputs at t."""
    x0, x1, x2, x3 = x
    t0, t1, t2, t3 = t
    if adding:
        a0, a1, b0, b1 = load(work, t0), load(work, t0 + 8), load(work, t1), load(work, t1 + 8)
        c0, c1, d0, d1 = load(work, t2), load(work, t2 + 8), load(work, t3), load(work, t3 + 8)
    else:
        a0, a1 = load(weights, w), load(weights, w + 8)
        b0, b1, c0, c1, d0, d1 = a0, a1, a0, a1, a0, a1
        w += PANEL
    for k in range(count):
        left, right = load(weights, w), load(weights, w + 8)
        w += PANEL
        v = broadcast(inputs, x0 + k)
        a0, a1 = a0 + v * left, a1 + v * right
        v = broadcast(inputs, x1 + k)
        b0, b1 = b0 + v * left, b1 + v * right
        v = broadcast(inputs, x2 + k)
        c0, c1 = c0 + v * left, c1 + v * right
        v = broadcast(inputs, x3 + k)
        d0, d1 = d0 + v * left, d1 + v * right
    store(work, t0, _rectified(a0, relu))
    store(work, t0 + 8, _rectified(a1, relu))
    store(work, t1, _rectified(b0, relu))
    store(work, t1 + 8, _rectified(b1, relu))
    store(work, t2, _rectified(c0, relu))
    store(work, t2 + 8, _rectified(c1, relu))
    store(work, t3, _rectified(d0, relu))
    store(work, t3 + 8, _rectified(d1, relu))


@kernel
def _four_panels(
    inputs: Floats,
    x0: int,
    count: int,
    weights: Floats,
    w: int,
    size: int,
    work: Floats,
    t: int,
    adding: bool,
    relu: bool,
) -> None:
    """Four panels, each of so many numbers, for one row."""
    p, q, r, s = w, w + size, w + 2 * size, w + 3 * size
    if adding:
        a0, a1, b0, b1 = load(work, t), load(work, t + 8), load(work, t + 16), load(work, t + 24)
        c0, c1, d0, d1 = load(work, t + 32), load(work, t + 40), load(work, t + 48), load(work, t + 56)
    else:
        a0, a1, b0, b1 = load(weights, p), load(weights, p + 8), load(weights, q), load(weights, q + 8)
        c0, c1, d0, d1 = load(weights, r), load(weights, r + 8), load(weights, s), load(weights, s + 8)
        p, q, r, s = p + PANEL, q + PANEL, r + PANEL, s + PANEL
    for k in range(count):
        x, step = broadcast(inputs, x0 + k), k * PANEL
        a0, a1 = a0 + x * load(weights, p + step), a1 + x * load(weights, p + step + 8)
        b0, b1 = b0 + x * load(weights, q + step), b1 + x * load(weights, q + step + 8)
        c0, c1 = c0 + x * load(weights, r + step), c1 + x * load(weights, r + step + 8)
        d0, d1 = d0 + x * load(weights, s + step), d1 + x * load(weights, s + step + 8)
    store(work, t, _rectified(a0, relu))
    store(work, t + 8, _rectified(a1, relu))
    store(work, t + 16, _rectified(b0, relu))
    store(work, t + 24, _rectified(b1, relu))
    store(work, t + 32, _rectified(c0, relu))
    store(work, t + 40, _rectified(c1, relu))
    store(work, t + 48, _rectified(d0, relu))
    store(work, t + 56, _rectified(d1, relu))


@kernel
def _one_panel(
    inputs: Floats, x0: int, count: int, weights: Floats, w: int, work: Floats, t: int, adding: bool, relu: bool
) -> None:
    """One panel for one row."""
    if adding:
        a0, a1 = load(work, t), load(work, t + 8)
    else:
        a0, a1 = load(weights, w), load(weights, w + 8)
        w += PANEL
    for k in range(count):
        x = broadcast(inputs, x0 + k)
        a0, a1 = a0 + x * load(weights, w), a1 + x * load(weights, w + 8)
        w += PANEL
    store(work, t, _rectified(a0, relu))
    store(work, t + 8, _rectified(a1, relu))
