"""MultimodalVAE: a product of Gaussian experts over the modalities that are present, with a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.configs.fusion import MAX_LOG_VARIANCE, MIN_LOG_VARIANCE, VAEConfig
from models.encoders.base import mlp
from models.fusion.base import FusionNetwork, Inputs, Mixed, shares


class Posterior(NamedTuple):
    """q(z | what is present) of N frames."""

    mean: Tensor  # (N, Z)
    variance: Tensor  # (N, Z)
    precisions: Tensor  # (M, N, Z) what each modality adds, 0 where absent


class MultimodalVAE(FusionNetwork):
    """q_i(z | x_i) = N(mu_i, var_i);  q(z | x) with precision 1 + sum_i 1 / var_i and mean var sum_i mu_i / var_i.

    Sums run over the present modalities; without any, z has its prior N(0, I). The classifier reads the mean, so
    answers are deterministic. A modality's weight is its share of the precision.
    """

    def __init__(self, config: VAEConfig, *, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        self.encoders = nn.ModuleList(mlp(size, config.hidden, 2 * config.size) for size in sizes)
        self.decoders = nn.ModuleList(mlp(config.size, config.hidden, size) for size in sizes)
        self.noise = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in sizes)
        """Log-variance of each feature about its reconstruction."""
        self.head = mlp(config.size, config.head, classes)
        # A buffer, so that an interrupted training continues with the same beta.
        self.register_buffer("beta", torch.zeros(()))
        self.beta: Tensor  # ()

    def mix(self, inputs: Inputs) -> Mixed:
        """See `FusionNetwork.mix`; the embedding is the posterior mean."""
        posterior = self.posterior(inputs)
        weights = shares(posterior.precisions.mean(dim=2))
        return Mixed(self.head(posterior.mean), posterior.mean, weights)

    def posterior(self, inputs: Inputs) -> Posterior:
        """The product of the present experts and the prior."""
        means, precisions = [], []
        for encoder, x, there in zip(self.encoders, inputs.features, inputs.present, strict=True):
            mean, log_variance = encoder(self.dropout(x)).chunk(2, dim=1)
            precision = torch.exp(-log_variance.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)) * there.unsqueeze(1)
            means.append(mean * precision)
            precisions.append(precision)
        each = torch.stack(precisions)
        variance = 1 / (1 + each.sum(dim=0))
        return Posterior(variance * torch.stack(means).sum(dim=0), variance, each)

    def negative_elbo(self, inputs: Inputs, posterior: Posterior, beta: float) -> Tensor:
        """Of N frames (N,): -E log p(x | z), with one sample, over the present modalities, plus beta KL(q || p)."""
        z = posterior.mean + posterior.variance.sqrt() * torch.randn_like(posterior.mean)
        divergence = 0.5 * (posterior.variance + posterior.mean**2 - 1 - posterior.variance.log()).sum(dim=1)
        total = beta * divergence
        for decoder, noise, x, there in zip(self.decoders, self.noise, inputs.features, inputs.present, strict=True):
            spread = noise.clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
            negative_log_likelihood = 0.5 * (
                spread + (x - decoder(z)) ** 2 * torch.exp(-spread) + math.log(2 * math.pi)
            )
            total = total + negative_log_likelihood.sum(dim=1) * there
        return total

    def loss(self, inputs: Inputs, labels: Tensor, class_weights: Tensor) -> Tensor:
        """Classification and ELBO, each the mean over all present modalities together and each of them alone.

        A single modality has to reconstruct the others too, which aligns their codes.
        """
        if self.training:
            self.beta += self.config.beta / self.config.warm_up_updates
            self.beta.clamp_(max=self.config.beta)
        subsets = [inputs.present]
        if len(inputs.present) > 1:
            for modality, there in enumerate(inputs.present):
                alone = torch.zeros_like(inputs.present)
                alone[modality] = there
                subsets.append(alone)
        losses = []
        for subset in subsets:
            rows = subset.any(dim=0)
            if not rows.any():
                continue
            posterior = self.posterior(inputs.under(subset))
            elbo = self.negative_elbo(inputs, posterior, float(self.beta))[rows].mean()
            classification = cross_entropy(self.head(posterior.mean[rows]), labels[rows], class_weights)
            losses.append(classification + self.config.elbo * elbo)
        return torch.stack(losses).mean()
