"""What calls a fault unknown, after the fusion (models.fusion.unknown)."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.lanes import LANES, load, splat, square_root, total
from models.stepping.kernels.vectors import largest_of
from pipeline.arrays import Floats, Ints
from pipeline.compiled import kernel

# Where a model's rules stand in its numbers.
LIMIT, RATE, FRAMES_IN_ROW, QUIET_FRAMES = 0, 1, 2, 3
BY_DISTANCE, BY_CONTRADICTION, ALWAYS = 4, 5, 6
WEIGHT, USUAL_LENGTH = 7, 8

# Where a state has what.
SMOOTHED, ROW, CALM = 0, 1, 2

_ZERO, _ONE = np.float32(0), np.float32(1)
_FARTHEST = np.float32(np.finfo(np.float32).max)


@kernel
def unknown(op: Ints, block: Block, rows: Ints) -> None:
    """target = [(1 - u) P, u].

    Operands: features times root, their width, centres and how many, rules, state of the distance and the counts, state
    of being armed, novelty, P and its size, how many of these are faults with the normal state, modalities, target.
    """
    features, width, centres, count, rules, state, armed = op[2], op[3], op[4], op[5], op[6], op[7], op[8]
    novelties, fused, classes, faults, modalities, target = op[9], op[10], op[11], op[12], op[13], op[14]
    work, weights, states = block.work, block.weights, block.states
    for row in rows:
        base, own = block.at[row], block.state_at[row] + state
        is_armed = block.state_at[row] + armed
        novelty = work[base + novelties]
        answer = largest_of(work, base + fused, classes)
        names_fault, is_novel = 0 < answer < faults, novelty > _ONE
        if count and work[base + block.present_at] != _ZERO:
            distance = _nearest(block, base + features, width, centres, count)
            if weights[rules + WEIGHT] != _ZERO:
                lacking = weights[rules + USUAL_LENGTH] - _length(block, base + features, width)
                distance += weights[rules + WEIGHT] * max(lacking, _ZERO)
            states[own + SMOOTHED] += weights[rules + RATE] * (distance - states[own + SMOOTHED])
        _count(states, own + ROW, is_novel and not names_fault, weights[rules + FRAMES_IN_ROW])
        _count(states, own + CALM, not (is_novel or names_fault), weights[rules + QUIET_FRAMES])
        if states[own + CALM] >= weights[rules + QUIET_FRAMES]:
            states[is_armed] = _ONE
        if names_fault:
            states[is_armed] = _ZERO
        fires = weights[rules + ALWAYS] != _ZERO
        if weights[rules + BY_DISTANCE] != _ZERO and is_novel and answer < faults:
            fires |= states[own + SMOOTHED] > weights[rules + LIMIT]
        if weights[rules + BY_CONTRADICTION] != _ZERO and states[is_armed] != _ZERO:
            fires |= states[own + ROW] >= weights[rules + FRAMES_IN_ROW]
        share = novelty / (_ONE + novelty) if fires and _is_any_present(block, base, modalities) else _ZERO
        for c in range(classes):
            work[base + target + c] = work[base + fused + c] * (_ONE - share)
        work[base + target + classes] = share


@kernel
def _count(states: Floats, at: int, goes_on: bool, most: np.float32) -> None:
    """One more, but no more than `most`, or none."""
    states[at] = min(states[at] + _ONE, most) if goes_on else _ZERO


@kernel
def _is_any_present(block: Block, base: int, modalities: int) -> bool:
    present = False
    for m in range(modalities):
        present |= block.work[base + block.present_at + m] != _ZERO
    return present


@kernel
def _nearest(block: Block, features: int, width: int, centres: int, count: int) -> np.float32:
    """Distance to the nearest centre."""
    nearest = _FARTHEST
    for k in range(count):
        sums = splat(_ZERO)
        for j in range(0, width, LANES):
            away = load(block.work, features + j) - load(block.weights, centres + k * width + j)
            sums = sums + away * away
        nearest = min(nearest, total(sums))
    distance: np.float32 = square_root(nearest)
    return distance


@kernel
def _length(block: Block, features: int, width: int) -> np.float32:
    sums = splat(_ZERO)
    for j in range(0, width, LANES):
        own = load(block.work, features + j)
        sums = sums + own * own
    length: np.float32 = square_root(total(sums))
    return length
