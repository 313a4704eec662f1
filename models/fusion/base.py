"""What all fusions share: the fused answer, and the network behind a learned fusion."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.encoders.base import subtract_from_answers

TINY = 1e-12
"""Keeps logarithms and divisions finite; in float32 far below anything that changes a decision."""


class Fused(NamedTuple):
    """A fusion's answer for N frames: M modalities, C classes."""

    probabilities: Tensor  # (N, C)
    modality_probabilities: Tensor  # (M, N, C), the class prior where the modality is absent
    weights: Tensor  # (M, N), 0 where absent, else summing to 1
    attention: Tensor | None = None
    """(N, M, M) how much each modality (row) attends to each; rows sum to 1, and to 0 where the modality is absent."""
    embedding: Tensor | None = None
    """(N, D) what a learned fusion classifies."""


class Inputs(NamedTuple):
    """Inputs of a fusion network for N frames."""

    features: tuple[Tensor, ...]  # of each modality (N, D_m), as `FusionInputs` says; 0 where it is absent
    present: Tensor  # (M, N)
    late: Fused

    def under(self, present: Tensor) -> Inputs:
        """The features with fewer modalities; the late fusion's answer stays as it is."""
        features = tuple(x * there.unsqueeze(1) for x, there in zip(self.features, present, strict=True))
        return Inputs(features, present, self.late)


class Mixed(NamedTuple):
    """Outputs of a fusion network for N frames; finite and meaningless where nothing is present."""

    logits: Tensor  # (N, C)
    embedding: Tensor  # (N, D)
    weights: Tensor  # (M, N), 0 where absent, else summing to 1
    attention: Tensor | None = None  # (N, M, M)


class FusionNetwork(nn.Module):
    """A stateless network that classifies features frame by frame."""

    def mix(self, inputs: Inputs) -> Mixed:
        """Logits, and weights and attention that explain them."""
        raise NotImplementedError

    def loss(self, inputs: Inputs, labels: Tensor, class_weights: Tensor) -> Tensor:
        """The training loss, over frames with classes `labels` (N,) and loss weights (C,)."""
        return cross_entropy(self.mix(inputs).logits, labels, class_weights)

    def subtract(self, margin: Tensor) -> None:
        """Subtract a margin (C,) from the logits of every later answer; of networks that end in a `head`."""
        subtract_from_answers(self.get_submodule("head"), margin)


def shares(weights: Tensor) -> Tensor:
    """Weights (M, …) divided by their sum over M; columns without any weight stay 0."""
    return weights / weights.sum(dim=0).clamp_min(TINY)
