"""Message inputs as a program: counts and ages of frequent messages (models.encoders.messages)."""

from __future__ import annotations

import numpy as np

from models.configs.messages import MessagesConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, padded
from models.stepping.programs.builder import ProgramBuilder, Vector, grouped
from pipeline.arrays import Floats

_KEY = "messages"


def message_room(builder: ProgramBuilder, config: MessagesConfig | None) -> int:
    """Where a row's counts of the frame's messages, and the ages of the newest, stand; -1 without message inputs."""
    return -1 if config is None else builder.work(2 * padded(len(config.messages)))


def emit_messages(builder: ProgramBuilder, config: MessagesConfig | None, counts: int) -> Vector:
    """Append the operation that takes a frame's messages in; returns their columns, none without message inputs."""
    if config is None:
        return ()
    messages, groups = len(config.messages), len(config.windows) + 1
    width, longest = padded(messages), max(config.windows)
    ring, turn = builder.state(longest, messages), builder.state(1, 1)
    sums = builder.state(len(config.windows), messages)
    ages = builder.state(1, messages, float(config.longest_age))
    target = builder.work(groups * width)
    builder.emit(
        operations.COUNT_MESSAGES,
        ALL,
        counts,
        width,
        ring,
        turn,
        sums,
        ages,
        longest,
        builder.numbers([float(window) for window in config.windows]),
        len(config.windows),
        builder.numbers([float(config.longest_age)]),
        builder.numbers(in_lanes(builder.reader.take(f"{_KEY}.shift", groups * messages), messages)),
        builder.numbers(in_lanes(builder.reader.take(f"{_KEY}.scale", groups * messages), messages)),
        target,
    )
    return grouped(target, groups, messages)


def in_lanes(values: Floats, size: int) -> Floats:
    """Vectors of this size, one behind the other, each padded to whole lanes."""
    filled = np.zeros((values.size // size, padded(size)), np.float32)
    filled[:, :size] = values.reshape(-1, size)
    return filled.ravel()
