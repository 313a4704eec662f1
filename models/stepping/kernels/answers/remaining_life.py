"""Remaining life: shares of a cap as frames, bounded and in order (models.fusion.remaining_life)."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from pipeline.arrays import Ints
from pipeline.compiled import kernel

_ZERO, _ONE = np.float32(0), np.float32(1)


@kernel
def bounded(op: Ints, block: Block, rows: Ints) -> None:
    """target = estimate, low and high in frames, 0 <= low <= estimate <= high <= cap.

    Operands: shares of the cap, numbers (margin in shares, cap in frames), target.
    """
    shares, target = op[2], op[4]
    margin, cap = block.weights[op[3]], block.weights[op[3] + 1]
    work = block.work
    for row in rows:
        base = block.at[row]
        estimate = min(max(work[base + shares], _ZERO), _ONE)
        low = min(max(work[base + shares + 1] - margin, _ZERO), estimate)
        high = max(min(work[base + shares + 2] + margin, _ONE), estimate)
        work[base + target] = estimate * cap
        work[base + target + 1] = low * cap
        work[base + target + 2] = high * cap
