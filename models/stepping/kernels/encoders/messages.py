"""Counts and ages of a machine's frequent messages (models.encoders.messages)."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import asinh, log
from models.stepping.kernels.lanes import LANES, broadcast, load, pick_less, splat, store
from pipeline.arrays import Ints
from pipeline.compiled import kernel

_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel
def count_messages(op: Ints, block: Block, rows: Ints) -> None:
    """Take a frame's messages in; then scaled counts of each window, and the log of the age of the last of each.

    Operands: the frame's counts, and behind them the ages of the newest, -1 if there is none; width; ring, turn, sums
    and ages in the state; frames of the ring, windows, how many, longest age, shifts and scales (for each window and
    the ages), target.
    """
    new, width, ring, turn, sums, ages, longest = op[2], op[3], op[4], op[5], op[6], op[7], op[8]
    windows, number, oldest, shifts, scales, target = op[9], op[10], op[11], op[12], op[13], op[14]
    work, states, weights = block.work, block.states, block.weights
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        here = np.int64(states[state + turn])
        for j in range(0, width, LANES):
            counts = load(work, base + new + j)
            for k in range(number):
                leaving = (here - np.int64(weights[windows + k])) % longest
                place, at = state + sums + k * width + j, k * width + j
                total = load(states, place) + counts - load(states, state + ring + leaving * width + j)
                store(states, place, total)
                scaled = (total - load(weights, shifts + at)) * load(weights, scales + at)
                store(work, base + target + at, asinh(scaled))
        for j in range(0, width, LANES):
            limit = broadcast(weights, oldest)
            store(states, state + ring + here * width + j, load(work, base + new + j))
            age = load(states, state + ages + j) + splat(_ONE)
            age = pick_less(limit, age, limit, age)
            written = load(work, base + new + width + j)
            age = pick_less(written, splat(_ZERO), age, pick_less(written, age, written, age))
            store(states, state + ages + j, age)
            at = number * width + j
            scaled = (log(age + splat(_ONE)) - load(weights, shifts + at)) * load(weights, scales + at)
            store(work, base + target + at, asinh(scaled))
        states[state + turn] = np.float32((here + 1) % longest)
