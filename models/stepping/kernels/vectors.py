"""Operations on the vectors of a row: softmax, layer norm, sums, copies."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import asinh, exp, tanh
from models.stepping.kernels.lanes import (
    LANES,
    Lanes,
    broadcast,
    first,
    largest,
    load,
    pick_less,
    splat,
    square_root,
    store,
    total,
)
from pipeline.arrays import Floats, Ints
from pipeline.compiled import kernel

NOWHERE = np.float32(-1e30)
"""Stands for minus infinity: e to the power of it is 0, and it does not turn into NaN."""

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


@kernel
def masked(value: Lanes, mask: Lanes, filler: Lanes) -> Lanes:
    """`value` where the mask is 1, else `filler`."""
    return pick_less(mask, splat(_HALF), filler, value)


@kernel
def exponentiate(work: Floats, start: int, count: int) -> np.float32:
    """Turn scores into e^(score - largest) and return their sum; what pads the last lanes becomes 0."""
    end = start + -(-count // LANES) * LANES
    for i in range(start + count, end):
        work[i] = NOWHERE
    high = load(work, start)
    for i in range(start + LANES, end, LANES):
        x = load(work, i)
        high = pick_less(high, x, x, high)
    top, sums = splat(largest(high)), splat(_ZERO)
    for i in range(start, end, LANES):
        e = exp(load(work, i) - top)
        store(work, i, e)
        sums = sums + e
    whole: np.float32 = total(sums)
    return whole


@kernel
def softmax_in_place(work: Floats, start: int, width: int, mask: Lanes) -> None:
    """Softmax of the numbers from `start` on, `width` with the padding that the mask of the last lanes leaves out."""
    last = start + width - LANES
    store(work, last, masked(load(work, last), mask, splat(NOWHERE)))
    high = load(work, start)
    for i in range(start + LANES, last + LANES, LANES):
        x = load(work, i)
        high = pick_less(high, x, x, high)
    top = splat(largest(high))
    sums = splat(_ZERO)
    for i in range(start, last + LANES, LANES):
        e = exp(load(work, i) - top)
        store(work, i, e)
        sums = sums + e
    whole = splat(total(sums))
    for i in range(start, last + LANES, LANES):
        store(work, i, load(work, i) / whole)


@kernel
def softmax(op: Ints, block: Block, rows: Ints) -> None:
    """target = softmax(source / temperature). Operands: source, target, width, temperature, mask."""
    source, target, width = op[2], op[3], op[4]
    temperature, mask = broadcast(block.weights, op[5]), load(block.weights, op[6])
    for row in rows:
        base = block.at[row]
        for i in range(0, width, LANES):
            store(block.work, base + target + i, load(block.work, base + source + i) / temperature)
        softmax_in_place(block.work, base + target, width, mask)


@kernel
def layer_norm(op: Ints, block: Block, rows: Ints) -> None:
    """target = (source - mean) / sqrt(variance + eps) * gain + shift.

    Operands: source, target, size, width, parameters (eps in the first lanes, then gain and shift of `width`), mask.
    """
    source, target, width, parameters = op[2], op[3], op[5], op[6]
    weights, work = block.weights, block.work
    size, mask = splat(np.float32(op[4])), load(weights, op[7])
    eps = weights[parameters]
    gain, shift = parameters + LANES, parameters + LANES + width
    for row in rows:
        x, y = block.at[row] + source, block.at[row] + target
        sums = splat(_ZERO)
        for i in range(0, width - LANES, LANES):
            sums = sums + load(work, x + i)
        sums = sums + masked(load(work, x + width - LANES), mask, splat(_ZERO))
        mean = splat(total(sums)) / size
        squares = splat(_ZERO)
        for i in range(0, width - LANES, LANES):
            away = load(work, x + i) - mean
            squares = squares + away * away
        away = masked(load(work, x + width - LANES) - mean, mask, splat(_ZERO))
        squares = squares + away * away
        variance = splat(total(squares)) / size
        scale = splat(_ONE / square_root(first(variance) + eps))
        for i in range(0, width, LANES):
            normal = (load(work, x + i) - mean) * scale
            store(work, y + i, normal * load(weights, gain + i) + load(weights, shift + i))


@kernel
def add(op: Ints, block: Block, rows: Ints) -> None:
    """target += source. Operands: source, target, width."""
    source, target, width = op[2], op[3], op[4]
    for row in rows:
        base = block.at[row]
        for i in range(0, width, LANES):
            place = base + target + i
            store(block.work, place, load(block.work, place) + load(block.work, base + source + i))


@kernel
def tanh_in_place(op: Ints, block: Block, rows: Ints) -> None:
    """target = tanh(target). Operands: target, width."""
    target, width = op[2], op[3]
    for row in rows:
        base = block.at[row] + target
        for i in range(base, base + width, LANES):
            store(block.work, i, tanh(load(block.work, i)))


@kernel
def squash(op: Ints, block: Block, rows: Ints) -> None:
    """target = asinh(source). Operands: source, target, width."""
    source, target, width = op[2], op[3], op[4]
    for row in rows:
        base = block.at[row]
        for i in range(0, width, LANES):
            store(block.work, base + target + i, asinh(load(block.work, base + source + i)))


@kernel
def copy(op: Ints, block: Block, rows: Ints) -> None:
    """target = source, number by number. Operands: source, target, count."""
    source, target, count = op[2], op[3], op[4]
    for row in rows:
        base = block.at[row]
        for i in range(count):
            block.work[base + target + i] = block.work[base + source + i]


@kernel
def gather(op: Ints, block: Block, rows: Ints) -> None:
    """target = chosen numbers of the source. Operands: source, their places (numbers of the model), count, target."""
    source, places, count, target = op[2], op[3], op[4], op[5]
    for row in rows:
        base = block.at[row]
        for i in range(count):
            block.work[base + target + i] = block.work[base + source + np.int64(block.weights[places + i])]


@kernel
def constant(op: Ints, block: Block, rows: Ints) -> None:
    """target = numbers of the model. Operands: weights, target, count."""
    weights, target, count = op[2], op[3], op[4]
    for row in rows:
        base = block.at[row]
        for i in range(count):
            block.work[base + target + i] = block.weights[weights + i]


@kernel
def largest_of(work: Floats, start: int, count: int) -> int:
    """Which of so many numbers is the largest; of equal ones the first."""
    best = 0
    for i in range(1, count):
        if work[start + i] > work[start + best]:
            best = i
    return best
