"""The detector: residuals, their statistics, the novelty, and what it adds (models.encoders.experts.detector)."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import log
from models.stepping.kernels.encoders.recurrent import without_dust
from models.stepping.kernels.lanes import LANES, Lanes, broadcast, first, load, pick_less, splat, store, total
from models.stepping.kernels.vectors import masked
from pipeline.arrays import Ints
from pipeline.compiled import kernel

_ZERO, _ONE = np.float32(0), np.float32(1)
_LEAST_SQUARE = np.float32(0.02)
_LARGEST_NOVELTY = np.float32(1e9)


@kernel
def _bounded(x: Lanes, bound: Lanes) -> Lanes:
    low = splat(_ZERO) - bound
    return pick_less(x, low, low, pick_less(bound, x, bound, x))


@kernel
def residuals(op: Ints, block: Block, rows: Ints) -> None:
    """What the last forecast missed, and what enters the next one.

    Operands: readings, known bits, observed bits, width, forecast and frames seen in the state, warm-up in frames,
    clip and how many readings a frame has to have, target for the inputs, target for the residuals, target for 1 where
    there is evidence.
    """
    readings, known, observed, width, forecast, seen, warm_up = op[2], op[3], op[4], op[5], op[6], op[7], op[8]
    clip, least = broadcast(block.weights, op[9]), block.weights[op[9] + 1]
    inputs, missed, evidence = op[10], op[11], op[12]
    work, states = block.work, block.states
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        count = splat(_ZERO)
        for j in range(0, width, LANES):
            count = count + load(work, base + observed + j)
        if total(count) < least:
            states[state + seen] = _ZERO
        ready = splat(_ONE if states[state + seen] >= np.float32(warm_up) else _ZERO)
        for j in range(0, width, LANES):
            x, expected = _bounded(load(work, base + readings + j), clip), load(states, state + forecast + j)
            judged = load(work, base + observed + j) * ready
            store(work, base + evidence + j, judged)
            store(work, base + missed + j, masked(x - expected, judged, splat(_ZERO)))
            store(work, base + inputs + j, masked(x, load(work, base + known + j), _bounded(expected, clip)))


@kernel
def residual_statistics(op: Ints, block: Block, rows: Ints) -> None:
    """Running means of whitened residuals, and logs of those of their squares, less what they are normally.

    Operands: residuals, evidence, width, spans of means, spans of squares, means and squares in the state, rates, bound
    and largest square in a row, centres, target.
    """
    residual, evidence, width, averages, spreads = op[2], op[3], op[4], op[5], op[6]
    means, squares, rates, bounds, centres, target = op[7], op[8], op[9], op[10], op[11], op[12]
    work, states, weights = block.work, block.states, block.weights
    bound = broadcast(weights, bounds)
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        for j in range(0, width, LANES):
            z, judged = _bounded(load(work, base + residual + j), bound), load(work, base + evidence + j)
            for k in range(averages):
                place = state + means + k * width + j
                mean = load(states, place)
                mean = masked(without_dust(mean + broadcast(weights, rates + k) * (z - mean)), judged, mean)
                store(states, place, mean)
                store(work, base + target + k * width + j, mean - load(weights, centres + k * width + j))
            square = z * z
            for k in range(spreads):
                place, at = state + squares + k * width + j, (averages + k) * width + j
                mean = load(states, place)
                rate = broadcast(weights, rates + averages + k)
                mean = masked(without_dust(mean + rate * (square - mean)), judged, mean)
                store(states, place, mean)
                shown = log(mean + splat(_LEAST_SQUARE)) - load(weights, centres + at)
                store(work, base + target + at, shown)


@kernel
def novelty(op: Ints, block: Block, rows: Ints) -> None:
    """The largest distance of a block in shares of its limit, and what each variable contributes to it.

    Without any evidence both are 0.

    Operands: vectors whose squared lengths are the distances, numbers from one to the next, width, blocks, limits,
    target for the novelty, target for the contributions, 1 where there is evidence.
    """
    vectors, stride, width, blocks, limits, target, deviations = op[2], op[3], op[4], op[5], op[6], op[7], op[8]
    evidence, work, weights = op[9], block.work, block.weights
    for row in rows:
        base = block.at[row]
        judged = splat(_ZERO)
        for j in range(0, width, LANES):
            judged = judged + load(work, base + evidence + j)
        if not total(judged) > _ZERO:
            work[base + target] = _ZERO
            for j in range(0, width, LANES):
                store(work, base + deviations + j, splat(_ZERO))
            continue
        largest, which = np.float32(-1), 0
        for k in range(blocks):
            squares = splat(_ZERO)
            for j in range(0, width, LANES):
                away = load(work, base + vectors + k * stride + j)
                squares = squares + away * away
            share = total(squares) / weights[limits + k]
            if not share <= _LARGEST_NOVELTY:
                share = _LARGEST_NOVELTY
            if share > largest:
                largest, which = share, k
        work[base + target] = largest
        limit = broadcast(weights, limits + which)
        for j in range(0, width, LANES):
            away = load(work, base + vectors + which * stride + j)
            store(work, base + deviations + j, away * away / limit)


@kernel
def keep_forecast(op: Ints, block: Block, rows: Ints) -> None:
    """Keep the forecast of the next frame, and count this one. Operands: source, width, forecast and frames seen in the
    state, where counting ends."""
    source, width, forecast, seen, enough = op[2], op[3], op[4], op[5], np.float32(op[6])
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        for j in range(0, width, LANES):
            store(block.states, state + forecast + j, load(block.work, base + source + j))
        block.states[state + seen] = min(block.states[state + seen] + _ONE, enough)


@kernel
def back(op: Ints, block: Block, rows: Ints) -> None:
    """Add the detector's surprise to the logits of visible faults while it is armed.

    Operands: logits, classes, novelty, armed and quiet frames in the state, quiet frames that arm, quiet level
    of the novelty, weights of the classes.
    """
    logits, classes, novel, armed, calm, enough = op[2], op[3], op[4], op[5], op[6], np.float32(op[7])
    quiet, backing = block.weights[op[8]], op[9]
    work, states = block.work, block.states
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        x = work[base + novel]
        frames = min(states[state + calm] + _ONE, enough) if x < quiet else _ZERO
        states[state + calm] = frames
        visible, others = np.float32(-np.inf), np.float32(-np.inf)
        for c in range(classes):
            if block.weights[backing + c] > _ZERO:
                visible = max(visible, work[base + logits + c])
            else:
                others = max(others, work[base + logits + c])
        if frames >= enough:
            states[state + armed] = _ONE
        if visible > others:
            states[state + armed] = _ZERO
        if states[state + armed] != _ZERO:
            surprise = splat(first(log(splat(max(x / quiet, _ONE)))))
            for j in range(0, classes, LANES):
                place = base + logits + j
                store(work, place, load(work, place) + surprise * load(block.weights, backing + j))
