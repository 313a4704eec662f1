"""Networks over readings as programs: see models.encoders for what they compute."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import NamedTuple

import numpy as np

from models.configs.sensors import CausalCNNConfig, LinearStateConfig, RingAttentionConfig, SeqLSTMConfig
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, padded
from models.stepping.programs.builder import ProgramBuilder, Vector, at_state, at_work, grouped, inverse_root

_DIGITS = Context(prec=40)


class Encoded(NamedTuple):
    """Where an encoder's answer stands in a row."""

    logits: int
    features: Vector


class SensorInputs(NamedTuple):
    """Where the encoder's input stands in a row: V readings, 0 where unknown, and V observed bits if wanted."""

    variables: int
    readings: int
    observed: int | None
    messages: Vector = ()
    """Scaled columns of messages."""


EncoderConfig = SeqLSTMConfig | CausalCNNConfig | RingAttentionConfig | LinearStateConfig


def emit_encoder(
    builder: ProgramBuilder, key: str, config: EncoderConfig, inputs: SensorInputs, classes: int
) -> Encoded:
    """Append the operations of a sensor encoder whose weights are called `key`."""
    match config:
        case SeqLSTMConfig():
            features = _seq_lstm(builder, key, config, inputs)
        case CausalCNNConfig():
            features = _causal_cnn(builder, key, config, inputs)
        case RingAttentionConfig():
            features = _ring_attention(builder, key, config, inputs)
        case LinearStateConfig():
            features = _linear_state(builder, key, config, inputs)
    _, logits = builder.mlp(ALL, f"{key}.head", features, config.head, classes)
    return Encoded(logits[0].start, features)


def _seq_lstm(builder: ProgramBuilder, name: str, config: SeqLSTMConfig, inputs: SensorInputs) -> Vector:
    hs = [builder.state(1, size) for size in config.hidden]
    cs = [builder.state(1, size) for size in config.hidden]
    if config.squash:
        squashed, width = builder.work(inputs.variables), padded(inputs.variables)
        builder.emit(operations.ASINH, ALL, inputs.readings, squashed, width)
        inputs = inputs._replace(readings=squashed)
    x = at_work(inputs.readings, inputs.variables)
    if config.trends or config.spreads:
        x += _running_means(builder, config, inputs)
    x += observed_bits(inputs) + inputs.messages
    for index, (size, h, c) in enumerate(zip(config.hidden, hs, cs, strict=True)):
        gates = emit_lstm_gates(builder, f"{name}.layers.{index}", x, at_state(h, size), size)
        output = builder.work(size)
        builder.emit(operations.LSTM_CELL, ALL, gates, padded(size), h, c, output)
        x = at_work(output, size)
    return x


def emit_lstm_gates(builder: ProgramBuilder, key: str, x: Vector, h: Vector, size: int) -> int:
    """The four gates of torch's LSTM layer before their activations; returns where they are, each in whole lanes."""
    take, width = builder.reader.take, sum(piece.size for piece in x)
    bias = take(f"{key}.bias_ih_l0", 4 * size) + take(f"{key}.bias_hh_l0", 4 * size)
    gates = builder.dense(ALL, x, take(f"{key}.weight_ih_l0", 4 * size, width), bias, groups=4)
    recurrent = take(f"{key}.weight_hh_l0", 4 * size, size)
    return builder.dense(ALL, h, recurrent, None, target=gates, adding=True, groups=4)


def _running_means(builder: ProgramBuilder, config: SeqLSTMConfig, inputs: SensorInputs) -> Vector:
    averages = len(config.trends) + len(config.spreads)
    means, last = builder.state(averages, inputs.variables), builder.state(1, inputs.variables)
    target = builder.work(averages * padded(inputs.variables))
    rates = builder.numbers([_rate(frames) for frames in (*config.trends, *config.spreads)])
    builder.emit(
        operations.RUNNING_MEANS,
        ALL,
        inputs.readings,
        padded(inputs.variables),
        len(config.trends),
        len(config.spreads),
        means,
        last,
        rates,
        target,
    )
    return grouped(target, averages, inputs.variables)


def _rate(frames: float) -> float:
    """1 - exp(-1 / frames), rounded correctly: the C library's exp is not the same on every processor."""
    exact = _DIGITS.subtract(Decimal(1), _DIGITS.exp(_DIGITS.divide(Decimal(-1), Decimal(frames))))
    return float(exact)


def _slope(head: int, heads: int) -> float:
    """2^(-8 (head + 1) / heads), rounded correctly."""
    return float(_DIGITS.power(Decimal(2), _DIGITS.divide(Decimal(-8 * (head + 1)), Decimal(heads))))


def observed_bits(inputs: SensorInputs) -> Vector:
    """Where the observed bits stand, if the encoder gets any."""
    return () if inputs.observed is None else at_work(inputs.observed, inputs.variables)


def _project(builder: ProgramBuilder, name: str, inputs: SensorInputs, size: int) -> int:
    """The first linear layer of the encoders that have one."""
    x = at_work(inputs.readings, inputs.variables) + observed_bits(inputs)
    return builder.linear(ALL, f"{name}.input", x, size)[0].start


def _causal_cnn(builder: ProgramBuilder, name: str, config: CausalCNNConfig, inputs: SensorInputs) -> Vector:
    size, taps = config.channels, config.kernel
    y = _project(builder, name, inputs, size)
    for index, dilation in enumerate(config.dilations):
        key, length = f"{name}.layers.{index}", (taps - 1) * dilation
        queue = builder.state(length, size)
        x: Vector = ()
        for tap in range(taps - 1):
            x += at_state(queue + tap * dilation * padded(size), size)
        x += at_work(y, size)
        weight, bias = builder.reader.take(f"{key}.weight", size, size, taps), builder.reader.take(f"{key}.bias", size)
        matrix = weight.transpose(0, 2, 1).reshape(size, -1)
        convolved = builder.dense(ALL, x, matrix, bias, relu=True)
        builder.emit(operations.PUSH_QUEUE, ALL, y, padded(size), queue, length)
        normal = builder.layer_norm(ALL, f"{name}.norms.{index}", convolved, size)
        builder.emit(operations.ADD, ALL, normal, y, padded(size))
    return at_work(y, size)


def _ring_attention(builder: ProgramBuilder, name: str, config: RingAttentionConfig, inputs: SensorInputs) -> Vector:
    size, heads, window = config.size, config.heads, config.window
    own, width = size // heads, padded(size)
    count = builder.state(1, 1)
    slopes = builder.numbers([_slope(head, heads) for head in range(heads)])
    y = _project(builder, name, inputs, size)
    for index in range(config.layers):
        key, ring = f"{name}.layers.{index}", builder.state(window, size)
        u = builder.layer_norm(ALL, f"{key}.norm", y, size)
        weight, bias = builder.reader.linear(f"{key}.project_in", size, 3 * size)
        queries, keys, values = weight.reshape(3, size, size)
        scale = inverse_root(own)
        asking = builder.dense(ALL, at_work(u, size), queries * scale, bias[:size] * scale, groups=heads)
        # q . (K u) = (K^T q) . u, so the query is taken to the frames and not each frame to the query; what the keys'
        # biases add is the same for all places.
        asked = builder.work(heads * width + width)
        for head in range(heads):
            matrix = keys.reshape(heads, own, size)[head].T
            question = at_work(asking + head * padded(own), own)
            builder.dense(ALL, question, matrix, None, target=asked + head * width)
        mixed, scores = builder.work(heads * width), builder.work(heads * padded(window))
        builder.emit(
            operations.RING_ATTENTION,
            ALL,
            u,
            width,
            ring,
            count,
            window,
            heads,
            asked,
            slopes,
            mixed,
            scores,
        )
        attended = builder.work(heads * padded(own) + width)
        for head in range(heads):
            rows = slice(head * own, (head + 1) * own)
            builder.dense(
                ALL,
                at_work(mixed + head * width, size),
                values[rows],
                bias[2 * size :][rows],
                target=attended + head * padded(own),
            )
        _finish(builder, key, y, grouped(attended, heads, own), size)
    builder.emit(operations.COUNT_FRAME, ALL, count, window)
    return at_work(builder.layer_norm(ALL, f"{name}.norm", y, size), size)


def _linear_state(builder: ProgramBuilder, name: str, config: LinearStateConfig, inputs: SensorInputs) -> Vector:
    size, heads = config.size, config.heads
    own = size // heads
    y = _project(builder, name, inputs, size)
    for index in range(config.layers):
        key, memory = f"{name}.layers.{index}", builder.state(heads * own, own)
        z = at_work(builder.layer_norm(ALL, f"{key}.norm", y, size), size)
        weight, bias = builder.reader.linear(f"{key}.project_in", size, 3 * size)
        scales = (inverse_root(own), np.float32(1), np.float32(1))
        q, k, v = (
            builder.dense(ALL, z, matrix * scale, shift * scale, groups=heads)
            for matrix, shift, scale in zip(weight.reshape(3, size, size), bias.reshape(3, size), scales, strict=True)
        )
        gate = builder.dense(ALL, z, *builder.reader.linear(f"{key}.gate", size, size), groups=heads)
        read = builder.work(heads * padded(own))
        builder.emit(operations.LINEAR_MEMORY, ALL, q, k, v, gate, heads, own, padded(own), memory, read)
        _finish(builder, key, y, grouped(read, heads, own), size)
    return at_work(builder.layer_norm(ALL, f"{name}.norm", y, size), size)


def _finish(builder: ProgramBuilder, key: str, y: int, attended: Vector, size: int) -> None:
    """What follows attention in a pre-norm block: y += project(attended), y += inner(norm(y))."""
    projected = builder.linear(ALL, f"{key}.project_out", attended, size)
    builder.emit(operations.ADD, ALL, projected[0].start, y, padded(size))
    z = at_work(builder.layer_norm(ALL, f"{key}.inner_norm", y, size), size)
    _, inner = builder.mlp(ALL, f"{key}.inner", z, (2 * size,), size)
    builder.emit(operations.ADD, ALL, inner[0].start, y, padded(size))
