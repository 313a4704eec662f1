"""Exact statistics of windows, distances from an own start, and decision trees (models.encoders.experts.trees)."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import log
from models.stepping.kernels.lanes import LANES, broadcast, load, pick_less, roots, splat, store
from pipeline.arrays import Ints
from pipeline.compiled import kernel

_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST_START_VARIANCE = np.float32(1e-4)
LEAF: int = -1
"""What a leaf looks at."""
NODE: int = 4
"""Numbers of a node: what it looks at (-1 of a leaf), threshold, left child or number of the leaf, right child."""


@kernel
def window_statistics(op: Ints, block: Block, rows: Ints) -> None:
    """Put a frame into the ring; then mean, deviation, minimum and maximum of each window, from the newest frame back.

    Operands: readings, width, ring and count in the state, frames of the ring, windows, how many, target (four vectors
    for each window).
    """
    readings, width, ring, count, longest = op[2], op[3], op[4], op[5], op[6]
    windows, number, target = op[7], op[8], op[9]
    work, states = block.work, block.states
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        places, before = state + ring, np.int64(states[state + count])
        here = before % longest
        for j in range(0, width, LANES):
            store(states, places + here * width + j, load(work, base + readings + j))
        for k in range(number):
            frames = min(before + 1, np.int64(block.weights[windows + k]))
            size = splat(np.float32(frames))
            for j in range(0, width, LANES):
                total = low = high = load(work, base + readings + j)
                place = here
                for _ in range(1, frames):
                    place = longest - 1 if place == 0 else place - 1
                    x = load(states, places + place * width + j)
                    total = total + x
                    low, high = pick_less(x, low, x, low), pick_less(high, x, x, high)
                mean = total / size
                away = load(work, base + readings + j) - mean
                squares = away * away
                place = here
                for _ in range(1, frames):
                    place = longest - 1 if place == 0 else place - 1
                    away = load(states, places + place * width + j) - mean
                    squares = squares + away * away
                at = base + target + 4 * k * width + j
                store(work, at, mean)
                store(work, at + width, roots(squares / size))
                store(work, at + 2 * width, low)
                store(work, at + 3 * width, high)


@kernel
def own_start(op: Ints, block: Block, rows: Ints) -> None:
    """Distances from the mean of a machine's first frames: of the reading, the same in deviations, of a window's mean.

    Operands: readings, width, sums and squares in the state, count in the state, how many first frames, the window's
    mean, target (three vectors).
    """
    readings, width, sums, squares, count = op[2], op[3], op[4], op[5], op[6]
    first, recent, target = op[7], op[8], op[9]
    work, states = block.work, block.states
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        before = np.int64(states[state + count])
        number = splat(np.float32(min(before + 1, first)))
        for j in range(0, width, LANES):
            x = load(work, base + readings + j)
            total, square = load(states, state + sums + j), load(states, state + squares + j)
            if before < first:
                total, square = total + x, square + x * x
                store(states, state + sums + j, total)
                store(states, state + squares + j, square)
            mean = total / number
            variance = square / number - mean * mean
            least = splat(_LEAST_START_VARIANCE)
            away = x - mean
            store(work, base + target + j, away)
            deviation = roots(pick_less(variance, least, least, variance))
            store(work, base + target + width + j, away / deviation)
            store(work, base + target + 2 * width + j, load(work, base + recent + j) - mean)


@kernel
def follow_trees(op: Ints, block: Block, rows: Ints) -> None:
    """target = base + what the leaves that a row reaches say; the logarithm of it for shares of votes.

    Operands: nodes (`NODE` numbers each, with places in working memory as what they look at), roots, offsets, trees,
    leaves, numbers of a leaf, base, classes in whole lanes, 1 for a logarithm, the least number (in the first lane),
    target.
    """
    nodes, starts, offsets, trees, leaves, leaf_width = op[2], op[3], op[4], op[5], op[6], op[7]
    start, width, logarithm, least, target = op[8], op[9], op[10] == 1, op[11], op[12]
    work, weights = block.work, block.weights
    for row in rows:
        base = block.at[row]
        answer = base + target
        for j in range(0, width, LANES):
            store(work, answer + j, load(weights, start + j))
        for tree in range(trees):
            node = nodes + NODE * np.int64(weights[starts + tree])
            column = np.int64(weights[node])
            while column != LEAF:
                child = 2 if work[base + column] <= weights[node + 1] else 3
                node = nodes + NODE * np.int64(weights[node + child])
                column = np.int64(weights[node])
            leaf = leaves + leaf_width * np.int64(weights[node + 2])
            at = answer + np.int64(weights[offsets + tree])
            for i in range(leaf_width):
                work[at + i] += weights[leaf + i]
        if logarithm:
            smallest = broadcast(weights, least)
            for j in range(0, width, LANES):
                x = load(work, answer + j)
                store(work, answer + j, log(pick_less(x, smallest, smallest, x)))
