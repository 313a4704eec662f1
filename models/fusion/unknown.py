"""UnknownFaults: says after the fusion that a fault is none of those that the model has learnt."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.configs.unknown import UnknownConfig
from models.encoders.base import State


class Fired(NamedTuple):
    """When rules call a fault unknown, (B, T) each, whether the model uses them or not."""

    smoothed: Tensor
    """The hidden distance, smoothed."""
    contradicted: Tensor
    """Whether answers have contradicted the novelty for long enough."""
    recovering: Tensor
    """Whether the answer is `recovering`, which leaves nothing to the distance."""


class UnknownFaults(nn.Module):
    """P' = [(1 - u) P, u] of fused probabilities P, with u = novelty / (1 + novelty) where a rule fires, else 0.

    Rules fire above the alarm limit, a novelty of 1, so that u is the largest share then:

    - distance: the Mahalanobis distance of the features to the nearest class's mean, and what they lack of the usual
      length if `by_length`, averaged over `smoothing_frames`, is above its limit, and the answer is not `recovering`;
    - contradiction: for `frames_in_row` frames the novelty was above the limit and the answer no fault. A fault in the
      answer disarms the rule until novelty and answer have been quiet for `quiet_frames`.

    A model of the normal state alone has u in every frame. Where no modality has evidence u is 0.
    """

    def __init__(self, config: UnknownConfig, *, classes: int) -> None:
        """`classes` are those that the fusion answers with."""
        super().__init__()
        self.config = config
        self.faults = classes - int(config.recovering)
        self.register_buffer("root", torch.eye(config.features))
        self.register_buffer("centres", torch.zeros(config.centres, config.features))
        self.register_buffer("limit", torch.ones(()))
        self.root: Tensor  # (D, D) inverse root of the features' covariance within a class
        self.centres: Tensor  # (K, D) means of the classes' features, times root
        self.limit: Tensor  # () of the smoothed distance
        if config.by_length:
            self.register_buffer("weight", torch.zeros(()))
            self.register_buffer("usual_length", torch.zeros(()))
        self.weight: Tensor  # () of the length that features lack
        self.usual_length: Tensor  # () from which on features lack none

    def forward(
        self, probabilities: Tensor, novelty: Tensor, features: Tensor, present: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """P' (N, C + 1) of fused P (N, C), novelty (B, T), the sensors' features (N, D) and presence (M, N), N = B * T,
        from a state on; and the state after them. The sensors are the first modality."""
        shape = novelty.shape
        fired, after = self.advance(
            probabilities.reshape(*shape, -1),
            novelty,
            features.reshape(*shape, -1),
            present[0].reshape(shape),
            state,
        )
        share = self.share(fired, novelty, present.any(dim=0).reshape(shape)).flatten()[:, None]
        return torch.cat([probabilities * (1 - share), share], dim=1), after

    def init_state(self, batch: int) -> State:
        """Near, nothing contradicted, and armed."""
        zeros = self.limit.new_zeros(batch, 1)
        return {"smoothed": zeros, "row": zeros.clone(), "calm": zeros.clone(), "armed": zeros + 1}

    def distance(self, features: Tensor) -> Tensor:
        """(...) hidden distance of all features of the sensors (..., D); 0 if the model compares none."""
        if not self.config.centres:
            return features.new_zeros(features.shape[:-1])
        nearest, length = self.nearest_and_length(features)
        if not self.config.by_length:
            return nearest
        return nearest + self.weight * (self.usual_length - length).clamp_min(0)

    def nearest_and_length(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Of all features of the sensors (..., D): distance to the nearest class's mean, and length (...)."""
        config = self.config
        own = features[..., config.first_feature : config.first_feature + config.features] @ self.root.T
        squares = torch.stack([(own - centre).square().sum(dim=-1) for centre in self.centres])
        return squares.amin(dim=0).sqrt(), own.square().sum(dim=-1).sqrt()

    def advance(
        self, probabilities: Tensor, novelty: Tensor, features: Tensor, sensed: Tensor, state: State
    ) -> tuple[Fired, State]:
        """What fires in frames (B, T, C), with novelty (B, T), features (B, T, D) of the sensors and whether these had
        evidence (B, T), from a state on."""
        config = self.config
        answer = probabilities.argmax(dim=-1)
        recovering = answer == self.faults
        names_fault = (answer > 0) & ~recovering
        novel = novelty > 1
        distance = self.distance(features)
        smoothed, row, calm, armed = (state[key][:, 0] for key in ("smoothed", "row", "calm", "armed"))
        zero, one = smoothed.new_zeros(()), smoothed.new_ones(())
        share = 1 / config.smoothing_frames
        averages, contradictions = [], []
        for t in range(novelty.shape[1]):
            smoothed = (smoothed + share * (distance[:, t] - smoothed)).where(sensed[:, t], smoothed)
            row = (row + 1).clamp_max(config.frames_in_row).where(novel[:, t] & ~names_fault[:, t], zero)
            calm = (calm + 1).clamp_max(config.quiet_frames).where(~novel[:, t] & ~names_fault[:, t], zero)
            armed = armed.where(calm < config.quiet_frames, one).where(~names_fault[:, t], zero)
            averages.append(smoothed)
            contradictions.append((row >= config.frames_in_row) & (armed > 0))
        after = {"smoothed": smoothed[:, None], "row": row[:, None], "calm": calm[:, None], "armed": armed[:, None]}
        return Fired(torch.stack(averages, dim=1), torch.stack(contradictions, dim=1), recovering), after

    def share(self, fired: Fired, novelty: Tensor, present: Tensor) -> Tensor:
        """u (B, T), of novelty (B, T) and whether any modality had evidence (B, T)."""
        config = self.config
        fires = torch.full_like(present, config.always)
        if config.by_distance:
            fires |= (novelty > 1) & (fired.smoothed > self.limit) & ~fired.recovering
        if config.by_contradiction:
            fires |= fired.contradicted
        return (novelty / (1 + novelty)).where(fires & present, novelty.new_zeros(()))
