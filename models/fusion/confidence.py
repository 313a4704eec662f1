"""ConfidenceMap: a last calibration of fused answers, which changes how sure they are but never what they say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.configs.fusion import JUST_BELOW, LEAST_LEAD
from models.fusion.base import TINY


class ConfidenceMap(nn.Module):
    """Beta calibration (Kull, Silva Filho and Flach 2017) of the answer's probability c:

        logit c' = a log c - b log(1 - c) + d,    a, b >= 0

    with one a, b, d for answers that name no fault, whose c is that of all classes without a fault together, and
    one for answers that name one. The other classes share 1 - c' as they shared 1 - c. One temperature cannot do this:
    margins and hidden faults make answers without a fault too sure, and those with one too unsure. Where c' would let
    another class win, the answer keeps a share of its lead. Frames without any evidence stay as they are.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("faultless", torch.zeros(classes))
        self.register_buffer("fitted", torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]))
        self.faultless: Tensor  # (C,) 1 of classes that name no fault
        self.fitted: Tensor  # (2, 3) a, b and d of answers without a fault, and of those with one

    def forward(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Fused answers (N, C), and which modalities are present (M, N), to answers (N, C)."""
        top, own = answered(probabilities, self.faultless)
        confidence = (probabilities * own).sum(dim=1)
        rest = (probabilities * (1 - own)).sum(dim=1)
        parameters = self.fitted[1 - self.faultless[top].long()].to(probabilities.dtype)
        odds = parameters[:, 0] * confidence.clamp_min(TINY).log() - parameters[:, 1] * rest.clamp_min(TINY).log()
        mapped = torch.sigmoid(odds + parameters[:, 2])
        first = probabilities.gather(1, top.unsqueeze(1)).squeeze(1)
        second = (probabilities * (1 - own)).amax(dim=1)
        # By how much more the answer grows than the others, and by how much more it must at least.
        growth = (mapped / confidence.clamp_min(TINY)) / ((1 - mapped) / rest.clamp_min(TINY)).clamp_min(TINY)
        least = second / first
        growth = torch.maximum(growth, least + LEAST_LEAD * (1 - least))
        scale = 1 / (growth * confidence + rest).clamp_min(TINY)
        grown = probabilities * torch.where(own > 0, (growth * scale).unsqueeze(1), scale.unsqueeze(1))
        limit = grown.gather(1, top.unsqueeze(1))
        before = torch.arange(probabilities.shape[1]) < top.unsqueeze(1)
        grown = torch.minimum(grown, torch.where(before, limit * JUST_BELOW, limit))
        return torch.where((present.any(dim=0) & (rest > 0)).unsqueeze(1), grown, probabilities)


def answered(probabilities: Tensor, faultless: Tensor) -> tuple[Tensor, Tensor]:
    """The most probable class of each answer (N, C), and which classes count as that answer, (N, C): those without a
    fault together, or the one fault."""
    top = probabilities.argmax(dim=1)
    alone = nn.functional.one_hot(top, probabilities.shape[1]).to(probabilities.dtype)
    together = faultless.to(probabilities.dtype).expand_as(probabilities)
    return top, torch.where((faultless[top] > 0).unsqueeze(1), together, alone)
