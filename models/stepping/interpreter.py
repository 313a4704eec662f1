"""The compiled step: one function that takes a round through a model's program, block by block.

What a model computes is a table of operations (models.stepping.program), so this is compiled once for every model.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.stepping import codes
from models.stepping.block import Block
from models.stepping.codes import FIRST_OF_MODALITIES
from models.stepping.operation import SOURCES, call
from models.stepping.texts import push_text, turn_ring
from pipeline.compiled import CompiledFunction, kernel
from pipeline.frames import Bools, Floats, Ints

BLOCK_ROWS: Final = 16
"""Machines of a round that are taken through the program together: enough to use each weight several times while it is
in a core's cache, and few enough for their working memory to stay there too."""

# What a step answers.
DONE: Final = 0
TWICE: Final = 1
"""A slot stands in the round twice."""
TOO_SMALL: Final = 2
"""A slot lies beyond the arena."""

# Where `layout` holds what.
VARIABLES, CLASSES, MODALITIES, STATE_SIZE, WORK_SIZE = 0, 1, 2, 3, 4
READINGS, OBSERVED, PRESENT, PROBABILITIES, ANSWERS = 5, 6, 7, 8, 9
ANSWER_STRIDE, WEIGHTS, ATTENTION, SCALING, PLACES = 10, 11, 12, 13, 14
RING, RING_WIDTH, AGES, TEXT_TTL, TEXT_SIZE = 15, 16, 17, 18, 19
LAYOUT_SIZE: Final = 20

_ZERO, _ONE = np.float32(0), np.float32(1)
_LARGEST = np.float32(np.finfo(np.float32).max)


def step(
    layout: Ints,
    program: Ints,
    weights: Floats,
    initial: Floats,
    states: Floats,
    stamps: Ints,
    work: Floats,
    slots: Ints,
    values: Floats,
    observed: Bools,
    reset: Bools,
    text_rows: Ints,
    text_vectors: Ints,
    text_ages: Floats,
    vectors: Floats,
    probabilities: Floats,
    answers: Floats,
    modality_weights: Floats,
    present: Bools,
    scaled: Floats,
    attention: Floats,
) -> int:
    """Advance the machines in `slots` by one frame and write what the model says; nothing is changed unless DONE.

    `states` (S * state size,) and `stamps` (S + 1,), whose last number is the round's, belong to the arena; `work` is
    memory for `BLOCK_ROWS` rows. Texts are in the order of their rows, oldest first within one; `text_vectors` are
    lines of `vectors`. `attention` is empty for models without.
    """
    status = _admit(slots, stamps)
    if status != DONE:
        return status
    size, width, modalities = layout[STATE_SIZE], layout[WORK_SIZE], layout[MODALITIES]
    at, state_at = np.empty(BLOCK_ROWS, np.int64), np.empty(BLOCK_ROWS, np.int64)
    for r in range(BLOCK_ROWS):
        at[r] = r * width
    block = Block(weights, work, states, at, state_at, layout[PRESENT])
    sets = FIRST_OF_MODALITIES + 3 * modalities + layout[PLACES]
    members, counts = np.empty((sets, BLOCK_ROWS), np.int64), np.empty(sets, np.int64)
    text = 0
    for begin in range(0, len(slots), BLOCK_ROWS):
        count = min(BLOCK_ROWS, len(slots) - begin)
        for r in range(count):
            state_at[r] = slots[begin + r] * size
            if reset[begin + r]:
                for i in range(size):
                    states[state_at[r] + i] = initial[i]
        text = _take_texts(layout, block, begin, count, text, text_rows, text_vectors, text_ages, vectors)
        for r in range(count):
            _scale(layout, block, r, begin + r, values, observed, scaled)
        _sort_rows(layout, block, count, members, counts)
        for i in range(len(program)):
            number = counts[program[i, 1]]
            if number:
                call(
                    program[i, 0],
                    program[i],
                    weights,
                    work,
                    states,
                    at,
                    state_at,
                    members[program[i, 1]],
                    number,
                    layout[PRESENT],
                )
        for r in range(count):
            _answer(layout, block, r, begin + r, probabilities, answers, modality_weights, present, attention)
    return DONE


@kernel
def _admit(slots: Ints, stamps: Ints) -> int:
    """DONE if each slot is in the arena and stands in the round once; else what is wrong."""
    last = len(stamps) - 1
    stamps[last] += 1
    for i in range(len(slots)):
        if slots[i] >= last:
            return TOO_SMALL
        if stamps[slots[i]] == stamps[last]:
            return TWICE
        stamps[slots[i]] = stamps[last]
    return DONE


@kernel
def _take_texts(
    layout: Ints,
    block: Block,
    begin: int,
    count: int,
    text: int,
    text_rows: Ints,
    text_vectors: Ints,
    text_ages: Floats,
    vectors: Floats,
) -> int:
    """Let the texts of a block's machines grow older, and put new ones into their rings; returns the next new text."""
    places, width, ttl = layout[PLACES], layout[RING_WIDTH], np.float32(layout[TEXT_TTL])
    if not places:
        return text
    for r in range(count):
        ring, ages = block.state_at[r] + layout[RING], block.state_at[r] + layout[AGES]
        turn_ring(block.states, ring, ages, places, width, ttl)
        while text < len(text_rows) and text_rows[text] == begin + r:
            age = max(text_ages[text], _ZERO)
            if age <= ttl:
                vector = text_vectors[text] * layout[TEXT_SIZE]
                push_text(block.states, ring, ages, places, width, layout[TEXT_SIZE], vectors, vector, age)
            text += 1
    return text


@kernel
def _scale(layout: Ints, block: Block, row: int, place: int, values: Floats, observed: Bools, scaled: Floats) -> None:
    """Write standard scores, 0 where a reading is unknown, and the encoder's input; note whether any is known."""
    variables, mean = layout[VARIABLES], layout[SCALING]
    std, clip = mean + variables, block.weights[mean + 2 * variables]
    readings, bits = block.at[row] + layout[READINGS], block.at[row] + layout[OBSERVED]
    known = False
    for v in range(variables):
        x = (values[place, v] - block.weights[mean + v]) / block.weights[std + v]
        if np.isnan(values[place, v]):
            x = _ZERO
        else:
            known = True
        if np.isnan(x):
            x = _ZERO
        x = min(max(x, -_LARGEST), _LARGEST)
        scaled[place, v] = x
        block.work[readings + v] = min(max(x, -clip), clip)
    if layout[OBSERVED] >= 0:
        for v in range(variables):
            block.work[bits + v] = _ONE if observed[place, v] else _ZERO
    block.work[block.at[row] + block.present_at] = _ONE if known else _ZERO
    if layout[PLACES]:
        told = block.states[block.state_at[row] + layout[AGES]] >= _ZERO
        block.work[block.at[row] + block.present_at + 1] = _ONE if told else _ZERO


@kernel
def _sort_rows(layout: Ints, block: Block, count: int, members: Ints, counts: Ints) -> None:
    """Which rows of a block are in which set."""
    modalities, places = layout[MODALITIES], layout[PLACES]
    for i in range(len(counts)):
        counts[i] = 0
    for r in range(count):
        base = block.at[r] + block.present_at
        number = 0
        for m in range(modalities):
            number += block.work[base + m] != _ZERO
        _join(codes.ALL, r, members, counts)
        if number == 0:
            _join(codes.NONE, r, members, counts)
        if number > 1:
            _join(codes.SEVERAL, r, members, counts)
        for m in range(modalities):
            here = block.work[base + m] != _ZERO
            _join(FIRST_OF_MODALITIES + (m if here else modalities + m), r, members, counts)
            if here and number == 1:
                _join(FIRST_OF_MODALITIES + 2 * modalities + m, r, members, counts)
        for e in range(places):
            if block.states[block.state_at[r] + layout[AGES] + e] < _ZERO:
                break
            _join(FIRST_OF_MODALITIES + 3 * modalities + e, r, members, counts)


@kernel
def _join(which: int, row: int, members: Ints, counts: Ints) -> None:
    members[which, counts[which]] = row
    counts[which] += 1


@kernel
def _answer(
    layout: Ints,
    block: Block,
    row: int,
    place: int,
    probabilities: Floats,
    answers: Floats,
    weights: Floats,
    present: Bools,
    attention: Floats,
) -> None:
    """Copy what a row's program found to its place in the round's result."""
    base, work, modalities = block.at[row], block.work, layout[MODALITIES]
    for c in range(layout[CLASSES]):
        probabilities[place, c] = work[base + layout[PROBABILITIES] + c]
    for m in range(modalities):
        own = base + layout[ANSWERS] + m * layout[ANSWER_STRIDE]
        for c in range(layout[CLASSES]):
            answers[m, place, c] = work[own + c]
        weights[m, place] = work[base + layout[WEIGHTS] + m]
        present[m, place] = work[base + block.present_at + m] != _ZERO
    if layout[ATTENTION] >= 0:
        for m in range(modalities):
            for n in range(modalities):
                attention[place, m, n] = work[base + layout[ATTENTION] + m * modalities + n]


_FLOATS, _INTS, _BOOLS = "float32[::1]", "int64[::1]", "boolean[::1]"
STEP: Final = CompiledFunction(
    step,
    f"int64({_INTS}, int64[:, ::1], {_FLOATS}, {_FLOATS}, {_FLOATS}, {_INTS}, {_FLOATS}, {_INTS},"
    f" float32[:, ::1], boolean[:, ::1], {_BOOLS}, {_INTS}, {_INTS}, {_FLOATS}, {_FLOATS},"
    " float32[:, ::1], float32[:, :, ::1], float32[:, ::1], boolean[:, ::1], float32[:, ::1], float32[:, :, ::1])",
    SOURCES,
)
