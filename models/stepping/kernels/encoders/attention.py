"""Attention over the frames in a machine's ring, in place: each step writes one frame and reads all."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.lanes import LANES, Lanes, broadcast, counting, load, pick_less, splat, store, totals
from models.stepping.kernels.vectors import exponentiate
from pipeline.arrays import Floats, Ints
from pipeline.compiled import kernel

_ZERO = np.float32(0)
_CHUNK = 4 * LANES


@kernel
def ring_attention(op: Ints, block: Block, rows: Ints) -> None:
    """Put a frame into the ring, and for each head target = sum_p a_p u_p with a = softmax(asked . u_p - slope age_p).

    Operands: the frame, width, ring and count in the state, window, heads, asked (a vector for each head), slopes,
    target (a vector for each head), scores (room for `window` numbers in whole lanes for each head).
    """
    frame, width, ring, count, window, heads = op[2], op[3], op[4], op[5], op[6], op[7]
    asked, slopes, target, scores = op[8], op[9], op[10], op[11]
    line = -(-window // LANES) * LANES
    work, states = block.work, block.states
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        before = np.int64(states[state + count])
        here, filled = before % window, min(before + 1, window)
        places = state + ring
        for j in range(0, width, LANES):
            store(states, places + here * width + j, load(work, base + frame + j))
        for head in range(heads):
            slope = broadcast(block.weights, slopes + head)
            for place in range(0, filled, LANES):
                found = _products(work, base + asked + head * width, states, places, place, filled, width)
                age = splat(np.float32(here - place)) - counting()
                # Places beyond the present one were written a whole turn of the ring ago.
                age = pick_less(age, splat(_ZERO), age + splat(np.float32(window)), age)
                store(work, base + scores + head * line + place, found - slope * age)
        for head in range(heads):
            own = base + scores + head * line
            whole = exponentiate(work, own, filled)
            for j in range(own, own + line, LANES):
                store(work, j, load(work, j) / splat(whole))
        _mix(states, places, width, filled, heads, work, base + scores, line, base + target)


@kernel
def _products(work: Floats, question: int, states: Floats, places: int, place: int, filled: int, width: int) -> Lanes:
    """Products of a question with eight frames, from `place` on; beyond the last filled place it stands for them."""
    last = filled - 1
    p0 = places + place * width
    p1, p2 = places + min(place + 1, last) * width, places + min(place + 2, last) * width
    p3, p4 = places + min(place + 3, last) * width, places + min(place + 4, last) * width
    p5, p6 = places + min(place + 5, last) * width, places + min(place + 6, last) * width
    p7 = places + min(place + 7, last) * width
    a = b = c = d = e = f = g = h = splat(_ZERO)
    for j in range(0, width, LANES):
        q = load(work, question + j)
        a, b = a + q * load(states, p0 + j), b + q * load(states, p1 + j)
        c, d = c + q * load(states, p2 + j), d + q * load(states, p3 + j)
        e, f = e + q * load(states, p4 + j), f + q * load(states, p5 + j)
        g, h = g + q * load(states, p6 + j), h + q * load(states, p7 + j)
    return totals(a, b, c, d, e, f, g, h)


@kernel
def _mix(
    states: Floats,
    places: int,
    width: int,
    filled: int,
    heads: int,
    work: Floats,
    shares: int,
    line: int,
    target: int,
) -> None:
    """For each head target = sum over filled places of share * frame; two heads read a frame together."""
    for head in range(0, heads, 2):
        one = shares + head * line
        other = one + line if head + 1 < heads else one
        left, right = target + head * width, target + min(head + 1, heads - 1) * width
        j = 0
        while j + _CHUNK <= width:
            a = b = c = d = e = f = g = h = splat(_ZERO)
            frame = places + j
            for place in range(filled):
                x, y = broadcast(work, one + place), broadcast(work, other + place)
                u = load(states, frame)
                a, e = a + x * u, e + y * u
                u = load(states, frame + 8)
                b, f = b + x * u, f + y * u
                u = load(states, frame + 16)
                c, g = c + x * u, g + y * u
                u = load(states, frame + 24)
                d, h = d + x * u, h + y * u
                frame += width
            store(work, left + j, a)
            store(work, left + j + 8, b)
            store(work, left + j + 16, c)
            store(work, left + j + 24, d)
            store(work, right + j, e)
            store(work, right + j + 8, f)
            store(work, right + j + 16, g)
            store(work, right + j + 24, h)
            j += _CHUNK
        while j < width:
            a = e = splat(_ZERO)
            frame = places + j
            for place in range(filled):
                u = load(states, frame)
                a, e = a + broadcast(work, one + place) * u, e + broadcast(work, other + place) * u
                frame += width
            store(work, left + j, a)
            store(work, right + j, e)
            j += LANES


@kernel
def count_frame(op: Ints, block: Block, rows: Ints) -> None:
    """The number of frames that a ring has seen, counted on beyond 2 W as W to 2 W. Operands: count, window."""
    count, window = op[2], op[3]
    for row in rows:
        place = block.state_at[row] + count
        frames = np.int64(block.states[place]) + 1
        if frames >= 2 * window:
            frames = window + frames % window
        block.states[place] = np.float32(frames)
