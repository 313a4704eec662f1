"""The text modality as a program: what the texts in a machine's event ring say (models.encoders.event_ring)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from models.configs.text import AGE_FEATURES, AGE_SCALES, EMPTY, TextConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import padded
from models.stepping.programs.builder import ProgramBuilder, Vector, at_state, at_work

_KEY = "text"


class RingState(NamedTuple):
    """Where a machine's texts stand in its state: places of `width` numbers, and ages in frames."""

    ring: int
    ages: int
    places: int
    width: int
    size: int


def ring_state(builder: ProgramBuilder, config: TextConfig) -> RingState:
    """Room for an event ring in each machine's state."""
    ring = builder.state(config.ring, config.size)
    ages = builder.state(1, config.ring, EMPTY)
    return RingState(ring, ages, config.ring, padded(config.size), config.size)


def emit_ring(
    builder: ProgramBuilder, config: TextConfig, state: RingState, rows: int, classes: int
) -> tuple[int, Vector]:
    """Append the operations that read the ring of the machines that have a text; returns logits and features."""
    take, size, width = builder.reader.take, config.size, state.width
    value, value_bias = builder.reader.linear(f"{_KEY}.value", size + AGE_FEATURES, size)
    score, score_bias = builder.reader.linear(f"{_KEY}.score", size, 1)
    # One product gives a text's value and, behind it, its score.
    matrix = np.zeros((width + 1, size + AGE_FEATURES), np.float32)
    bias = np.zeros(width + 1, np.float32)
    matrix[:size], bias[:size] = value, value_bias
    matrix[width, :size], bias[width] = score[0], score_bias[0]
    stride, step = -(-(width + 1) // 16) * 16, 16
    values, ages = builder.work(stride * state.places), builder.work(step * state.places)
    scales = builder.numbers(AGE_SCALES)
    for place in range(state.places):
        aged, there = ages + place * step, builder.place(place)
        builder.emit(operations.TEXT_AGE, there, state.ages + place, scales, aged)
        text = at_state(state.ring + place * width, size) + at_work(aged, AGE_FEATURES)
        builder.dense(there, text, matrix, bias, target=values + place * stride)
    shares, pooled = builder.work(state.places), builder.work(size)
    aged, youngest = builder.work(AGE_FEATURES), builder.work(AGE_FEATURES)
    builder.emit(
        operations.TEXT_POOL,
        rows,
        values,
        stride,
        width,
        ages,
        step,
        builder.numbers([take(f"{_KEY}.log_tau").item()]),
        state.ages,
        state.places,
        shares,
        pooled,
        aged,
        youngest,
    )
    features = at_work(pooled, size) + at_work(aged, AGE_FEATURES) + at_work(youngest, AGE_FEATURES)
    _, logits = builder.mlp(rows, f"{_KEY}.head", features, config.head, classes)
    return logits[0].start, features
