"""Late fusion: each modality's calibrated answer, weighed and mixed into one; and the frame of the learned fusions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.configs.fusion import LEAST_TOLD, FusionConfig, LearnedFusionConfig

_TINY = 1e-12
"""Keeps logarithms finite; in float32 far below anything that changes a decision."""


class Fused(NamedTuple):
    """A fusion's answer for N frames: M modalities, C classes."""

    probabilities: Tensor  # (N, C)
    modality_probabilities: Tensor  # (M, N, C), the class prior where the modality is absent
    weights: Tensor  # (M, N), 0 where absent, else summing to 1
    attention: Tensor | None = None
    """(N, M, M) how much each modality (row) took from each; rows sum to 1, and to 0 where the modality is absent."""
    embedding: Tensor | None = None
    """(N, D) what a learned fusion classified."""


class LateFusion(nn.Module):
    """p_i = softmax(z_i / T_i), then one of five rules over the modalities that are present.

    - `accuracy`: P = sum_i w_i p_i with w_i = acc_i / sum_j acc_j from validation;
    - `uniform`: the same with equal weights;
    - `per_class`: P_c ~ sum_i w_ic p_ic with w_ic = recall_ic / sum_j recall_jc from validation;
    - `product`: log P = sum_i log p_i - (n - 1) log prior, right for modalities independent given the class;
    - `stacked`: logistic regression on log p_i - log prior of all modalities, 0 for an absent one.

    Weights are renormalised over what is present. Where two or more modalities are, the mixture is sharpened by the
    fusion's own temperature; a single modality keeps the calibration of its own (and `stacked`, which was fitted to
    full evidence, then passes that modality's answer through). Where none is, the answer is the class prior.
    Fitted numbers live in buffers, so they are saved with the weights.
    """

    def __init__(self, config: FusionConfig, *, modalities: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("prior", torch.full((classes,), 1 / classes))
        self.register_buffer("temperatures", torch.ones(modalities))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("accuracies", torch.ones(modalities))
        self.register_buffer("recalls", torch.ones(modalities, classes))
        self.register_buffer("stack", torch.eye(classes).repeat(modalities, 1, 1))
        self.register_buffer("stack_bias", torch.zeros(classes))
        self.prior: Tensor  # (C,)
        self.temperatures: Tensor  # (M,)
        self.temperature: Tensor  # ()
        self.accuracies: Tensor  # (M,)
        self.recalls: Tensor  # (M, C)
        self.stack: Tensor  # (M, C, C), evidence in row i counts for class in column j
        self.stack_bias: Tensor  # (C,)

    def forward(self, logits: Tensor, present: Tensor, features: Sequence[Tensor] = ()) -> Fused:
        """logits (M, N, C) and present (M, N) to the fused answer; logits of absent modalities are ignored.

        A late fusion has no use for `features`; they are there to make all fusions alike.
        """
        shown = present.unsqueeze(-1)
        answers = torch.softmax(logits / self.temperatures[:, None, None], dim=2).where(shown, self.prior)
        mixed, weights = self._mix(answers, present)
        several = present.sum(dim=0) > 1
        sharpened = torch.softmax((mixed + _TINY).log() / self.temperature, dim=1)
        mixed = sharpened.where(several.unsqueeze(-1), mixed)
        return Fused(mixed.where(present.any(dim=0).unsqueeze(-1), self.prior), answers, weights)

    def _mix(self, answers: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Rule's mixture (N, C) and the weights to show for it (M, N)."""
        rule = self.config.rule
        if rule in ("accuracy", "uniform"):
            weights = shares(self._weights()[:, None] * present)
            return torch.einsum("mn,mnc->nc", weights, answers), weights
        if rule == "per_class":
            by_class = shares(self.recalls[:, None, :] * present.unsqueeze(-1))
            mixed = (by_class * answers).sum(dim=0)
            mixed = mixed / mixed.sum(dim=1, keepdim=True).clamp_min(_TINY)
            # Shown is each modality's weight averaged over the classes that the answer holds likely.
            return mixed, (by_class * mixed).sum(dim=2)

        prior = (self.prior + _TINY).log()
        evidence = ((answers + _TINY).log() - prior) * present.unsqueeze(-1)
        if rule == "product":
            return torch.softmax(evidence.sum(dim=0) + prior, dim=1), shares(present.to(answers.dtype))
        stacked = torch.softmax(torch.einsum("mnc,mck->nk", evidence, self.stack) + self.stack_bias, dim=1)
        weights = shares(self._weights()[:, None] * present)
        single = torch.einsum("mn,mnc->nc", weights, answers)
        return stacked.where((present.sum(dim=0) > 1).unsqueeze(-1), single), weights

    def _weights(self) -> Tensor:
        """Weight of each modality before renormalisation, (M,)."""
        if self.config.rule == "accuracy":
            return self.accuracies
        if self.config.rule == "stacked":
            return self.stack.abs().mean(dim=(1, 2))
        return torch.ones_like(self.accuracies)


class Inputs(NamedTuple):
    """What a fusion network is told about N frames."""

    features: tuple[Tensor, ...]  # of each modality (N, D_m), as `FusionInputs` says; 0 where it is absent
    present: Tensor  # (M, N)
    late: Fused

    def under(self, present: Tensor) -> Inputs:
        """The features with fewer modalities; the late fusion's answer stays as it is."""
        features = tuple(x * shown.unsqueeze(1) for x, shown in zip(self.features, present, strict=True))
        return Inputs(features, present, self.late)


class Mixed(NamedTuple):
    """What a fusion network makes of N frames; where nothing is present it is finite and means nothing."""

    logits: Tensor  # (N, C)
    embedding: Tensor  # (N, D)
    weights: Tensor  # (M, N), 0 where absent, else summing to 1
    attention: Tensor | None = None  # (N, M, M)


class FusionNetwork(nn.Module):
    """A network that classifies features frame by frame, and has no state."""

    def mix(self, inputs: Inputs) -> Mixed:
        """Logits and what there is to explain them."""
        raise NotImplementedError

    def loss(self, inputs: Inputs, labels: Tensor, class_weights: Tensor) -> Tensor:
        """What training goes down on, over frames with classes `labels` (N,) and loss weights (C,)."""
        return cross_entropy(self.mix(inputs).logits, labels, class_weights)


class LearnedFusion(nn.Module):
    """A fusion network beside a late fusion, whose calibrated answers remain those of the single modalities.

    The network's answer is sharpened by one temperature; without any evidence it is the class prior.
    """

    def __init__(self, config: LearnedFusionConfig, network: FusionNetwork, *, modalities: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.late = LateFusion(FusionConfig(rule=config.rule), modalities=modalities, classes=classes)
        self.register_buffer("temperature", torch.ones(()))
        self.temperature: Tensor  # ()

    @property
    def prior(self) -> Tensor:
        """Class prior (C,)."""
        return self.late.prior

    @property
    def temperatures(self) -> Tensor:
        """Of each modality's own answer, (M,)."""
        return self.late.temperatures

    def inputs(self, logits: Tensor, present: Tensor, features: Sequence[Tensor]) -> Inputs:
        """What the network is told; whatever stands in the rows of absent modalities is left out."""
        late = self.late(logits, present)
        told = []
        for x, answer, there in zip(features, late.modality_probabilities, present, strict=True):
            # Features are about as large as 1, and so are these.
            scaled = answer.clamp_min(LEAST_TOLD).log() / -math.log(LEAST_TOLD)
            columns = {"features": [x], "answers": [scaled], "both": [x, scaled]}[self.config.inputs]
            told.append(torch.cat(columns, dim=1).where(there.unsqueeze(1), x.new_zeros(())))
        return Inputs(tuple(told), present, late)

    def forward(self, logits: Tensor, present: Tensor, features: Sequence[Tensor] = ()) -> Fused:
        """logits (M, N, C), present (M, N) and each modality's features (N, D_m) to the fused answer."""
        inputs = self.inputs(logits, present, features)
        mixed = self.network.mix(inputs)
        probabilities = torch.softmax(mixed.logits / self.temperature, dim=1)
        probabilities = probabilities.where(present.any(dim=0).unsqueeze(1), self.prior)
        return Fused(probabilities, inputs.late.modality_probabilities, mixed.weights, mixed.attention, mixed.embedding)


def shares(weights: Tensor) -> Tensor:
    """Weights (M, …) divided by their sum over M; columns without any weight stay 0."""
    return weights / weights.sum(dim=0).clamp_min(_TINY)
