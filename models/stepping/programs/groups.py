"""Modalities that are groups of variables as programs: each encoder on its own columns (models.encoders.experts)."""

from __future__ import annotations

from collections.abc import Sequence

from models.configs.groups import GroupConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, padded
from models.stepping.programs.builder import ProgramBuilder
from models.stepping.programs.experts import emit_expert
from models.stepping.programs.sensors import Encoded, SensorInputs

_KEY = "groups.encoders"


def emit_groups(
    builder: ProgramBuilder, groups: Sequence[GroupConfig], inputs: SensorInputs, classes: int
) -> list[Encoded]:
    """Append the operations of each group's encoder; `inputs` are those of all variables."""
    encoded = []
    for place, group in enumerate(groups):
        own = gathered(builder, inputs, group.columns)._replace(messages=())
        if not group.encoder.mask_inputs:
            own = own._replace(observed=None)
        encoded.append(emit_expert(builder, f"{_KEY}.{place}", group.encoder, own, classes))
    return encoded


def gathered(builder: ProgramBuilder, inputs: SensorInputs, columns: Sequence[int]) -> SensorInputs:
    """Some variables of the inputs, in this order; padding stays 0."""
    numbers = builder.numbers([float(column) for column in columns])
    size = len(columns)
    readings = builder.work(padded(size))
    builder.emit(operations.GATHER, ALL, inputs.readings, numbers, size, readings)
    observed = None
    if inputs.observed is not None:
        observed = builder.work(size)
        builder.emit(operations.GATHER, ALL, inputs.observed, numbers, size, observed)
    return inputs._replace(variables=size, readings=readings, observed=observed)
