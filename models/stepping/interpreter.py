"""The compiled step: one function that takes a round through a model's program, block by block.

What a model computes is a table of operations (programs/builder.py), so this is compiled once for every model.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numba import types

from models.stepping.kernels import codes
from models.stepping.kernels.block import Block
from models.stepping.kernels.codes import FIRST_OF_MODALITIES
from models.stepping.kernels.encoders.texts import push_text, turn_ring
from models.stepping.kernels.operation import SOURCES, call
from pipeline.arrays import Bools, Floats, Ints
from pipeline.compiled import CompiledFunction, kernel
from pipeline.wire.diagnosis_columns import REMAINING_NUMBERS

BLOCK_ROWS: Final = 32
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
MESSAGE_COUNTS, MESSAGES, MESSAGE_WIDTH, SHORTEST_WINDOW = 20, 21, 22, 23
# Where a row's memory holds what only some models have, -1 of a model without (Result.extras).
NOVELTY, DEVIATIONS, CANDIDATES, REMAINING = 24, 25, 26, 27
KNOWN: Final = 28
"""Where a row has 1 for each variable that has a reading, be it held; -1 of a model that does not ask for it."""
OWN_CLASSES: Final = 29
"""Classes that the modalities answer with: all, or all but `unknown`."""
GROUPS: Final = 30
"""Where among the weights each variable has the modality whose group it is in, 0 if in none; -1 of a model without."""
EMBEDDINGS, EMBEDDING_SIZE = 31, 32
"""Where a row has the features of all modalities, one behind the other, and how many they are together; -1 and 0 where
they are not wanted."""
LAYOUT_SIZE: Final = 33

_ZERO, _ONE = np.float32(0), np.float32(1)
_LARGEST = np.float32(np.finfo(np.float32).max)


class Model(NamedTuple):
    """What of a step is the same for every round."""

    layout: Ints
    program: Ints  # (N, OPERANDS)
    weights: Floats
    initial: Floats
    """State before the first frame."""


class Arena(NamedTuple):
    """The states of all machines, and working memory."""

    states: Floats
    """S states one behind the other."""
    stamps: Ints  # (S + 1,)
    """The round in which each slot was stepped last, and behind them the number of this round."""
    work: Floats
    """For `BLOCK_ROWS` rows."""


class NewTexts(NamedTuple):
    """Texts of a round in the order of their rows, oldest first within one."""

    rows: Ints
    lines: Ints
    """Where the vector of each is in `vectors`; -1 of a text that does not enter the ring."""
    messages: Ints
    """Which of the counted messages each is; -1 of other texts."""
    ages: Floats  # in frames
    vectors: Floats


class Result(NamedTuple):
    """Where to write what the model says; see pipeline.frames.StepResult."""

    probabilities: Floats
    answers: Floats
    weights: Floats
    present: Bools
    scaled: Floats
    attention: Floats
    """Empty for models without."""
    extras: Floats
    """(B, E) novelty, a deviation for each variable, a mark for each class that is a candidate, the three numbers of
    the remaining life, and embeddings, one behind the other; what a model lacks takes no columns."""


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
    text_lines: Ints,
    text_messages: Ints,
    text_ages: Floats,
    vectors: Floats,
    probabilities: Floats,
    answers: Floats,
    modality_weights: Floats,
    present: Bools,
    scaled: Floats,
    attention: Floats,
    extras: Floats,
) -> int:
    """Advance the machines in `slots` by one frame and write what the model says; nothing is changed unless DONE.

    The arguments are those of Model, Arena, a round, NewTexts and Result, one by one: as tuples they would take
    several microseconds to come in from Python.
    """
    return _step(
        Model(layout, program, weights, initial),
        Arena(states, stamps, work),
        slots,
        values,
        observed,
        reset,
        NewTexts(text_rows, text_lines, text_messages, text_ages, vectors),
        Result(probabilities, answers, modality_weights, present, scaled, attention, extras),
    )


@kernel
def _step(
    model: Model,
    arena: Arena,
    slots: Ints,
    values: Floats,
    observed: Bools,
    reset: Bools,
    texts: NewTexts,
    result: Result,
) -> int:
    """See `step`."""
    status = _admit(slots, arena.stamps)
    if status != DONE:
        return status
    layout, program, states = model.layout, model.program, arena.states
    size, width = layout[STATE_SIZE], layout[WORK_SIZE]
    at, state_at = np.empty(BLOCK_ROWS, np.int64), np.empty(BLOCK_ROWS, np.int64)
    for r in range(BLOCK_ROWS):
        at[r] = r * width
    block = Block(model.weights, arena.work, states, at, state_at, layout[PRESENT])
    sets = FIRST_OF_MODALITIES + 3 * layout[MODALITIES] + layout[PLACES]
    members, counts = np.empty((sets, BLOCK_ROWS), np.int64), np.empty(sets, np.int64)
    text = 0
    for begin in range(0, len(slots), BLOCK_ROWS):
        count = min(BLOCK_ROWS, len(slots) - begin)
        for r in range(count):
            state_at[r] = slots[begin + r] * size
            if reset[begin + r]:
                for i in range(size):
                    states[state_at[r] + i] = model.initial[i]
        text = _take_texts(layout, block, begin, count, text, texts)
        for r in range(count):
            _scale(layout, block, r, begin + r, values, observed, result.scaled)
        _sort_rows(layout, block, count, members, counts)
        for i in range(len(program)):
            rows, number = members[program[i, 1]], counts[program[i, 1]]
            if number:
                _call(program, i, block, rows, number)
        for r in range(count):
            _answer(layout, block, r, begin + r, result)
    return DONE


@kernel
def _call(program: Ints, line: int, block: Block, rows: Ints, number: int) -> None:
    """Do what one line of a program says."""
    op, present = program[line], block.present_at
    call(op[0], op, block.weights, block.work, block.states, block.at, block.state_at, rows, number, present)


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
    texts: NewTexts,
) -> int:
    """Let the texts of a block's machines grow older, put new ones into their rings, and count messages; returns the
    next new text."""
    places, width, ttl = layout[PLACES], layout[RING_WIDTH], np.float32(layout[TEXT_TTL])
    counts, messages = layout[MESSAGE_COUNTS], layout[MESSAGES]
    if not places and not messages:
        return text
    for r in range(count):
        ring, ages = block.state_at[r] + layout[RING], block.state_at[r] + layout[AGES]
        if places:
            turn_ring(block.states, ring, ages, places, width, ttl)
        for m in range(layout[MESSAGE_WIDTH]):
            block.work[block.at[r] + counts + m] = _ZERO
            block.work[block.at[r] + counts + layout[MESSAGE_WIDTH] + m] = -_ONE
        while text < len(texts.rows) and texts.rows[text] == begin + r:
            age = max(texts.ages[text], _ZERO)
            if places and texts.lines[text] >= 0 and age <= ttl:
                vector = texts.lines[text] * layout[TEXT_SIZE]
                push_text(block.states, ring, ages, places, width, layout[TEXT_SIZE], texts.vectors, vector, age)
            if messages and texts.messages[text] >= 0:
                place = block.at[r] + counts + texts.messages[text]
                # A text is one frame old at the end of the frame that it was written at the start of.
                frames = max(np.float32(np.ceil(age)) - _ONE, _ZERO)
                if frames < layout[SHORTEST_WINDOW]:
                    block.work[place] += _ONE
                place += layout[MESSAGE_WIDTH]
                if block.work[place] < _ZERO or frames < block.work[place]:
                    block.work[place] = frames
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
    if layout[KNOWN] >= 0:
        for v in range(variables):
            block.work[block.at[row] + layout[KNOWN] + v] = _ZERO if np.isnan(values[place, v]) else _ONE
    if layout[GROUPS] >= 0:
        _note_groups(layout, block, row, place, values)
    block.work[block.at[row] + block.present_at] = _ONE if known else _ZERO
    if layout[PLACES]:
        told = block.states[block.state_at[row] + layout[AGES]] >= _ZERO
        block.work[block.at[row] + block.present_at + layout[MODALITIES] - 1] = _ONE if told else _ZERO


@kernel
def _note_groups(layout: Ints, block: Block, row: int, place: int, values: Floats) -> None:
    """Note of each modality that is a group of variables whether any of them is known; the first modality, in whose
    place the variables without a group are noted, is overwritten."""
    present = block.at[row] + block.present_at
    for v in range(layout[VARIABLES]):
        block.work[present + np.int64(block.weights[layout[GROUPS] + v])] = _ZERO
    for v in range(layout[VARIABLES]):
        if not np.isnan(values[place, v]):
            block.work[present + np.int64(block.weights[layout[GROUPS] + v])] = _ONE


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
def _answer(layout: Ints, block: Block, row: int, place: int, result: Result) -> None:
    """Copy what a row's program found to its place in the round's result."""
    base, work, modalities = block.at[row], block.work, layout[MODALITIES]
    for c in range(layout[CLASSES]):
        result.probabilities[place, c] = work[base + layout[PROBABILITIES] + c]
    for m in range(modalities):
        own = base + layout[ANSWERS] + m * layout[ANSWER_STRIDE]
        for c in range(layout[CLASSES]):
            result.answers[m, place, c] = work[own + c] if c < layout[OWN_CLASSES] else _ZERO
        result.weights[m, place] = work[base + layout[WEIGHTS] + m]
        result.present[m, place] = work[base + block.present_at + m] != _ZERO
    if layout[ATTENTION] >= 0:
        for m in range(modalities):
            for n in range(modalities):
                result.attention[place, m, n] = work[base + layout[ATTENTION] + m * modalities + n]
    if result.extras.shape[1] > 0:
        at = _copy_extra(block, base, layout[NOVELTY], 1, place, 0, result)
        at = _copy_extra(block, base, layout[DEVIATIONS], layout[VARIABLES], place, at, result)
        at = _copy_extra(block, base, layout[CANDIDATES], layout[CLASSES], place, at, result)
        at = _copy_extra(block, base, layout[REMAINING], REMAINING_NUMBERS, place, at, result)
        _copy_extra(block, base, layout[EMBEDDINGS], layout[EMBEDDING_SIZE], place, at, result)


@kernel
def _copy_extra(block: Block, base: int, address: int, count: int, place: int, column: int, result: Result) -> int:
    """Copy numbers that only some models have; returns the column behind them."""
    if address < 0:
        return column
    for i in range(count):
        result.extras[place, column + i] = block.work[base + address + i]
    return column + count


def _array(kind: Any, dimensions: int = 1) -> Any:
    return types.Array(kind, dimensions, "C")


_FLOATS, _INTS, _BOOLS = _array(types.float32), _array(types.int64), _array(types.boolean)
_TABLE, _ROWS, _MODALITY_ROWS = _array(types.int64, 2), _array(types.float32, 2), _array(types.float32, 3)
_OBSERVED = _array(types.boolean, 2)
STEP: Final = CompiledFunction(
    step,
    types.int64(
        *(_INTS, _TABLE, _FLOATS, _FLOATS),
        *(_FLOATS, _INTS, _FLOATS),
        *(_INTS, _ROWS, _OBSERVED, _BOOLS),
        *(_INTS, _INTS, _INTS, _FLOATS, _FLOATS),
        *(_ROWS, _MODALITY_ROWS, _ROWS, _OBSERVED, _ROWS, _MODALITY_ROWS, _ROWS),
    ),
    SOURCES,
)
