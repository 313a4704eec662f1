"""LateFusion: each modality's calibrated answer, weighted and mixed into one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.configs.fusion import FusionConfig
from models.fusion.base import TINY, Fused, shares


class LateFusion(nn.Module):
    """p_i = (1 - d_i) softmax(z_i / T_i) + d_i prior, then one of five rules over the present modalities.

    The doubt d_i is the chance that an answer says nothing, as that of a misread text. It caps what a modality may say:
    no class falls below d_i times its prior, so that its evidence log p - log prior is at least log d_i.

    - `accuracy`: P = sum_i w_i p_i with w_i = acc_i / sum_j acc_j from validation;
    - `uniform`: the same with equal weights;
    - `per_class`: P_c ~ sum_i w_ic p_ic with w_ic = recall_ic / sum_j recall_jc from validation;
    - `product`: log P = sum_i log p_i - (n - 1) log prior, right for modalities independent given the class;
    - `stacked`: logistic regression on log p_i - log prior of all modalities, 0 for an absent one.

    Weights are renormalised over what is present. Where two or more modalities are, the mixture is calibrated by the
    fusion's own temperature; a single modality keeps its own calibration (and `stacked`, which is fitted to several
    modalities, then passes that modality's answer through). Where none is, the answer is the class prior. Fitted
    numbers are buffers, so they are saved with the weights.
    """

    def __init__(self, config: FusionConfig, *, modalities: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("prior", torch.full((classes,), 1 / classes))
        self.register_buffer("temperatures", torch.ones(modalities))
        self.register_buffer("doubts", torch.zeros(modalities))
        self.register_buffer("temperature", torch.ones(()))
        self.register_buffer("accuracies", torch.ones(modalities))
        self.register_buffer("recalls", torch.ones(modalities, classes))
        self.register_buffer("stack", torch.eye(classes).repeat(modalities, 1, 1))
        self.register_buffer("stack_bias", torch.zeros(classes))
        self.prior: Tensor  # (C,)
        self.temperatures: Tensor  # (M,)
        self.doubts: Tensor  # (M,)
        self.temperature: Tensor  # ()
        self.accuracies: Tensor  # (M,)
        self.recalls: Tensor  # (M, C)
        self.stack: Tensor  # (M, C, C), evidence in row i counts for class in column j
        self.stack_bias: Tensor  # (C,)

    def forward(self, logits: Tensor, present: Tensor, features: Sequence[Tensor] = ()) -> Fused:
        """logits (M, N, C) and present (M, N) to the fused answer; logits of absent modalities are ignored.

        `features` are not used; they make the signature that of a learned fusion.
        """
        there = present.unsqueeze(-1)
        answers = torch.softmax(logits / self.temperatures[:, None, None], dim=2)
        doubts = self.doubts[:, None, None]
        answers = ((1 - doubts) * answers + doubts * self.prior).where(there, self.prior)
        mixed, weights = self._mix(answers, present)
        several = present.sum(dim=0) > 1
        sharpened = torch.softmax((mixed + TINY).log() / self.temperature, dim=1)
        mixed = sharpened.where(several.unsqueeze(-1), mixed)
        return Fused(mixed.where(present.any(dim=0).unsqueeze(-1), self.prior), answers, weights)

    def _mix(self, answers: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """The rule's mixture (N, C) and its weights (M, N)."""
        rule = self.config.rule
        if rule in ("accuracy", "uniform"):
            weights = shares(self._weights()[:, None] * present)
            return torch.einsum("mn,mnc->nc", weights, answers), weights
        if rule == "per_class":
            by_class = shares(self.recalls[:, None, :] * present.unsqueeze(-1))
            mixed = (by_class * answers).sum(dim=0)
            mixed = mixed / mixed.sum(dim=1, keepdim=True).clamp_min(TINY)
            # The weight of a modality is its mean over the classes, by their probability in the answer.
            return mixed, (by_class * mixed).sum(dim=2)

        prior = (self.prior + TINY).log()
        evidence = ((answers + TINY).log() - prior) * present.unsqueeze(-1)
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
