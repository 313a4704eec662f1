"""PooledExperts: several sensor encoders side by side, whose log-probabilities are averaged with weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.configs.sensors import (
    COUNTING,
    HIDDEN_SHARE,
    MIN_EXPERT_PROBABILITY,
    MIN_TREE_PROBABILITY,
    ExpertsConfig,
    TreesConfig,
)
from models.encoders.base import SensorEncoder, State, part_of, states_of
from models.encoders.experts.trees import Trees

LEAST_PROBABILITY = 1e-12


class PooledExperts(SensorEncoder):
    """log P = sum_i a_i log p_i, renormalised; then hidden faults give most of their probability to the normal state.

    A fault is hidden if validation shows that the sensors cannot see it. Its probability would only raise false alarms;
    with the share that is left, texts can still name it.
    """

    def __init__(
        self, config: ExpertsConfig, experts: list[SensorEncoder], *, variables: int, classes: int, messages: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.messages = messages
        self.experts = nn.ModuleList(experts)
        self.feature_size = sum(expert.feature_size for expert in experts)
        self.register_buffer("weights", torch.full((len(experts),), 1 / len(experts)))
        self.register_buffer("hidden", torch.zeros(classes))
        self.register_buffer("bias", torch.zeros(classes))
        self.weights: Tensor  # (E,)
        self.hidden: Tensor  # (C,) 1 of a hidden fault
        self.bias: Tensor  # (C,) is added to the answer

    def members(self) -> Iterator[tuple[int, SensorEncoder]]:
        """The experts with their places."""
        for place, expert in enumerate(self.experts):
            assert isinstance(expert, SensorEncoder)
            yield place, expert

    def described(self) -> ExpertsConfig:
        """The configuration as it is now: trees have a shape once they are fitted."""
        experts = [
            expert.config if isinstance(expert, Trees) else config
            for config, (_, expert) in zip(self.config.experts, self.members(), strict=True)
        ]
        return self.config.model_copy(update={"experts": tuple(experts)})

    def inputs(self, place: int, x: Tensor) -> Tensor:
        """What the expert at this place gets of x (…, F)."""
        config, bits = self.config.experts[place], self.variables * int(self.config.mask_inputs)
        if self.messages and not isinstance(config, COUNTING):
            x = x[..., : self.variables + bits]
        if config.mask_inputs or not bits:
            return x
        return torch.cat([x[..., : self.variables], x[..., self.variables + bits :]], dim=-1)

    def init_state(self, batch: int) -> State:
        """The experts' states, each under its place."""
        return states_of(self.members(), batch)

    def log_probabilities(self, logits: list[Tensor]) -> Tensor:
        """What the pool averages, (E, …, C): bounded log-probabilities of the experts' logits."""
        bounded = []
        for config, own in zip(self.config.experts, logits, strict=True):
            least = MIN_TREE_PROBABILITY if isinstance(config, TreesConfig) else MIN_EXPERT_PROBABILITY
            bounded.append(torch.softmax(own, dim=-1).clamp_min(least).log())
        return torch.stack(bounded)

    def pool(self, log_probabilities: Tensor) -> Tensor:
        """Logits (…, C) of bounded log-probabilities (E, …, C)."""
        p = torch.softmax(torch.tensordot(self.weights, log_probabilities, dims=1), dim=-1)
        moved = p * self.hidden * (1 - HIDDEN_SHARE)
        p = torch.cat([p[..., :1] + moved.sum(dim=-1, keepdim=True), (p - moved)[..., 1:]], dim=-1)
        return p.clamp_min(LEAST_PROBABILITY).log() + self.bias

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Frames (B, T, F) from a state on; see `SensorEncoder.advance`."""
        return self._pooled(
            [expert.advance(self.inputs(place, x), part_of(state, f"{place}.")) for place, expert in self.members()]
        )

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F); see `SensorEncoder.step`."""
        return self._pooled(
            [expert.step(self.inputs(place, x), part_of(state, f"{place}.")) for place, expert in self.members()]
        )

    def _pooled(self, answers: list[tuple[Tensor, Tensor, State]]) -> tuple[Tensor, Tensor, State]:
        """The pool's logits, the experts' features side by side, and their states, of each one's answer."""
        logits, features, states = zip(*answers, strict=True)
        after = {f"{place}.{key}": value for place, own in enumerate(states) for key, value in own.items()}
        return self.pool(self.log_probabilities(list(logits))), torch.cat(features, dim=-1), after

    def subtract(self, margin: Tensor) -> None:
        """See `SensorEncoder.subtract`."""
        self.bias.sub_(margin)
