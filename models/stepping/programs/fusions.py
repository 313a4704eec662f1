"""Fusions as programs: see models.fusion.base, joint, adaptive and vae for what they compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from models.configs.fusion import (
    ATTENDING,
    MAX_LOG_VARIANCE,
    MIN_LOG_VARIANCE,
    MIN_PROBABILITY,
    RULES,
    SCORING,
    AdaptiveConfig,
    ChannelsConfig,
    DeepConfig,
    EarlyConfig,
    FusionChoice,
    FusionConfig,
    HybridConfig,
    LearnedFusionConfig,
    Rule,
    VAEConfig,
)
from models.stepping.kernels import operations
from models.stepping.kernels.codes import ALL, NONE, SEVERAL, padded
from models.stepping.kernels.lanes import LANES
from models.stepping.programs.builder import ProgramBuilder, Vector, at_work
from pipeline.arrays import Floats

_KEY = "fusion"
_NETWORK = "fusion.network"


class Evidence(NamedTuple):
    """Where a modality's own logits and features stand in a row."""

    logits: int
    features: Vector


class Fused(NamedTuple):
    """Where a fusion's answer stands in a row."""

    probabilities: int
    answers: int
    """Of each modality its calibrated probabilities, or the class prior where it is absent."""
    answer_stride: int
    weights: int
    attention: int | None
    """modalities^2 numbers."""


def emit_fusion(
    builder: ProgramBuilder, config: FusionChoice, evidence: Sequence[Evidence], presence: int, classes: int
) -> Fused:
    """Append the operations of a fusion. `presence` is where each modality's 1 or 0 stands."""
    if isinstance(config, FusionConfig):
        late = _Late(builder, _KEY, config.rule, len(evidence), classes)
        answers = late.emit_answers(evidence)
        mixture, weights = late.emit_rule(answers)
        return Fused(mixture, answers, padded(classes), weights, None)
    return _learned(builder, config, evidence, presence, classes)


class _Late:
    """A late fusion's numbers, and its operations."""

    def __init__(self, builder: ProgramBuilder, key: str, rule: Rule, modalities: int, classes: int) -> None:
        take = builder.reader.take
        self._builder, self._rule, self._modalities, self._classes = builder, rule, modalities, classes
        self.prior = take(f"{key}.prior", classes)
        self._temperatures = take(f"{key}.temperatures", modalities)
        self._doubts = take(f"{key}.doubts", modalities)
        self._temperature = take(f"{key}.temperature")
        accuracies = take(f"{key}.accuracies", modalities)
        self._recalls = take(f"{key}.recalls", modalities, classes)
        self._stack = take(f"{key}.stack", modalities, classes, classes)
        self._stack_bias = take(f"{key}.stack_bias", classes)
        self._shares: Sequence[float] = [1.0] * modalities
        if rule == "accuracy":
            self._shares = accuracies.tolist()
        elif rule == "stacked":
            self._shares = [math.fsum(np.abs(part).ravel().tolist()) / classes**2 for part in self._stack]

    def emit_answers(self, evidence: Sequence[Evidence]) -> int:
        """Each modality's calibrated probabilities; returns where they are, each in whole lanes."""
        builder, classes = self._builder, self._classes
        answers = builder.work(self._modalities * padded(classes))
        prior = builder.numbers(self.prior)
        for modality, (logits, _) in enumerate(evidence):
            own = answers + modality * padded(classes)
            temperature = float(self._temperatures[modality])
            builder.softmax(builder.present(modality), logits, classes, temperature, own)
            if doubt := float(self._doubts[modality]):
                shares = builder.numbers([1 - doubt, doubt])
                builder.emit(operations.DOUBT, builder.present(modality), own, prior, padded(classes), shares)
            builder.emit(operations.CONSTANT, builder.absent(modality), prior, own, padded(classes))
        return answers

    def emit_rule(self, answers: int) -> tuple[int, int]:
        """The mixture of the answers and the weights shown for it; returns where they are."""
        builder, classes, modalities = self._builder, self._classes, self._modalities
        first = np.zeros(LANES, np.float32)
        first[0] = self._temperature
        parts = [first, _in_lanes(self.prior), _in_lanes(np.array(self._shares, np.float32))]
        parts += [_in_lanes(part) for part in (self._recalls, self._stack_bias, self._stack)]
        mixture, weights, room = builder.work(classes), builder.work(modalities), builder.work(classes)
        builder.emit(
            operations.LATE_RULE,
            ALL,
            answers,
            padded(classes),
            classes,
            modalities,
            RULES.index(self._rule),
            builder.numbers(np.concatenate(parts)),
            builder.mask(classes),
            mixture,
            weights,
            room,
        )
        return mixture, weights


def _in_lanes(values: Floats) -> Floats:
    """Vectors along the last axis, each padded to whole lanes, in one line."""
    size = values.shape[-1]
    filled = np.zeros((values.size // size, padded(size)), np.float32)
    filled[:, :size] = values.reshape(-1, size)
    return filled.ravel()


class _Mixed(NamedTuple):
    """Where what a fusion network makes of a row stands."""

    logits: int
    weights: int
    attention: int | None = None


class _Inputs(NamedTuple):
    """What a fusion network is told about a row."""

    features: Sequence[Vector]
    late: _Late
    answers: int
    classes: int


def _learned(
    builder: ProgramBuilder, config: LearnedFusionConfig, evidence: Sequence[Evidence], presence: int, classes: int
) -> Fused:
    late = _Late(builder, f"{_KEY}.late", config.rule, len(evidence), classes)
    temperature = builder.reader.take(f"{_KEY}.temperature").item()
    answers = late.emit_answers(evidence)
    features = [
        _features(builder, config, modality, own.features, answers + modality * padded(classes), classes)
        for modality, own in enumerate(evidence)
    ]
    inputs = _Inputs(features, late, answers, classes)
    match config:
        case EarlyConfig():
            mixed = _early(builder, f"{_NETWORK}.head", config.hidden, inputs, presence)
        case HybridConfig():
            mixed = _hybrid(builder, config, inputs, presence)
        case DeepConfig():
            mixed = _deep(builder, config, inputs)
        case ChannelsConfig():
            mixed = _channels(builder, config, inputs)
        case AdaptiveConfig():
            mixed = _adaptive(builder, config, inputs, presence)
        case VAEConfig():
            mixed = _vae(builder, config, inputs)
        case _:
            raise TypeError(f"there is no program for a fusion {config!r}")
    probabilities = builder.work(classes)
    builder.softmax(ALL, mixed.logits, classes, temperature, probabilities)
    builder.emit(operations.CONSTANT, NONE, builder.numbers(late.prior), probabilities, classes)
    return Fused(probabilities, answers, padded(classes), mixed.weights, mixed.attention)


def _features(
    builder: ProgramBuilder, config: LearnedFusionConfig, modality: int, own: Vector, answer: int, classes: int
) -> Vector:
    """What the network is told of a modality, with zeros where it is absent."""
    vector: Vector = () if config.inputs == "answers" else own
    if config.inputs != "features":
        scaled, least = builder.work(classes), builder.numbers([MIN_PROBABILITY])
        builder.emit(operations.LOG_ANSWERS, builder.present(modality), answer, padded(classes), least, scaled)
        vector += at_work(scaled, classes)
    builder.zero(builder.absent(modality), vector)
    return vector


def _joined(vectors: Sequence[Vector]) -> Vector:
    return tuple(piece for vector in vectors for piece in vector)


def _even(builder: ProgramBuilder) -> int:
    weights = builder.work(builder.modalities)
    builder.emit(operations.EVEN_WEIGHTS, ALL, builder.modalities, weights)
    return weights


def _early(builder: ProgramBuilder, key: str, hidden: Sequence[int], inputs: _Inputs, presence: int) -> _Mixed:
    x = _joined(inputs.features) + at_work(presence, builder.modalities)
    _, logits = builder.mlp(ALL, key, x, hidden, inputs.classes)
    return _Mixed(logits[0].start, _even(builder))


def _hybrid(builder: ProgramBuilder, config: HybridConfig, inputs: _Inputs, presence: int) -> _Mixed:
    early = _early(builder, f"{_NETWORK}.early.head", config.hidden, inputs, presence)
    mixture, weights = inputs.late.emit_rule(inputs.answers)
    gate = builder.numbers([builder.reader.take(f"{_NETWORK}.gate").item()])
    builder.emit(operations.BLEND, ALL, early.logits, mixture, padded(inputs.classes), gate)
    return _Mixed(early.logits, weights)


def _deep(builder: ProgramBuilder, config: DeepConfig, inputs: _Inputs) -> _Mixed:
    first, second = config.tower
    towers = []
    for modality, features in enumerate(inputs.features):
        present = builder.present(modality)
        _, tower = builder.mlp(present, f"{_NETWORK}.towers.{modality}.0", features, (first,), second, relu=True)
        builder.zero(builder.absent(modality), tower)
        towers.append(tower)
    trunk = builder.linear(ALL, f"{_NETWORK}.trunk.0", _joined(towers), config.trunk, relu=True)
    logits = builder.linear(ALL, f"{_NETWORK}.head", trunk, inputs.classes)
    return _Mixed(logits[0].start, _even(builder))


def _channels(builder: ProgramBuilder, config: ChannelsConfig, inputs: _Inputs) -> _Mixed:
    merged = builder.linear(ALL, f"{_NETWORK}.merge.0", _joined(inputs.features), config.hidden, relu=True)
    logits = builder.linear(ALL, f"{_NETWORK}.head", merged, inputs.classes)
    return _Mixed(logits[0].start, _even(builder))


def _adaptive(builder: ProgramBuilder, config: AdaptiveConfig, inputs: _Inputs, presence: int) -> _Mixed:
    """Where one modality is alone its attention and its weight are 1, so all but the projection is skipped there."""
    size, modalities, order = config.size, builder.modalities, config.order
    width = padded(size)
    joint = builder.work(modalities * width)
    for modality, features in enumerate(inputs.features):
        rows = builder.present(modality)
        projected = builder.linear(rows, f"{_NETWORK}.project.{modality}", features, size, relu=True)
        normal = builder.layer_norm(rows, f"{_NETWORK}.norms.{modality}", projected[0].start, size)
        builder.emit(operations.COPY, rows, normal, joint + modality * width, width)
    parts = 2 if order == "parallel" else 1
    fused, weights, attention = builder.work(parts * width), builder.work(modalities), None
    for part in range(parts):
        builder.zero(NONE, at_work(fused + part * width, width))
        for modality in range(modalities):
            own = joint + modality * width
            builder.emit(operations.COPY, builder.alone(modality), own, fused + part * width, width)
    builder.emit(operations.COPY, ALL, presence, weights, modalities)
    attended = joint
    if order in ATTENDING:
        attention = builder.work(modalities**2)
        builder.emit(operations.DIAGONAL, ALL, modalities, attention)
        attended = builder.work(modalities * width)
        divisor = builder.numbers([math.sqrt(size) if config.scale == "sqrt" else 1.0])
        room = builder.work(modalities)
        builder.emit(
            operations.MODALITY_ATTENTION,
            SEVERAL,
            joint,
            width,
            width,
            modalities,
            divisor,
            attended,
            attention,
            room,
        )
    source = joint if order == "parallel" else attended
    scores, step = -1, 0
    if order in SCORING:
        scores, step = _scores(builder, config, source)
    builder.emit(operations.WEIGH, SEVERAL, source, width, width, modalities, scores, step, fused, weights)
    if order == "parallel":
        unused = builder.work(modalities)
        builder.emit(operations.WEIGH, SEVERAL, attended, width, width, modalities, -1, 0, fused + width, unused)
    x = _joined([at_work(fused + part * width, size) for part in range(parts)])
    _, logits = builder.mlp(ALL, f"{_NETWORK}.head", x, config.head, inputs.classes)
    return _Mixed(logits[0].start, weights, attention)


def _scores(builder: ProgramBuilder, config: AdaptiveConfig, vectors: int) -> tuple[int, int]:
    """A score for each modality's vector; returns where the first is, and how far apart they are."""
    hidden, bias = builder.reader.linear(f"{_NETWORK}.scorer.hidden", config.size, config.scorer)
    score = builder.reader.take(f"{_NETWORK}.scorer.score.weight", 1, config.scorer)
    step = 16
    scores = builder.work(builder.modalities * step)
    for modality in range(builder.modalities):
        vector = at_work(vectors + modality * padded(config.size), config.size)
        inner = builder.dense(SEVERAL, vector, hidden, bias)
        builder.emit(operations.TANH, SEVERAL, inner, padded(config.scorer))
        builder.dense(SEVERAL, at_work(inner, config.scorer), score, None, target=scores + modality * step)
    return scores, step


def _vae(builder: ProgramBuilder, config: VAEConfig, inputs: _Inputs) -> _Mixed:
    size, modalities, take = config.size, builder.modalities, builder.reader.take
    width = padded(size)
    stride = -(-2 * width // 16) * 16
    posteriors = builder.work(modalities * stride)
    for modality, features in enumerate(inputs.features):
        rows = builder.present(modality)
        inner = features
        for index, hidden in enumerate(config.hidden):
            inner = builder.linear(rows, f"{_NETWORK}.encoders.{modality}.{2 * index}", inner, hidden, relu=True)
        last = f"{_NETWORK}.encoders.{modality}.{2 * len(config.hidden)}"
        matrix, bias = builder.reader.linear(last, sum(piece.size for piece in inner), 2 * size)
        builder.dense(rows, inner, matrix, bias, target=posteriors + modality * stride, groups=2)
    mean, weights = builder.work(size), builder.work(modalities)
    builder.emit(
        operations.EXPERTS,
        ALL,
        posteriors,
        posteriors + width,
        stride,
        width,
        size,
        modalities,
        builder.numbers([MIN_LOG_VARIANCE, MAX_LOG_VARIANCE]),
        builder.mask(size),
        mean,
        weights,
    )
    _, logits = builder.mlp(ALL, f"{_NETWORK}.head", at_work(mean, size), config.head, inputs.classes)
    # What only training needs: decoders, their noise, and the weight of the divergence.
    take(f"{_NETWORK}.beta")
    for modality, features in enumerate(inputs.features):
        told = sum(piece.size for piece in features)
        take(f"{_NETWORK}.noise.{modality}", told)
        sizes = (size, *config.hidden, told)
        for index, (size_in, size_out) in enumerate(pairwise(sizes)):
            builder.reader.linear(f"{_NETWORK}.decoders.{modality}.{2 * index}", size_in, size_out)
    return _Mixed(logits[0].start, weights)
