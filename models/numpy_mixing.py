"""The learned fusions' networks in numpy, on one column a machine: see models.adaptive, joint and vae for what they do.

Absent modalities have columns of zeros, as in torch. Whatever is only computed for some columns is computed in one of
the filling's widths, so that a machine's bits do not depend on its company.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import nn

from models.adaptive import AdaptiveFusion
from models.configs.fusion import ATTENDING, NARROWEST, WIDEST
from models.fusion import FusionNetwork
from models.joint import ChannelsFusion, DeepFusion, EarlyFusion, HybridFusion
from models.numpy_parts import Dense, Filling, array, normalise
from models.vae import MultimodalVAE
from pipeline.frames import Bools, Floats

_ZERO = np.zeros((), np.float32)
_TINY = np.float32(1e-12)
_NOWHERE = np.float32(-1e30)


class Told(NamedTuple):
    """What a network is told about some machines, one column each."""

    features: Sequence[Floats]
    """Of each modality (D_m + 1, columns), 0 where it is absent, but for the last row, which is ones."""
    present: Bools  # (M, columns)
    late: tuple[Floats, Floats] | None
    """Mixture (C, columns) and weights (M, columns) of the late fusion, for those that ask for it."""


class Mixture(NamedTuple):
    """What a network makes of some machines, one column each."""

    logits: Floats  # (C, columns), divided by the fusion's temperature
    weights: Floats  # (M, columns)
    attention: Floats | None = None  # (M, M, columns)


class Mixer:
    """A fusion network's weights; see `models.fusion.FusionNetwork`."""

    asks_late = False
    attends = False

    def __call__(self, told: Told, filling: Filling) -> Mixture:
        raise NotImplementedError


class Chain:
    """Dense layers with ReLU between them, and behind the last one if wanted, its weights multiplied by `scale`."""

    def __init__(self, module: nn.Module, *, scale: float = 1.0, relu: bool = False) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        self.size = layers[-1].out_features
        self._relu = relu
        self._layers: list[Dense] = []
        for layer in layers:
            factor = np.float32(scale if layer is layers[-1] else 1.0)
            below = self._layers[-1] if self._layers else None
            self._layers.append(Dense(array(layer.weight) * factor, array(layer.bias) * factor, below))

    def __call__(self, x: Floats) -> Floats:
        """(in + 1, columns), of which the last row is ones, to (out, columns)."""
        for layer in self._layers:
            if layer is not self._layers[0]:
                np.maximum(x, _ZERO, out=x)
            x = layer(x)
        z = x[: self.size]
        if self._relu:
            np.maximum(z, _ZERO, out=z)
        return z


class _Adaptive(Mixer):
    def __init__(self, network: AdaptiveFusion, scale: float) -> None:
        config = network.config
        self._size, self._order = config.size, config.order
        self.attends = config.order in ATTENDING
        self._divisor = np.float32(math.sqrt(config.size) if config.scale == "sqrt" else 1.0)
        self._project = [Dense(array(layer.weight), array(layer.bias)) for layer in _linears(network.project)]
        self._norms = [
            (norm.eps, array(norm.weight)[:, None], array(norm.bias)[:, None])
            for norm in network.norms
            if isinstance(norm, nn.LayerNorm)
        ]
        self._scorer = None
        if network.scorer is not None:
            hidden = network.scorer.hidden
            score = array(network.scorer.score.weight)[0][:, None]
            self._scorer = Dense(array(hidden.weight), array(hidden.bias)), score
        self._head = Chain(network.head, scale=scale)

    def __call__(self, told: Told, filling: Filling) -> Mixture:
        """As in torch, all but the projection is computed only for those who have more than sensor readings."""
        size, present = self._size, told.present
        own = self._project_one(0, told.features[0])
        fused = own if self._order != "parallel" else np.concatenate([own[:size], own])
        if not present[0].all():
            fused = np.concatenate([fused[:-1] * present[0], fused[-1:]])
        weights = present.astype(np.float32)
        attention = np.zeros((len(present), *present.shape), np.float32) if self.attends else None
        if attention is not None:
            for at, shown in enumerate(weights):
                attention[at, at] = shown
        others = np.logical_or.reduce(present[1:], 0).nonzero()[0]
        if len(others):
            here = filling.place(len(others))
            columns = np.full(filling.width(len(others)), others[0])
            columns[here] = others
            joint = np.empty((size + 1, len(present), len(columns)), np.float32)
            joint[:, 0] = own[:, columns]
            for at, x in enumerate(told.features[1:], 1):
                joint[:, at] = self._project_one(at, x[:, columns])
            found, shares, looked = self._represent(joint, present[:, columns])
            fused[:-1, others] = found[:, here]
            weights[:, others] = shares[:, here]
            if attention is not None and looked is not None:
                attention[:, :, others] = looked[:, :, here]
        return Mixture(self._head(fused), weights, attention)

    def _project_one(self, at: int, x: Floats) -> Floats:
        """H of one modality, and a row of ones."""
        size = self._size
        z = self._project[at](x)[:size]
        np.maximum(z, _ZERO, out=z)
        eps, gain, shift = self._norms[at]
        h = np.empty((size + 1, x.shape[1]), np.float32)
        normalise(z, eps, h[:size])
        h[:size] *= gain
        h[:size] += shift
        h[size] = 1
        return h

    def _represent(self, joint: Floats, present: Bools) -> tuple[Floats, Floats, Floats | None]:
        """Ht (D, columns), weights and attention from H of all modalities (d + 1, M, columns)."""
        size, attention = self._size, None
        attended = joint
        if self.attends:
            scores = np.add.reduce(joint[:size, :, None] * joint[:size, None], 0) / self._divisor
            attention = _masked_softmax(scores, present) * present[:, None]
            attended = np.add.reduce(joint[:, None] * attention, 2)
            attended[size] = 1
        source = joint if self._order == "parallel" else attended
        weights = evenly = _shares(present.astype(np.float32))
        if self._scorer is not None:
            layer, score = self._scorer
            hidden = np.tanh(layer(source.reshape(size + 1, -1))[: len(score)])
            weights = _masked_softmax(np.add.reduce(hidden * score, 0).reshape(present.shape), present)
        fused = np.add.reduce(source[:size] * weights, 1)
        if self._order == "parallel":
            fused = np.concatenate([fused, np.add.reduce(attended[:size] * evenly, 1)])
        return fused, weights, attention


class _Early(Mixer):
    def __init__(self, network: EarlyFusion, scale: float) -> None:
        self._head = Chain(network.head, scale=scale)

    def __call__(self, told: Told, filling: Filling) -> Mixture:
        masks = told.present.astype(np.float32)
        x = np.concatenate([*(part[:-1] for part in told.features), masks, told.features[0][-1:]])
        return Mixture(self._head(x), _shares(masks))


class _Hybrid(Mixer):
    asks_late = True

    def __init__(self, network: HybridFusion, scale: float) -> None:
        share = float(torch.sigmoid(network.gate.detach()))
        self._early = _Early(network.early, scale * share)
        self._rest = np.float32(scale * (1 - share))

    def __call__(self, told: Told, filling: Filling) -> Mixture:
        assert told.late is not None
        mixture, weights = told.late
        logits = self._early(told, filling).logits
        logits += self._rest * np.log(np.maximum(mixture, _TINY))
        return Mixture(logits, weights)


class _Deep(Mixer):
    def __init__(self, network: DeepFusion, scale: float) -> None:
        self._towers = [Chain(tower, relu=True) for tower in network.towers]
        self._trunk, self._head = Chain(network.trunk, relu=True), Chain(network.head, scale=scale)

    def __call__(self, told: Told, filling: Filling) -> Mixture:
        shown = told.present.astype(np.float32)
        found = [tower(x) * there for tower, x, there in zip(self._towers, told.features, shown, strict=True)]
        trunk = self._trunk(_with_ones(*found))
        return Mixture(self._head(_with_ones(trunk)), _shares(shown))


class _Channels(Mixer):
    def __init__(self, network: ChannelsFusion, scale: float) -> None:
        self._merge, self._head = Chain(network.merge, relu=True), Chain(network.head, scale=scale)

    def __call__(self, told: Told, filling: Filling) -> Mixture:
        merged = self._merge(_with_ones(*(part[:-1] for part in told.features)))
        return Mixture(self._head(_with_ones(merged)), _shares(told.present.astype(np.float32)))


class _VAE(Mixer):
    def __init__(self, network: MultimodalVAE, scale: float) -> None:
        self._size = network.config.size
        self._encoders = [Chain(encoder) for encoder in network.encoders]
        self._head = Chain(network.head, scale=scale)

    def __call__(self, told: Told, filling: Filling) -> Mixture:
        size = self._size
        means, precisions = [], []
        for encoder, x, shown in zip(self._encoders, told.features, told.present, strict=True):
            found = encoder(x)
            precision = np.exp(-np.clip(found[size:], NARROWEST, WIDEST)) * shown
            means.append(found[:size] * precision)
            precisions.append(precision)
        each = np.stack(precisions)
        mean = np.add.reduce(np.stack(means), 0) / (1 + np.add.reduce(each, 0))
        weights = _shares(np.add.reduce(each, 1) / np.float32(size))
        return Mixture(self._head(_with_ones(mean)), weights)


_MIXERS: Final[dict[type[FusionNetwork], Callable[..., Mixer]]] = {
    AdaptiveFusion: _Adaptive,
    EarlyFusion: _Early,
    HybridFusion: _Hybrid,
    DeepFusion: _Deep,
    ChannelsFusion: _Channels,
    MultimodalVAE: _VAE,
}


def known(network: FusionNetwork) -> bool:
    """Whether there is a Mixer for it."""
    return type(network) in _MIXERS


def mixer(network: FusionNetwork, temperature: float) -> Mixer:
    """The network in numpy; its logits are divided by the temperature."""
    return _MIXERS[type(network)](network, 1 / temperature)


def _linears(layers: nn.ModuleList) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def _with_ones(*parts: Floats) -> Floats:
    """The blocks one below the other, and a row of ones."""
    return np.concatenate([*parts, np.ones((1, parts[0].shape[1]), np.float32)])


def _shares(weights: Floats) -> Floats:
    """Weights (M, …) divided by their sum over M; columns without any weight stay 0."""
    shares: Floats = weights / np.maximum(np.add.reduce(weights, 0), _TINY)
    return shares


def _masked_softmax(scores: Floats, present: Bools) -> Floats:
    """Over the modalities of (…, M, columns) that are present (M, columns); zeros where none is."""
    masked: Floats = np.where(present, scores, _NOWHERE)
    masked -= np.maximum.reduce(masked, -2, keepdims=True)
    np.exp(masked, masked)
    masked /= np.add.reduce(masked, -2, keepdims=True)
    masked *= present
    return masked
