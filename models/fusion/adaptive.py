"""AdaptiveFusion: joint representation, cross-modal attention, adaptive reconstruction, adversarial term (3.3)."""

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
    """N frames as the classifier sees them, and how it came about."""

    fused: Tensor  # (N, D)
    joint: Tensor  # (N, M, d) each modality in the shared space, before any of them met another
    weights: Tensor  # (M, N)
    attention: Tensor | None  # (N, M, M)


class ModalityScorer(nn.Module):
    """MLP_a: one score for each modality, with tanh between its two layers; a bias would change no softmax.

    The second layer has one output. As a product of matrices its last bit would depend on the number of rows, and so a
    machine's answer on how many others are in its round.
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
    length epsilon ||Ht|| and points to where the loss rises fastest; no gradient flows through Delta.
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

        Most machines have no text most of the time. Where one modality is alone, its attention and its weight are 1
        and Ht = H_i, so all the rest is only computed for the others.
        """
        several = inputs.present.sum(dim=0) > 1
        rows = several.nonzero().squeeze(1)
        if self.training or 2 * len(rows) > len(several):
            found = self.represent(inputs)
            return Mixed(self.head(found.fused), found.fused, found.weights, found.attention)
        like = inputs.features[0]
        fused = like.new_zeros(len(several), self.config.size)
        for at, shown in enumerate(inputs.present):
            own = (shown & ~several).nonzero().squeeze(1)
            fused = fused.index_copy(0, own, self.project_one(at, inputs.features[at][own]))
        if self.config.order == "parallel":
            fused = torch.cat([fused, fused], dim=1)
        weights = inputs.present.to(like.dtype)
        attention = torch.diag_embed(weights.T) if self.config.order in ATTENDING else None
        if len(rows):
            features = tuple(x[rows] for x in inputs.features)
            found = self.represent(Inputs(features, inputs.present[:, rows], inputs.late))
            fused = fused.index_copy(0, rows, found.fused)
            weights = weights.index_copy(1, rows, found.weights)
            if attention is not None and found.attention is not None:
                attention = attention.index_copy(0, rows, found.attention)
        return Mixed(self.head(fused), fused, weights, attention)

    def project_one(self, at: int, x: Tensor) -> Tensor:
        """H_i (N, d) of modality i from its features (N, D_i)."""
        found: Tensor = self.norms[at](torch.relu(self.project[at](self.dropout(x))))
        return found

    def represent(self, inputs: Inputs) -> Representation:
        """Everything up to the classifier."""
        present = inputs.present.T  # (N, M)
        joint = torch.stack([self.project_one(at, x) for at, x in enumerate(inputs.features)], dim=1)
        order = self.config.order
        attention = self.attend(joint, present) if order in ATTENDING else None
        attended = joint if attention is None else attention @ joint
        source = joint if order == "parallel" else attended
        evenly = shares(inputs.present.to(joint.dtype)).T
        weights = evenly if self.scorer is None else masked_softmax(self.scorer(source), present)
        fused = _weighed(source, weights)
        if order == "parallel":
            fused = torch.cat([fused, _weighed(attended, evenly)], dim=1)
        return Representation(fused, joint, weights.T, attention)

    def attend(self, joint: Tensor, present: Tensor) -> Tensor:
        """A (N, M, M) of representations (N, M, d); nothing goes to or from a modality that is absent."""
        divisor = math.sqrt(self.config.size) if self.config.scale == "sqrt" else 1.0
        scores = joint @ joint.transpose(1, 2) / divisor
        return masked_softmax(scores, present.unsqueeze(1)) * present.unsqueeze(2)

    def disturbance(self, fused: Tensor, labels: Tensor) -> Tensor:
        """Delta (N, D) for representations (N, D) of frames of these classes, as a constant."""
        with torch.enable_grad():
            at = fused.detach().requires_grad_()
            loss = cross_entropy(self.head(at), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, at)
        length = self.config.epsilon * at.detach().norm(dim=1, keepdim=True)
        found: Tensor = length * gradient / (gradient.norm(dim=1, keepdim=True) + 1e-12)
        return found

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


def _weighed(vectors: Tensor, weights: Tensor) -> Tensor:
    """Vectors (N, M, d) summed by weights (N, M)."""
    return (weights.unsqueeze(2) * vectors).sum(dim=1)
