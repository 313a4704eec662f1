"""RemainingLife: how many frames a machine still has until its failure, as a regression with an interval."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.configs.remaining_life import OUTPUTS, RemainingLifeConfig
from models.configs.sensors import StatisticsConfig
from models.encoders.base import State, mlp, part_of
from models.encoders.experts.statistics import StatisticsNetwork

_PREFIX = "remaining."
"""Of its tensors in a network's state."""


class RemainingLife(nn.Module):
    """Shares of the cap, y: a dense network on streaming statistics of readings and on messages, or on features.

    estimate = min(max(y_0, 0), 1), low = min(max(y_1 - margin, 0), estimate) and high = max(min(y_2 + margin, 1),
    estimate), each times the cap. The margin makes the interval cover what it should on validation runs.
    """

    def __init__(self, config: RemainingLifeConfig, *, variables: int, messages: int, features: int) -> None:
        """`messages` are the columns behind readings and observed bits, `features` those of the sensor encoder."""
        super().__init__()
        self.config = config
        self.variables = variables
        self.messages = messages
        self.network: StatisticsNetwork | nn.Sequential
        if config.inputs == "statistics":
            shape = StatisticsConfig(
                spans=config.spans, hidden=config.hidden, dropout=config.dropout, mask_inputs=False
            )
            self.network = StatisticsNetwork(shape, variables=variables, classes=OUTPUTS, messages=messages)
        else:
            self.network = mlp(features, config.hidden, OUTPUTS)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("margin", torch.zeros(1))
        self.margin: Tensor  # (1,) in shares of the cap

    def init_state(self, batch: int) -> State:
        """That of the statistics; empty for a head on features."""
        if not isinstance(self.network, StatisticsNetwork):
            return {}
        return {f"{_PREFIX}{key}": value for key, value in self.network.init_state(batch).items()}

    def own_inputs(self, x: Tensor) -> Tensor:
        """Readings and messages of encoder inputs (…, F), which have observed bits between them."""
        readings = x[..., : self.variables]
        return torch.cat([readings, x[..., x.shape[-1] - self.messages :]], dim=-1) if self.messages else readings

    def inputs(self, x: Tensor, features: Tensor, state: State) -> tuple[Tensor, State]:
        """What the dense network gets of frames with encoder inputs (B, T, F) and features (B, T, D) from a state on,
        (B, T, I), and the state after them."""
        if not isinstance(self.network, StatisticsNetwork):
            return features, {}
        readings = self.own_inputs(x)
        own = part_of(state, _PREFIX)
        statistics, after = self.network.statistics(readings, own)
        inputs = self.network.inputs(readings, statistics)
        return inputs, {f"{_PREFIX}{key}": value for key, value in after.items()}

    def answer(self, inputs: Tensor) -> Tensor:
        """Shares of the cap (…, 3) of `inputs` (…, I): estimate, low and high, neither bounded nor ordered."""
        if isinstance(self.network, StatisticsNetwork):
            return self.network.answer(inputs)[0]
        y = inputs
        for layer in self.network:
            y = layer(y)
            if isinstance(layer, nn.ReLU):
                y = self.dropout(y)
        return y

    def bounded(self, shares: Tensor) -> Tensor:
        """Frames (…, 3) of shares (…, 3): 0 <= low <= estimate <= high <= cap, in the order estimate, low, high."""
        estimate, low, high = shares.unbind(-1)
        estimate = estimate.clamp(0, 1)
        low = torch.minimum((low - self.margin).clamp_min(0), estimate)
        high = torch.maximum((high + self.margin).clamp_max(1), estimate)
        return torch.stack([estimate, low, high], dim=-1) * self.config.cap_frames

    def advance(self, x: Tensor, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Frames of remaining life (B, T, 3) at frames as `inputs` takes them, and the state after them."""
        inputs, after = self.inputs(x, features, state)
        return self.bounded(self.answer(inputs)), after

    def step(self, x: Tensor, features: Tensor, state: State) -> tuple[Tensor, State]:
        """Frames of remaining life (B, 3) at one frame with inputs (B, F) and features (B, D), and the state after."""
        remaining, after = self.advance(x[:, None], features[:, None], state)
        return remaining[:, 0], after
