"""The detector as a program: see models.encoders.experts.detector for what it computes."""

from __future__ import annotations

import math
from typing import NamedTuple

from models.configs.detector import DetectorConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, padded
from models.stepping.kernels.dense import PANEL
from models.stepping.programs.builder import ProgramBuilder, at_state, at_work
from models.stepping.programs.messages import in_lanes
from models.stepping.programs.sensors import emit_lstm_gates

_KEY = "detector"
_LEAST = 1e-6
"""No limit is smaller, and no level from which there is surprise."""


class DetectorInputs(NamedTuple):
    """Where the detector's inputs stand in a row: V readings, 0 where unknown, and a bit of each."""

    variables: int
    readings: int
    known: int
    observed: int


class Detected(NamedTuple):
    """Where its answer stands."""

    novelty: int
    deviations: int


def emit_detector(
    builder: ProgramBuilder, config: DetectorConfig, inputs: DetectorInputs, logits: int, classes: int
) -> Detected:
    """Append the operations of a detector, which adds to the sensors' logits in their place."""
    variables, width, reader = inputs.variables, padded(inputs.variables), builder.reader
    h, c, forecast, seen = (builder.state(1, size) for size in (config.hidden, config.hidden, variables, 1))
    averages, spreads, blocks = len(config.mean_spans), len(config.square_spans), config.blocks
    means, squares = builder.state(averages, variables), builder.state(spreads, variables, 1.0)
    armed, calm = builder.state(1, 1, 1.0), builder.state(1, 1)
    entering, missed, evidence = (builder.work(variables) for _ in range(3))
    builder.emit(
        operations.RESIDUALS,
        ALL,
        inputs.readings,
        inputs.known,
        inputs.observed,
        width,
        forecast,
        seen,
        config.warm_up_frames,
        builder.numbers([config.clip, float(reader.take(f"{_KEY}.least_observed"))]),
        entering,
        missed,
        evidence,
    )
    whitened = builder.dense(
        ALL, at_work(missed, variables), reader.take(f"{_KEY}.whitening", variables, variables), None
    )
    statistics = builder.work(blocks * width)
    builder.emit(
        operations.RESIDUAL_STATISTICS,
        ALL,
        whitened,
        evidence,
        width,
        averages,
        spreads,
        means,
        squares,
        builder.numbers([1 / span for span in (*config.mean_spans, *config.square_spans)]),
        builder.numbers([math.sqrt(config.largest_square)]),
        builder.numbers(in_lanes(reader.take(f"{_KEY}.centres", blocks, variables).ravel(), variables)),
        statistics,
    )
    stride = -(-variables // PANEL) * PANEL
    distances = builder.work(blocks * stride)
    for block, shape in enumerate(reader.take(f"{_KEY}.shapes", blocks, variables, variables)):
        source = at_work(statistics + block * width, variables)
        builder.dense(ALL, source, shape, None, target=distances + block * stride)
    limits = reader.take(f"{_KEY}.limits", blocks)
    if not (limits >= _LEAST).all():
        raise reader.error("has a detector without a limit")
    found = Detected(builder.work(1), builder.work(variables))
    where = builder.numbers(limits)
    builder.emit(
        operations.NOVELTY, ALL, distances, stride, width, blocks, where, found.novelty, found.deviations, evidence
    )
    _emit_forecast(builder, config, entering, variables, h, c, forecast, seen)
    _emit_backing(builder, config, found.novelty, armed, calm, logits, classes)
    return found


def _emit_forecast(
    builder: ProgramBuilder,
    config: DetectorConfig,
    entering: int,
    variables: int,
    h: int,
    c: int,
    forecast: int,
    seen: int,
) -> None:
    """The forecast of the next frame."""
    x, size = at_work(entering, variables), config.hidden
    gates = emit_lstm_gates(builder, f"{_KEY}.forecaster", x, at_state(h, size), size)
    output = builder.work(size)
    builder.emit(operations.LSTM_CELL, ALL, gates, padded(size), h, c, output)
    head = builder.linear(ALL, f"{_KEY}.head", at_work(output, size) + x, variables)
    builder.emit(operations.KEEP_FORECAST, ALL, head[0].start, padded(variables), forecast, seen, config.warm_up_frames)


def _emit_backing(
    builder: ProgramBuilder, config: DetectorConfig, novelty: int, armed: int, calm: int, logits: int, classes: int
) -> None:
    """What the detector adds to the logits, if it backs any class."""
    reader = builder.reader
    quiet = reader.take(f"{_KEY}.quiet")
    backing = reader.take(f"{_KEY}.backing", classes)
    if not quiet >= _LEAST or (backing < 0).any() or backing[0] != 0:
        raise reader.error("has a detector that backs what it cannot")
    if (backing > 0).any():
        level, weights = builder.numbers([float(quiet)]), builder.numbers(backing)
        quiet_frames = config.quiet_frames
        builder.emit(operations.BACK, ALL, logits, classes, novelty, armed, calm, quiet_frames, level, weights)
