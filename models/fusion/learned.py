"""LearnedFusion: a fusion network beside a late fusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.configs.fusion import MIN_PROBABILITY, FusionConfig, LearnedFusionConfig
from models.fusion.base import Fused, FusionNetwork, Inputs
from models.fusion.late import LateFusion


class LearnedFusion(nn.Module):
    """A fusion network beside a late fusion, whose calibrated answers remain those of the single modalities.

    The network's answer is calibrated by one temperature; without any evidence it is the class prior.
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
        """Inputs of the network; 0 in the rows of absent modalities."""
        late = self.late(logits, present)
        columns = []
        for x, answer, there in zip(features, late.modality_probabilities, present, strict=True):
            # Scaled to be about as large as the features.
            scaled = answer.clamp_min(MIN_PROBABILITY).log() / -math.log(MIN_PROBABILITY)
            parts = {"features": [x], "answers": [scaled], "both": [x, scaled]}[self.config.inputs]
            columns.append(torch.cat(parts, dim=1).where(there.unsqueeze(1), x.new_zeros(())))
        return Inputs(tuple(columns), present, late)

    def forward(self, logits: Tensor, present: Tensor, features: Sequence[Tensor] = ()) -> Fused:
        """logits (M, N, C), present (M, N) and each modality's features (N, D_m) to the fused answer."""
        inputs = self.inputs(logits, present, features)
        mixed = self.network.mix(inputs)
        probabilities = torch.softmax(mixed.logits / self.temperature, dim=1)
        probabilities = probabilities.where(present.any(dim=0).unsqueeze(1), self.prior)
        return Fused(probabilities, inputs.late.modality_probabilities, mixed.weights, mixed.attention, mixed.embedding)
