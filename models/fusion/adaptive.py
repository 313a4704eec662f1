"""AdaptiveFusion: joint representation, cross-modal attention, adaptive reconstruction, adversarial term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.configs.fusion import ATTENDING, SCORING, AdaptiveConfig
from models.encoders.base import mlp
from models.fusion.base import FusionNetwork, Inputs, Mixed, shares


class Representation(NamedTuple):
    """N frames as the classifier sees them, and the steps to it."""

    fused: Tensor  # (N, D)
    joint: Tensor  # (N, M, d) each modality in the shared space, before attention
    weights: Tensor  # (M, N)
    attention: Tensor | None  # (N, M, M)


class ModalityScorer(nn.Module):
    """MLP_a: one score for each modality, with tanh between its two layers; a bias would change no softmax.

    The second layer has one output and is no matrix product, whose last bit would depend on the number of rows.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors (…, d) to scores (…)."""
        return (torch.tanh(self.hidden(vectors)) * self.score.weight[0]).sum(dim=-1)


class AdaptiveFusion(FusionNetwork):
    """H_i = LN(ReLU(W_i x_i + b_i));  A_ij = softmax_j(H_i.H_j / sqrt(d)), H'_i = sum_j A_ij H_j;
    alpha = softmax_i(MLP(H'_i)), Ht = sum_i alpha_i H'_i;  logits = f(Ht).

    Both softmaxes run over the modalities that are present. Training adds the loss at Ht + Delta, where Delta has
    length epsilon ||Ht|| and the direction in which the loss rises fastest; no gradient flows through Delta.
    """

    def __init__(self, config: AdaptiveConfig, *, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.ModuleList(nn.Linear(size, config.size) for size in sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(config.size) for _ in sizes)
        self.scorer = ModalityScorer(config.size, config.scorer) if config.order in SCORING else None
        self.head = mlp(config.size * (2 if config.order == "parallel" else 1), config.head, classes)

    def mix(self, inputs: Inputs) -> Mixed:
        """See `FusionNetwork.mix`; the embedding is Ht.

        Most machines have no text most of the time. Where one modality is alone, its attention and weight are 1 and
        Ht = H_i, so the rest is only computed for the other frames.
        """
        several = inputs.present.sum(dim=0) > 1
        rows = several.nonzero().squeeze(1)
        if self.training or 2 * len(rows) > len(several):
            whole = self.represent(inputs)
            return Mixed(self.head(whole.fused), whole.fused, whole.weights, whole.attention)
        like = inputs.features[0]
        fused = like.new_zeros(len(several), self.config.size)
        for modality, there in enumerate(inputs.present):
            alone = (there & ~several).nonzero().squeeze(1)
            fused = fused.index_copy(0, alone, self.project_one(modality, inputs.features[modality][alone]))
        if self.config.order == "parallel":
            fused = torch.cat([fused, fused], dim=1)
        weights = inputs.present.to(like.dtype)
        attention = torch.diag_embed(weights.T) if self.config.order in ATTENDING else None
        if len(rows):
            features = tuple(x[rows] for x in inputs.features)
            part = self.represent(Inputs(features, inputs.present[:, rows], inputs.late))
            fused = fused.index_copy(0, rows, part.fused)
            weights = weights.index_copy(1, rows, part.weights)
            if attention is not None and part.attention is not None:
                attention = attention.index_copy(0, rows, part.attention)
        return Mixed(self.head(fused), fused, weights, attention)

    def project_one(self, modality: int, x: Tensor) -> Tensor:
        """H_i (N, d) of modality i from its features (N, D_i)."""
        projected: Tensor = self.norms[modality](torch.relu(self.project[modality](self.dropout(x))))
        return projected

    def represent(self, inputs: Inputs) -> Representation:
        """Everything up to the classifier."""
        present = inputs.present.T  # (N, M)
        joint = torch.stack([self.project_one(modality, x) for modality, x in enumerate(inputs.features)], dim=1)
        order = self.config.order
        attention = self.attend(joint, present) if order in ATTENDING else None
        attended = joint if attention is None else attention @ joint
        source = joint if order == "parallel" else attended
        equal = shares(inputs.present.to(joint.dtype)).T
        weights = equal if self.scorer is None else masked_softmax(self.scorer(source), present)
        fused = _weighted_sum(source, weights)
        if order == "parallel":
            fused = torch.cat([fused, _weighted_sum(attended, equal)], dim=1)
        return Representation(fused, joint, weights.T, attention)

    def attend(self, joint: Tensor, present: Tensor) -> Tensor:
        """A (N, M, M) of representations (N, M, d); nothing goes to or from a modality that is absent."""
        divisor = math.sqrt(self.config.size) if self.config.scale == "sqrt" else 1.0
        scores = joint @ joint.transpose(1, 2) / divisor
        return masked_softmax(scores, present.unsqueeze(1)) * present.unsqueeze(2)

    def disturbance(self, fused: Tensor, labels: Tensor) -> Tensor:
        """Delta (N, D) for representations (N, D) of frames of these classes, as a constant."""
        with torch.enable_grad():
            point = fused.detach().requires_grad_()
            loss = cross_entropy(self.head(point), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, point)
        length = self.config.epsilon * point.detach().norm(dim=1, keepdim=True)
        disturbance: Tensor = length * gradient / (gradient.norm(dim=1, keepdim=True) + 1e-12)
        return disturbance

    def loss(self, inputs: Inputs, labels: Tensor, class_weights: Tensor) -> Tensor:
        """See `FusionNetwork.loss`; gradients reach the encoders through both terms."""
        fused = self.represent(inputs).fused
        loss = cross_entropy(self.head(fused), labels, class_weights)
        if not self.config.adversarial:
            return loss
        disturbed = fused + self.disturbance(fused, labels)
        return loss + self.config.adversarial * cross_entropy(self.head(disturbed), labels, class_weights)


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax over the last axis among what is present; zeros where nothing is."""
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~present, lowest), dim=-1) * present


def _weighted_sum(vectors: Tensor, weights: Tensor) -> Tensor:
    """Vectors (N, M, d) summed by weights (N, M)."""
    return (weights.unsqueeze(2) * vectors).sum(dim=1)
