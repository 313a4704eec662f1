"""StatisticsNetwork: running means and variances of readings, and a dense network on them (docs/guide/models.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.configs.sensors import CellsConfig, StatisticsConfig
from models.encoders.base import SensorEncoder, State, mlp

LARGEST_SQUARE = 400.0
"""A square further from the mean counts as this, so that one outlier does not fill a variance for long."""
LEAST_VARIANCE = 0.02
"""Is added to a variance before its logarithm."""
_LEAST_DEVIATION = 1e-3
"""A statistic that moves less than this in the normal state is not scaled."""


class StatisticsNetwork(SensorEncoder):
    """Input x (…, F): V scaled readings, 0 where unknown, then observed bits and messages.

    Of each reading: itself, and for each span h a running mean m += (x - m) / h and the log of a running variance
    s += (min((x - m)^2, 400) - s) / h, where m is the mean before x; each in its own normal deviations, as arcsinh.
    """

    def __init__(
        self, config: StatisticsConfig | CellsConfig, *, variables: int, classes: int, messages: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.feature_size = config.hidden[-1]
        columns = variables * (1 + 2 * len(config.spans))
        self.rest = variables * int(config.mask_inputs) + messages
        self.register_buffer("shift", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.shift: Tensor  # (F,) mean of each statistic in the normal state
        self.scale: Tensor  # (F,) 1 / deviation
        self.layers = mlp(columns + self.rest, config.hidden[:-1], config.hidden[-1])
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Sequential(nn.Linear(self.feature_size, classes))
        self.register_buffer("rates", torch.tensor([1 / span for span in config.spans]), persistent=False)
        self.rates: Tensor  # (K,)

    def init_state(self, batch: int) -> State:
        """Means 0 and variances 1, as of standard scores: (B, K, V) each."""
        like = self.shift
        size = (batch, len(self.rates), self.variables)
        return {"means": like.new_zeros(size), "variances": like.new_ones(size)}

    def statistics(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Statistics (B, T, (1 + 2 K) V) of frames (B, T, F) from a state on, before scaling, and the state after."""
        means, variances = state["means"], state["variances"]
        rates = self.rates.to(x.dtype)[:, None]
        readings = x[:, :, : self.variables]
        frames: list[Tensor] = []
        for t in range(x.shape[1]):
            reading = readings[:, t, None]
            away = reading - means
            means = means + rates * away
            variances = variances + rates * ((away * away).clamp_max(LARGEST_SQUARE) - variances)
            both = torch.stack([means, (variances + LEAST_VARIANCE).log()], dim=2)
            frames.append(torch.cat([reading[:, 0], both.flatten(1)], dim=1))
        return torch.stack(frames, dim=1), {"means": means, "variances": variances}

    def fit_scaling(self, normal: Tensor) -> None:
        """Scale by these statistics of normal frames (N, (1 + 2 K) V)."""
        deviation = normal.double().std(dim=0, unbiased=False)
        self.shift.copy_(normal.double().mean(dim=0))
        self.scale.copy_(1 / torch.where(deviation > _LEAST_DEVIATION, deviation, 1))

    def inputs(self, x: Tensor, statistics: Tensor) -> Tensor:
        """What the dense network gets of frames (B, T, F) and their statistics."""
        scaled = torch.asinh((statistics - self.shift) * self.scale)
        rest = x[..., x.shape[-1] - self.rest :] if self.rest else x[..., :0]
        return torch.cat([scaled, rest], dim=-1)

    def answer(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (…, C) and features (…, D) of `inputs`."""
        features = inputs
        for layer in self.layers:
            features = layer(features)
            if isinstance(layer, nn.ReLU):
                features = self.dropout(features)
        features = torch.relu(features)
        return self.head(self.dropout(features)), features

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Frames (B, T, F) from a state on; see `SensorEncoder.advance`."""
        statistics, after = self.statistics(x, state)
        return *self.answer(self.inputs(x, statistics)), after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F); see `SensorEncoder.step`."""
        logits, features, after = self.advance(x[:, None], state)
        return logits[:, 0], features[:, 0], after
