"""Retrieval: the features of sensors and of texts as unit vectors of one space, in which what belongs together is near.

s = (P_s (h_s - m_s) / d_s) / |...| of the sensor encoder's features h_s, u likewise of the text modality's; both
together are (s + u) / |s + u|. After Radford et al. 2021, "Learning transferable visual models from natural language
supervision", with linear projections of frozen encoders.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.configs.retrieval import RetrievalConfig

_LEAST_LENGTH = 1e-12


class Projection(nn.Module):
    """Features (N, D) to unit vectors (N, size)."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.mean: Tensor  # (D,) of the training's features
        self.deviation: Tensor  # (D,)
        self.linear = nn.Linear(features, size)

    def fit_scaling(self, features: Tensor) -> None:
        """Scale by these features (N, D); columns that do not vary keep their scale."""
        deviation = features.std(dim=0, unbiased=False)
        self.mean.copy_(features.mean(dim=0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """Unit vectors (N, size) of features (N, D)."""
        projected: Tensor = self.linear((features - self.mean) / self.deviation)
        return unit(projected)


class Retrieval(nn.Module):
    """The projections of both modalities."""

    def __init__(self, config: RetrievalConfig, *, sensor_features: int, text_features: int) -> None:
        super().__init__()
        self.config = config
        self.sensors = Projection(sensor_features, config.size)
        self.text = Projection(text_features, config.size)

    def together(self, sensors: Tensor, text: Tensor, has_text: Tensor) -> Tensor:
        """Unit vectors (N, size) of frames with features (N, D_s) and (N, D_t); where `has_text` (N,) is false, those
        of the sensors alone."""
        return unit(self.sensors(sensors) + self.text(text) * has_text.unsqueeze(1))


def build_retrieval(config: RetrievalConfig | None, sizes: Sequence[int]) -> Retrieval | None:
    """The head, if one is configured, for features of these sizes: the first of the sensors, the last of the texts."""
    return None if config is None else Retrieval(config, sensor_features=sizes[0], text_features=sizes[-1])


def unit(vectors: Tensor) -> Tensor:
    """Vectors (N, D) with length 1."""
    lengths: Tensor = vectors.norm(dim=1, keepdim=True)
    return vectors / lengths.clamp_min(_LEAST_LENGTH)
