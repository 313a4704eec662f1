"""Weights of a network of areas as its compiled step takes them: relations multiplied into keys and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.exact import softmax
from models.areas.graph import NODE_TYPES, RELATIONS
from models.areas.stepping.answers import Head
from models.areas.stepping.inter_modal import InterModal, Nesting
from models.areas.stepping.layers import Hierarchy, Transformer
from models.stepping.kernels.codes import padded
from models.stepping.programs.weights import WeightReader
from pipeline.arrays import Floats

_TYPES: Final = len(NODE_TYPES)
_R: Final = len(RELATIONS)

Layer = Transformer | Hierarchy | InterModal


class Encoder(NamedTuple):
    """Of one node type and modality."""

    node_type: int
    modality: int
    matrix: Floats  # (D, W)
    bias: Floats


class NetworkWeights(NamedTuple):
    """All of a network."""

    encoders: tuple[Encoder, ...]
    graphs: tuple[tuple[Layer, ...], ...]
    """The layers of each graph: one graph, or of a late network one for each modality."""
    joined: tuple[Floats, Floats] | None
    """Matrices (3, M W + M, W) and biases (3, W) that join a node's modalities."""
    score: Floats | None
    """(W,) of the published readout."""
    head: Head


def take_weights(reader: WeightReader, config: AreaNetworkConfig, shape: AreaShape) -> NetworkWeights:
    """All weights, by the names that the network has in torch; raises ModelFileError if one is missing or misshapen."""
    encoders = tuple(_encoders(reader, config, shape))
    modalities, joined, score = shape.modalities, None, None
    if config.kind == "ima":
        graphs = tuple(_inter_modal(reader, f"layers.{number}", config, modalities) for number in range(config.layers))
        layers: tuple[tuple[Layer, ...], ...] = (graphs,)
        score = reader.take("score", config.width)
    else:
        take = _hierarchical if config.kind.startswith("han") else _transform
        names = [f"graphs.{m}" for m in range(modalities)] if config.kind.endswith("late") else ["layers"]
        layers = tuple(
            tuple(take(reader, f"{name}.{number}", config) for number in range(config.rounds)) for name in names
        )
    if config.joins:
        joined = _joined(reader, config.width, modalities)
    head = _head(reader, config, shape)
    return NetworkWeights(encoders, layers, joined, score, head)


def _linear(reader: WeightReader, key: str, size_in: int, size_out: int) -> tuple[Floats, Floats]:
    """Matrix (in, out) and bias (out,)."""
    matrix, bias = reader.linear(key, size_in, size_out)
    return np.ascontiguousarray(matrix.T), bias


def _encoders(reader: WeightReader, config: AreaNetworkConfig, shape: AreaShape) -> Sequence[Encoder]:
    found = []
    for node_type, sizes in enumerate(config.inputs(shape)):
        for modality, size in enumerate(sizes):
            key = f"encoder.layers.{node_type}.{modality}"
            matrix, bias = _linear(reader, key, max(size, 1), config.width)
            if size:  # without features the layer is not used
                found.append(Encoder(node_type, modality, *_flat(matrix, bias)))
    return found


def _joined(reader: WeightReader, width: int, modalities: int) -> tuple[Floats, Floats]:
    size = modalities * width + modalities
    each = [_linear(reader, f"joined.layers.{t}", size, width) for t in range(_TYPES)]
    matrices, biases = _flat(np.stack([matrix for matrix, _ in each]), np.stack([bias for _, bias in each]))
    return matrices, biases


def _norm(reader: WeightReader, key: str, width: int) -> Floats:
    return np.stack([reader.take(f"{key}.norm.weight", width), reader.take(f"{key}.norm.bias", width)])


def _kept(reader: WeightReader, key: str) -> Floats:
    """Sigmoids of the numbers that say how much of a message each node type takes."""
    skip = reader.take(f"{key}.skip", _TYPES)
    return np.array([softmax(np.array([number, 0], np.float32))[0] for number in skip], np.float32)


def _through_heads(matrix: Floats, per_head: Floats) -> Floats:
    """(W, W) @ (W / H, W / H) on the columns of each of the H heads, summed in order: matrix products of numpy have
    other bits on other processors."""
    heads, size = per_head.shape[:2]
    split = matrix.reshape(-1, heads, size)
    product = np.zeros_like(split)
    for a in range(size):
        product += split[:, :, a, None] * per_head[None, :, a, :]
    return product.reshape(matrix.shape)


def _of_sources(matrices: Floats, per_head: Floats) -> Floats:
    """(R, W, W): of each relation the matrix (3, W, W) of its sources through its heads (R, H, W / H, W / H)."""
    return np.stack(
        [_through_heads(matrices[one.source], heads) for one, heads in zip(RELATIONS, per_head, strict=True)]
    )


def _scale(reader: WeightReader, key: str, size: int) -> Floats:
    scale = np.float32(1 / math.sqrt(size))
    return (reader.take(f"{key}.relation", _R) * scale)[:, None, None]


def _matrices(reader: WeightReader, key: str, width: int) -> dict[str, Floats]:
    """(3, W, W) of the node types."""
    return {name: reader.take(f"{key}.{name}", _TYPES, width, width) for name in ("key", "query", "value", "output")}


def _transform(reader: WeightReader, key: str, config: AreaNetworkConfig) -> Layer:
    width, heads = config.width, config.heads
    size = width // heads
    matrices = _matrices(reader, key, width)
    attention, message = (reader.take(f"{key}.{name}", _R, heads, size, size) for name in ("attention", "message"))
    keys = _of_sources(matrices["key"], attention) * _scale(reader, key, size)
    values = _of_sources(matrices["value"], message)
    kept, norm = _kept(reader, key), _norm(reader, key, width)
    return Transformer(*_flat(keys, matrices["query"], values, matrices["output"], kept, norm))


def _hierarchical(reader: WeightReader, key: str, config: AreaNetworkConfig) -> Layer:
    width, heads = config.width, config.heads
    matrix = reader.take(f"{key}.project", _TYPES, width, width)
    # (R, W / H, H) with the heads side by side.
    source, target = (
        np.ascontiguousarray(reader.take(f"{key}.from_{end}", _R, width // heads, heads).transpose(0, 2, 1)).reshape(
            _R, width
        )
        for end in ("source", "target")
    )
    semantic, bias = _linear(reader, f"{key}.semantic", width, width)
    query, norm = reader.take(f"{key}.query", width), _norm(reader, key, width)
    return Hierarchy(*_flat(matrix, source, target, semantic, bias, query, norm))


def _inter_modal(reader: WeightReader, key: str, config: AreaNetworkConfig, modalities: int) -> Layer:
    width, heads = config.width, config.heads
    size = width // heads
    matrices = _matrices(reader, key, width)
    node, message = (reader.take(f"{key}.{name}", _R, heads, size, size) for name in ("node", "message"))
    modal = reader.take(f"{key}.modality", _R, modalities, heads, size, size)
    keys = _of_sources(matrices["key"], node) * _scale(reader, key, size)
    modal_keys = np.stack([_of_sources(matrices["key"], modal[:, m]) for m in range(modalities)])
    values = _of_sources(matrices["value"], message)
    kept, norm = _kept(reader, key), _norm(reader, key, width)
    return InterModal(*_flat(keys, modal_keys, matrices["query"], values, matrices["output"], kept, norm))


def nesting(config: AreaNetworkConfig) -> Nesting:
    """What HGNN-IMA's attention is made of."""
    cross, adapt, inf, align = (part not in config.without for part in ("cross", "adapt", "inf", "align"))
    return Nesting(cross, adapt, inf, align, config.renormalisation == "softmax")


def _head(reader: WeightReader, config: AreaNetworkConfig, shape: AreaShape) -> Head:
    width, classes = config.width, shape.classes
    machine = _linear(reader, "head.machine.0", width, width)
    utility = _linear(reader, "head.utility.0", width, width)
    correction = _padded(*_linear(reader, "head.correction", width, classes))
    cause = _padded(*_linear(reader, "head.cause", width, classes))
    own, own_bias = reader.linear("head.own", width, 1)
    none, none_bias = reader.linear("head.none", 2 * width, 1)
    numbers = np.concatenate([own_bias, none_bias, reader.take("head.own_evidence", 1)])
    shared = np.zeros(shape.evidence, np.float32)
    if config.evidence:
        shared = reader.take("head.shared_evidence", shape.evidence)
    quiet = np.isin(np.arange(classes), shape.quiet).astype(np.float32)
    return Head(*_flat(*machine, *utility, *correction, *cause, own, none, numbers, shared, quiet))


def _padded(matrix: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """With zeros behind the outputs, up to whole lanes."""
    more = padded(len(bias)) - len(bias)
    return np.pad(matrix, ((0, 0), (0, more))), np.pad(bias, (0, more))


def _flat(*weights: Floats) -> list[Floats]:
    return [np.ascontiguousarray(each, np.float32).ravel() for each in weights]
