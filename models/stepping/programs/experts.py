"""Sensor encoders as programs: networks over readings, statistics, trees, and the pool of several experts."""

from __future__ import annotations

import numpy as np

from models.configs.sensors import (
    HIDDEN_SHARE,
    MIN_EXPERT_PROBABILITY,
    MIN_TREE_PROBABILITY,
    NO_FAULT,
    CellsConfig,
    ExpertConfig,
    ExpertsConfig,
    NoClassifierConfig,
    SensorConfig,
    StatisticsConfig,
    TreesConfig,
    cell_inputs,
)
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, padded
from models.stepping.kernels.encoders.trees import LEAF, NODE
from models.stepping.programs.builder import ProgramBuilder, Vector, at_work, grouped
from models.stepping.programs.messages import in_lanes
from models.stepping.programs.sensors import Encoded, SensorInputs, emit_encoder, observed_bits
from pipeline.arrays import Floats, Ints
from pipeline.errors import ModelFileError

_KEY = "sensors"


def emit_sensors(builder: ProgramBuilder, config: SensorConfig, inputs: SensorInputs, classes: int) -> Encoded:
    """Append the operations of the sensors' encoder, or of all experts and their pool."""
    if isinstance(config, NoClassifierConfig):
        return _no_classifier(builder, classes)
    if not isinstance(config, ExpertsConfig):
        return emit_expert(builder, _KEY, config, inputs, classes)
    width, answers = padded(classes), builder.work(len(config.experts) * padded(classes))
    features: Vector = ()
    for place, expert in enumerate(config.experts):
        own = inputs if expert.mask_inputs else inputs._replace(observed=None)
        encoded = emit_expert(builder, f"{_KEY}.experts.{place}", expert, own, classes)
        builder.softmax(ALL, encoded.logits, classes, 1.0, answers + place * width)
        features += encoded.features
    take, pooled = builder.reader.take, builder.work(classes)
    least = [_least_probability(expert) for expert in config.experts]
    builder.emit(
        operations.POOL,
        ALL,
        answers,
        width,
        len(config.experts),
        builder.numbers(take(f"{_KEY}.weights", len(config.experts))),
        builder.numbers(least),
        builder.numbers(take(f"{_KEY}.hidden", classes) * np.float32(1 - HIDDEN_SHARE)),
        builder.numbers(take(f"{_KEY}.bias", classes)),
        builder.mask(classes),
        pooled,
    )
    return Encoded(pooled, features)


def _no_classifier(builder: ProgramBuilder, classes: int) -> Encoded:
    logits, features = builder.work(classes), at_work(builder.work(1), 1)
    answer = builder.numbers([0.0] + [NO_FAULT] * (classes - 1))
    builder.emit(operations.CONSTANT, ALL, answer, logits, classes)
    builder.zero(ALL, features)
    return Encoded(logits, features)


def _least_probability(expert: ExpertConfig) -> float:
    return MIN_TREE_PROBABILITY if isinstance(expert, TreesConfig) else MIN_EXPERT_PROBABILITY


def emit_expert(builder: ProgramBuilder, key: str, config: ExpertConfig, inputs: SensorInputs, classes: int) -> Encoded:
    """Append the operations of one encoder, whose weights' names begin with `key`."""
    match config:
        case StatisticsConfig():
            return emit_statistics(builder, key, config, inputs, classes)
        case CellsConfig():
            return _cells(builder, key, config, inputs, classes)
        case TreesConfig():
            return _trees(builder, key, config, inputs, classes)
        case _:
            return emit_encoder(builder, key, config, inputs, classes)


def emit_statistics(
    builder: ProgramBuilder, key: str, config: StatisticsConfig, inputs: SensorInputs, classes: int
) -> Encoded:
    """Append the operations of a network on streaming statistics whose weights are called `key`."""
    x = _statistics(builder, key, config, inputs)
    _, features = builder.mlp(ALL, f"{key}.layers", x, config.hidden[:-1], config.hidden[-1], relu=True)
    logits = builder.linear(ALL, f"{key}.head.0", features, classes)
    return Encoded(logits[0].start, features)


def _cells(builder: ProgramBuilder, key: str, config: CellsConfig, inputs: SensorInputs, classes: int) -> Encoded:
    """A network whose first layer is a matrix with zeros where a cell's code does not see an input."""
    inputs = inputs._replace(messages=())
    x, width = _statistics(builder, key, config, inputs), config.size * len(config.cells or ())
    matrix, bias = builder.reader.linear(f"{key}.layers.0", sum(piece.size for piece in x), width)
    mask = np.zeros_like(matrix)
    try:
        for place, seen in enumerate(cell_inputs(config, inputs.variables)):
            mask[place * config.size : (place + 1) * config.size, seen] = 1
    except ValueError as error:
        raise builder.reader.error(f"describes cells that cannot be: {error}") from error
    codes = at_work(builder.dense(ALL, x, matrix * mask, bias, relu=True), width)
    for index, size in enumerate(config.hidden, start=1):
        codes = builder.linear(ALL, f"{key}.layers.{2 * index}", codes, size, relu=True)
    logits = builder.linear(ALL, f"{key}.head.0", codes, classes)
    return Encoded(logits[0].start, codes)


def _statistics(
    builder: ProgramBuilder, key: str, config: StatisticsConfig | CellsConfig, inputs: SensorInputs
) -> Vector:
    """Append the operation that updates streaming statistics; returns what the dense network gets."""
    variables, spans = inputs.variables, len(config.spans)
    width, groups = padded(variables), 1 + 2 * spans
    means, variances = builder.state(spans, variables), builder.state(spans, variables, 1.0)
    target = builder.work(groups * width)
    builder.emit(
        operations.STATISTICS,
        ALL,
        inputs.readings,
        width,
        spans,
        means,
        variances,
        builder.numbers([1 / span for span in config.spans]),
        builder.numbers(in_lanes(builder.reader.take(f"{key}.shift", groups * variables), variables)),
        builder.numbers(in_lanes(builder.reader.take(f"{key}.scale", groups * variables), variables)),
        target,
    )
    return grouped(target, groups, variables) + observed_bits(inputs) + inputs.messages


def _trees(builder: ProgramBuilder, key: str, config: TreesConfig, inputs: SensorInputs, classes: int) -> Encoded:
    shape, variables, reader = config.shape, inputs.variables, builder.reader
    if shape is None:
        raise reader.error(f"does not say how many numbers its trees {key} have")
    width, longest = padded(variables), max(config.windows)
    ring, count = builder.state(longest, variables), builder.state(1, 1)
    groups = 4 * len(config.windows)
    target = builder.work((groups + 3) * width)
    windows = builder.numbers([float(window) for window in config.windows])
    builder.emit(
        operations.WINDOW_STATISTICS,
        ALL,
        inputs.readings,
        width,
        ring,
        count,
        longest,
        windows,
        len(config.windows),
        target,
    )
    if config.own_start:
        sums, first = builder.state(2, variables), config.own_start
        at = target + groups * width
        builder.emit(operations.OWN_START, ALL, inputs.readings, width, sums, sums + width, count, first, target, at)
        groups += 3
    builder.emit(operations.COUNT_FRAME, ALL, count, config.counted_frames)
    columns = at_work(inputs.readings, variables) + grouped(target, groups, variables) + inputs.messages
    places = np.concatenate([np.arange(piece.start, piece.start + piece.size) for piece in columns])
    assert len(places) == config.columns(variables, sum(piece.size for piece in inputs.messages))
    nodes = _nodes(builder, key, config, places)
    lost = reader.error(f"has trees {key} that begin nowhere, or end in no class")
    roots = _whole(reader.take(f"{key}.roots", shape.trees), shape.nodes, lost)
    offsets = _whole(reader.take(f"{key}.offsets", shape.trees), classes - shape.leaf_width + 1, lost)
    logits = builder.work(classes)
    builder.emit(
        operations.FOLLOW_TREES,
        ALL,
        builder.numbers(nodes),
        builder.numbers(roots.astype(np.float32)),
        builder.numbers(offsets.astype(np.float32)),
        shape.trees,
        builder.numbers(reader.take(f"{key}.leaves", shape.leaves * shape.leaf_width)),
        shape.leaf_width,
        builder.numbers(reader.take(f"{key}.base", classes)),
        padded(classes),
        int(shape.output == "probabilities"),
        builder.numbers([MIN_TREE_PROBABILITY]),
        logits,
    )
    features = builder.work(classes)
    builder.softmax(ALL, logits, classes, 1.0, features)
    return Encoded(logits, at_work(features, classes))


def _nodes(builder: ProgramBuilder, key: str, config: TreesConfig, places: Ints) -> Floats:
    """The nodes as `follow_trees` reads them; raises ModelFileError if one leads nowhere."""
    shape, reader = config.shape, builder.reader
    assert shape is not None
    count = shape.nodes
    feature, left, right = (reader.take(f"{key}.{name}", count) for name in ("feature", "left", "right"))
    inner = feature != LEAF
    lost = reader.error(f"has a node of trees {key} that leads nowhere")
    column = _whole(np.where(inner, feature, 0), len(places), lost)
    limits = np.where(inner, count, shape.leaves)
    one, other = _whole(left, limits, lost), _whole(np.where(inner, right, 0), limits, lost)
    numbers = np.arange(count)
    # A child stands behind its parent, so every way through a tree ends.
    if not ((one > numbers) & (other > numbers))[inner].all():
        raise lost
    nodes = np.zeros((count, NODE), np.float32)
    nodes[:, 0] = np.where(inner, places[column], LEAF)
    nodes[:, 1], nodes[:, 2], nodes[:, 3] = reader.take(f"{key}.threshold", count), one, other
    return nodes.ravel()


def _whole(values: Floats, limit: Ints | int, error: ModelFileError) -> Ints:
    """Whole numbers from 0 to below a limit; raises the error for others."""
    if not ((values >= 0) & (values < limit) & (values == np.floor(values))).all():
        raise error
    return values.astype(np.int64)
