"""Remaining life as a program (models.fusion.remaining_life)."""

from __future__ import annotations

import numpy as np

from models.configs.remaining_life import OUTPUTS, RemainingLifeConfig
from models.configs.sensors import StatisticsConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL
from models.stepping.programs.builder import ProgramBuilder, Vector
from models.stepping.programs.experts import emit_statistics
from models.stepping.programs.sensors import SensorInputs

_KEY = "remaining_life"
_SENSORS = 0
"""Place of the sensors among the modalities."""


def emit_remaining_life(
    builder: ProgramBuilder, config: RemainingLifeConfig | None, inputs: SensorInputs, features: Vector
) -> int:
    """Append the operations of the head; returns where estimate, low and high are, -1 without a head."""
    if config is None:
        return -1
    network = f"{_KEY}.network"
    if config.inputs == "statistics":
        shape = StatisticsConfig(spans=config.spans, hidden=config.hidden, mask_inputs=False)
        shares = emit_statistics(builder, network, shape, inputs._replace(observed=None), OUTPUTS).logits
    else:
        _, outputs = builder.mlp(ALL, network, features, config.hidden, OUTPUTS)
        shares = outputs[0].start
    margin = builder.reader.take(f"{_KEY}.margin", 1)
    numbers = builder.numbers(np.concatenate([margin, np.array([config.cap_frames], np.float32)]))
    target = builder.work(OUTPUTS)
    builder.emit(operations.REMAINING_LIFE, ALL, shares, numbers, target)
    unknown = builder.numbers(np.full(OUTPUTS, np.nan, np.float32))
    builder.emit(operations.CONSTANT, builder.absent(_SENSORS), unknown, target, OUTPUTS)
    return target
