"""Texts: their vectors, the rings in which machines remember them, and what a ring says (docs/guide/models.md)."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import exp, log, tanh
from models.stepping.kernels.lanes import LANES, broadcast, first, load, splat, store
from models.stepping.kernels.vectors import exponentiate
from pipeline.arrays import Floats, Ints
from pipeline.compiled import kernel

_ZERO, _QUARTER, _ONE = np.float32(0), np.float32(0.25), np.float32(1)
_EMPTY = np.float32(-1)
AGE_FEATURES = 4


@kernel
def turn_ring(states: Floats, ring: int, ages: int, places: int, width: int, ttl: np.float32) -> None:
    """One frame passes: texts grow older, and those older than `ttl` frames are dropped."""
    for e in range(places):
        age = states[ages + e]
        if age < _ZERO:
            break
        age += _ONE
        if age > ttl:
            _clear(states, ring, ages, e, width)
        else:
            states[ages + e] = age


@kernel
def push_text(
    states: Floats,
    ring: int,
    ages: int,
    places: int,
    width: int,
    size: int,
    vectors: Floats,
    vector: int,
    age: np.float32,
) -> None:
    """Put a text before all that are as old as it or older; the oldest falls out of a full ring."""
    at = 0
    while at < places and _ZERO <= states[ages + at] < age:
        at += 1
    if at == places:
        return
    for e in range(places - 1, at, -1):
        states[ages + e] = states[ages + e - 1]
        for j in range(width):
            states[ring + e * width + j] = states[ring + (e - 1) * width + j]
    states[ages + at] = age
    for j in range(size):
        states[ring + at * width + j] = vectors[vector + j]


@kernel
def _clear(states: Floats, ring: int, ages: int, place: int, width: int) -> None:
    states[ages + place] = _EMPTY
    for j in range(width):
        states[ring + place * width + j] = _ZERO


@kernel
def text_age(op: Ints, block: Block, rows: Ints) -> None:
    """log(1 + age) / 4 and exp(-age / scale) for three scales. Operands: age in the state, scales, target."""
    place, scales, target = op[2], op[3], op[4]
    for row in rows:
        base, age = block.at[row] + target, block.states[block.state_at[row] + place]
        block.work[base] = first(log(splat(_ONE + age)) * splat(_QUARTER))
        for k in range(AGE_FEATURES - 1):
            block.work[base + 1 + k] = first(exp(splat(-age / block.weights[scales + k])))


@kernel
def text_pool(op: Ints, block: Block, rows: Ints) -> None:
    """What a ring says: values and age features, weighed by softmax(score - age / tau) over the texts in the ring.

    Operands: values (each of `width` numbers with the score behind them), numbers from one value to the next, width,
    age features, numbers from one of them to the next, log tau, ages in the state, places, shares (room for one a
    place in whole lanes), targets for value, weighed ages, and the youngest text's ages.
    """
    values, stride, width, features, step, log_tau = op[2], op[3], op[4], op[5], op[6], op[7]
    ages, places, shares, target, aged, youngest = op[8], op[9], op[10], op[11], op[12], op[13]
    work = block.work
    tau = first(exp(broadcast(block.weights, log_tau)))
    for row in rows:
        base, state = block.at[row], block.state_at[row] + ages
        count = 0
        while count < places and block.states[state + count] >= _ZERO:
            work[base + shares + count] = (
                work[base + values + count * stride + width] - block.states[state + count] / tau
            )
            count += 1
        whole = exponentiate(work, base + shares, count)
        for j in range(0, width, LANES):
            pooled = splat(_ZERO)
            for e in range(count):
                share = splat(work[base + shares + e] / whole)
                pooled = pooled + share * tanh(load(work, base + values + e * stride + j))
            store(work, base + target + j, pooled)
        for k in range(AGE_FEATURES):
            pooled_age = _ZERO
            for e in range(count):
                pooled_age += work[base + shares + e] / whole * work[base + features + e * step + k]
            work[base + aged + k] = pooled_age
            work[base + youngest + k] = work[base + features + k]
