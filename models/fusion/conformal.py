"""ConformalSets: the classes that an answer leaves possible, so that the true one is among them at a chosen rate."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConformalSets(nn.Module):
    """Regularised adaptive prediction sets (Angelopoulos, Bates, Malik and Jordan 2021, equation 4), without chance.

        score of a class = sum of the probabilities of all more probable ones + penalty * max(0, rank - free_ranks)
        candidates       = the classes whose score is at most the threshold

    The rank of the most probable class is 1; of equally probable classes the first comes first. The paper adds a
    random share of the class's own probability, so that coverage is exact; here this share is 0, so that a replay gives
    the same candidates, and the answer itself is always one of them. So they cover the true class at least as often as
    the answer is right. Frames without any evidence have no candidates. Every threshold is fitted on validation
    (models/training/fitting/conformal.py).
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("penalty", torch.zeros(()))
        self.register_buffer("free_ranks", torch.ones(()))
        self.threshold: Tensor
        self.penalty: Tensor
        self.free_ranks: Tensor

    def forward(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Final answers (N, C), and which modalities are present (M, N), to which classes are candidates, (N, C)."""
        scores = conformal_scores(probabilities, float(self.penalty), float(self.free_ranks))
        return (scores <= self.threshold) & present.any(dim=0).unsqueeze(1)


def conformal_scores(probabilities: Tensor, penalty: float, free_ranks: float) -> Tensor:
    """The score of every class of answers (N, C); see `ConformalSets`."""
    ordered, classes = probabilities.sort(dim=1, descending=True, stable=True)
    before = torch.cat([torch.zeros_like(ordered[:, :1]), ordered.cumsum(dim=1)[:, :-1]], dim=1)
    ranks = torch.arange(1, probabilities.shape[1] + 1, dtype=probabilities.dtype)
    scores = before + penalty * (ranks - free_ranks).clamp_min(0)
    return torch.empty_like(scores).scatter(1, classes, scores)
