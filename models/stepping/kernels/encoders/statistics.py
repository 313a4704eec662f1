"""Streaming statistics of readings (models.encoders.experts.statistics)."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import asinh, log
from models.stepping.kernels.encoders.recurrent import without_dust
from models.stepping.kernels.lanes import LANES, broadcast, load, pick_less, splat, store
from pipeline.arrays import Ints
from pipeline.compiled import kernel

_LARGEST_SQUARE = np.float32(400)
_LEAST_VARIANCE = np.float32(0.02)


@kernel
def streaming_statistics(op: Ints, block: Block, rows: Ints) -> None:
    """Readings, then running means and log variances of each span, each scaled and as arcsinh.

    Operands: readings, width, spans, means and variances in the state, rates, shifts and scales (for each of the
    1 + 2 * spans vectors), target.
    """
    readings, width, spans, means, variances = op[2], op[3], op[4], op[5], op[6]
    rates, shifts, scales, target = op[7], op[8], op[9], op[10]
    work, states, weights = block.work, block.states, block.weights
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        for j in range(0, width, LANES):
            x = load(work, base + readings + j)
            store(work, base + target + j, asinh((x - load(weights, shifts + j)) * load(weights, scales + j)))
            for k in range(spans):
                rate, place, spread = broadcast(weights, rates + k), state + means + k * width + j, k * width + j
                mean = load(states, place)
                away = x - mean
                mean = without_dust(mean + rate * away)
                store(states, place, mean)
                square = away * away
                square = pick_less(splat(_LARGEST_SQUARE), square, splat(_LARGEST_SQUARE), square)
                variance = load(states, state + variances + spread)
                variance = without_dust(variance + rate * (square - variance))
                store(states, state + variances + spread, variance)
                at = (1 + 2 * k) * width + j
                scaled = (mean - load(weights, shifts + at)) * load(weights, scales + at)
                store(work, base + target + at, asinh(scaled))
                at += width
                scaled = log(variance + splat(_LEAST_VARIANCE)) - load(weights, shifts + at)
                store(work, base + target + at, asinh(scaled * load(weights, scales + at)))
