"""Fusions by concatenation: early, hybrid, deep, and the multi-channel model's dense merge (docs/guide/models.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.configs.fusion import ChannelsConfig, DeepConfig, HybridConfig
from models.encoders.base import mlp
from models.fusion.base import FusionNetwork, Inputs, Mixed, shares


class EarlyFusion(FusionNetwork):
    """[h_sensors; u_text; masks] -> dense layers with ReLU -> C. All present modalities have the same weight."""

    def __init__(self, hidden: Sequence[int], dropout: float, *, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.head = mlp(sum(sizes) + len(sizes), hidden, classes)

    def mix(self, inputs: Inputs) -> Mixed:
        """See `FusionNetwork.mix`; the embedding is the last hidden layer."""
        masks = inputs.present.T.to(inputs.features[0].dtype)
        x = torch.cat([self.dropout(torch.cat(inputs.features, dim=1)), masks], dim=1)
        embedding = self.head[:-1](x)
        return Mixed(self.head[-1](embedding), embedding, _equal_weights(inputs))


class HybridFusion(FusionNetwork):
    """s(g) z_early + (1 - s(g)) log P_late with one learned number g, initially 0: the mean of both."""

    def __init__(self, config: HybridConfig, *, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        self.early = EarlyFusion(config.hidden, config.dropout, sizes=sizes, classes=classes)
        self.gate = nn.Parameter(torch.zeros(()))

    def mix(self, inputs: Inputs) -> Mixed:
        """See `FusionNetwork.mix`; the weights are the late fusion's."""
        early = self.early.mix(inputs)
        share = torch.sigmoid(self.gate)
        late = inputs.late.probabilities.clamp_min(1e-12).log()
        return Mixed(share * early.logits + (1 - share) * late, early.embedding, inputs.late.weights)


class DeepFusion(FusionNetwork):
    """Two layers for each modality, then two layers for all of them together."""

    def __init__(self, config: DeepConfig, *, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        first, second = config.tower
        self.dropout = nn.Dropout(config.dropout)
        self.towers = nn.ModuleList(nn.Sequential(mlp(size, (first,), second), nn.ReLU()) for size in sizes)
        self.trunk = nn.Sequential(nn.Linear(second * len(sizes), config.trunk), nn.ReLU())
        self.head = nn.Linear(config.trunk, classes)

    def mix(self, inputs: Inputs) -> Mixed:
        """See `FusionNetwork.mix`; an absent modality's tower gives zeros."""
        modalities = zip(self.towers, inputs.features, inputs.present, strict=True)
        outputs = [tower(self.dropout(x)) * there.unsqueeze(1) for tower, x, there in modalities]
        embedding: Tensor = self.trunk(torch.cat(outputs, dim=1))
        return Mixed(self.head(embedding), embedding, _equal_weights(inputs))


class ChannelsFusion(FusionNetwork):
    """[CNN; text] -> dense layer with ReLU -> C, an absent channel being zeros."""

    def __init__(self, config: ChannelsConfig, *, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.merge = nn.Sequential(nn.Linear(sum(sizes), config.hidden), nn.ReLU())
        self.head = nn.Linear(config.hidden, classes)

    def mix(self, inputs: Inputs) -> Mixed:
        """See `FusionNetwork.mix`."""
        embedding: Tensor = self.merge(self.dropout(torch.cat(inputs.features, dim=1)))
        return Mixed(self.head(embedding), embedding, _equal_weights(inputs))


def _equal_weights(inputs: Inputs) -> Tensor:
    """Equal weights (M, N) of what is present."""
    return shares(inputs.present.to(inputs.features[0].dtype))
