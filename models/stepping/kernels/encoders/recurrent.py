"""Operations that carry a machine's state from frame to frame: LSTM cells, running means, queues, linear memories."""

from __future__ import annotations

import numpy as np

from models.stepping.kernels.block import Block
from models.stepping.kernels.elementary import sigmoid, tanh
from models.stepping.kernels.lanes import LANES, Lanes, absolute, broadcast, load, pick_less, splat, store
from pipeline.arrays import Ints
from pipeline.compiled import kernel

_ZERO = np.float32(0)
_GRAIN = np.float32(1e-30)


@kernel
def without_dust(x: Lanes) -> Lanes:
    """Numbers below 1e-30 as 0: what fades for long would otherwise pass float32's normal range, where a processor
    computes many times slower."""
    return pick_less(absolute(x), splat(_GRAIN), splat(_ZERO), x)


@kernel
def lstm_cell(op: Ints, block: Block, rows: Ints) -> None:
    """c = f c + i g, h = o tanh(c) from gates i, f, g, o before their activations (docs/guide/models.md).

    Operands: gates, width of one gate, h and c in the state, target for h.
    """
    gates, width, h, c, target = op[2], op[3], op[4], op[5], op[6]
    work, states = block.work, block.states
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        for j in range(0, width, LANES):
            g = base + gates + j
            i, f = sigmoid(load(work, g)), sigmoid(load(work, g + width))
            cell = f * load(states, state + c + j) + i * tanh(load(work, g + 2 * width))
            output = sigmoid(load(work, g + 3 * width)) * tanh(cell)
            store(states, state + c + j, cell)
            store(states, state + h + j, output)
            store(work, base + target + j, output)


@kernel
def running_means(op: Ints, block: Block, rows: Ints) -> None:
    """Running means of readings and of their changes: mean += rate (x - mean).

    Operands: readings, width, trends, spreads, means and last readings in the state, rates, target. The target gets
    each reading's distance from each trend, then each spread, `width` numbers each.
    """
    readings, width, trends, spreads = op[2], op[3], op[4], op[5]
    means, last, rates, target = op[6], op[7], op[8], op[9]
    work, states = block.work, block.states
    for row in rows:
        base, state = block.at[row], block.state_at[row]
        for j in range(0, width, LANES):
            x = load(work, base + readings + j)
            change = absolute(x - load(states, state + last + j))
            store(states, state + last + j, x)
            for k in range(trends + spreads):
                place = state + means + k * width + j
                mean = load(states, place)
                away = (x if k < trends else change) - mean
                mean = without_dust(mean + broadcast(block.weights, rates + k) * away)
                store(states, place, mean)
                store(work, base + target + k * width + j, x - mean if k < trends else mean)


@kernel
def push_queue(op: Ints, block: Block, rows: Ints) -> None:
    """Drop a queue's oldest vector and append one. Operands: source, width, queue in the state, length."""
    source, width, queue, length = op[2], op[3], op[4], op[5]
    for row in rows:
        first = block.state_at[row] + queue
        last = first + (length - 1) * width
        for i in range(first, last, LANES):
            store(block.states, i, load(block.states, i + width))
        for i in range(0, width, LANES):
            store(block.states, last + i, load(block.work, block.at[row] + source + i))


@kernel
def linear_memory(op: Ints, block: Block, rows: Ints) -> None:
    """S = G S + (1 - G) k v^T per head, read as q S, with G the sigmoid of the gate, one for each key.

    Operands: queries, keys, values, gates (each of heads * width numbers), heads, keys of a head, width of a head,
    memory in the state, target.
    """
    queries, keys, values, gates, heads, size, width = op[2], op[3], op[4], op[5], op[6], op[7], op[8]
    memory, target = op[9], op[10]
    work, states = block.work, block.states
    for row in rows:
        base, state = block.at[row], block.state_at[row] + memory
        for i in range(0, heads * width, LANES):
            gate, place = load(work, base + gates + i), base + keys + i
            store(work, place, load(work, place) * sigmoid(splat(_ZERO) - gate))
            store(work, base + gates + i, sigmoid(gate))
        for head in range(heads):
            offset = head * width
            for j in range(0, width, LANES):
                value, read = load(work, base + values + offset + j), splat(_ZERO)
                for i in range(size):
                    place = state + (head * size + i) * width + j
                    kept = load(states, place) * broadcast(work, base + gates + offset + i)
                    kept = without_dust(kept + broadcast(work, base + keys + offset + i) * value)
                    store(states, place, kept)
                    read = read + kept * broadcast(work, base + queries + offset + i)
                store(work, base + target + offset + j, read)
