"""The pool of several experts' answers (models.encoders.experts.pool)."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import log
from models.stepping.kernels.lanes import LANES, broadcast, load, pick_less, splat, store
from models.stepping.kernels.vectors import softmax_in_place
from pipeline.arrays import Ints
from pipeline.compiled import kernel

_ZERO = np.float32(0)
_LEAST = np.float32(1e-12)


@kernel
def pool(op: Ints, block: Block, rows: Ints) -> None:
    """target = bias + log of the experts' pool, with the hidden classes' probability moved to the first class.

    Operands: the experts' probabilities, width of one, experts, weights, least probability of each, share of each class
    that is moved, bias, mask, target.
    """
    answers, width, experts, shares, least = op[2], op[3], op[4], op[5], op[6]
    moves, bias, mask, target = op[7], op[8], load(block.weights, op[9]), op[10]
    work, weights = block.work, block.weights
    for row in rows:
        base = block.at[row]
        pooled = base + target
        for j in range(0, width, LANES):
            mixed = splat(_ZERO)
            for e in range(experts):
                p, smallest = load(work, base + answers + e * width + j), broadcast(weights, least + e)
                mixed = mixed + broadcast(weights, shares + e) * log(pick_less(p, smallest, smallest, p))
            store(work, pooled + j, mixed)
        softmax_in_place(work, pooled, width, mask)
        moved = _ZERO
        for c in range(width):
            part = work[pooled + c] * weights[moves + c]
            work[pooled + c] -= part
            moved += part
        work[pooled] += moved
        for j in range(0, width, LANES):
            p = load(work, pooled + j)
            p = log(pick_less(p, splat(_LEAST), splat(_LEAST), p))
            store(work, pooled + j, p + load(weights, bias + j))
