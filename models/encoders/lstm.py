"""SeqLSTM: stacked LSTM layers over sensor frames with a dense head on every frame (docs/guide/models.md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.configs.sensors import SeqLSTMConfig
from models.encoders.base import SensorEncoder, State, lstm_step, mlp

_BLOCK_FRAMES = 128
"""Frames whose running means are computed at once; the cost per frame grows with it."""


class SeqLSTM(SensorEncoder):
    """Input x (…, F): V scaled readings, 0 where unknown, then V observed bits if `mask_inputs`, then messages."""

    def __init__(self, config: SeqLSTMConfig, *, variables: int, classes: int, messages: int = 0) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.feature_size = config.hidden[-1]
        averages = len(config.trends) + len(config.spreads)
        width = variables * (1 + averages + int(config.mask_inputs)) + messages
        self.layers = nn.ModuleList()
        for hidden in config.hidden:
            self.layers.append(nn.LSTM(width, hidden, batch_first=True))
            width = hidden
        self.dropout = nn.Dropout(config.dropout)
        self.head = mlp(width, config.head, classes)

        rates = [1 - math.exp(-1 / tau) for tau in (*config.trends, *config.spreads)]
        self.register_buffer("rates", torch.tensor(rates), persistent=False)
        self.rates: Tensor

    def init_state(self, batch: int) -> State:
        """Zeros: h and c (B, sum of hidden); with running means also means (B, K, V) and last (B, V)."""
        like = self.head[0].weight
        assert isinstance(like, Tensor)
        size = sum(self.config.hidden)
        state = {"h": like.new_zeros(batch, size), "c": like.new_zeros(batch, size)}
        if len(self.rates):
            state["means"] = like.new_zeros(batch, len(self.rates), self.variables)
            state["last"] = like.new_zeros(batch, self.variables)
        return state

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Frames (B, T, F) from a state on; see `SensorEncoder.advance`."""
        after: State = {}
        y = x = self._squashed(x)
        if len(self.rates):
            parts: list[Tensor] = []
            means, last = state["means"], state["last"]
            for part in torch.split(x, _BLOCK_FRAMES, dim=1):
                extended, means, last = self._with_contexts(part, means, last)
                parts.append(extended)
            y = torch.cat(parts, dim=1)
            after |= {"means": means, "last": last}
        hs, cs = [], []
        for index, (layer, h, c) in enumerate(self._layer_states(state)):
            if index:
                y = self.dropout(y)
            y, (h_after, c_after) = layer(y, (h.unsqueeze(0).contiguous(), c.unsqueeze(0).contiguous()))
            hs.append(h_after[0])
            cs.append(c_after[0])
        return self.head(y), y, after | {"h": torch.cat(hs, dim=1), "c": torch.cat(cs, dim=1)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F); see `SensorEncoder.step`. Meant for inference: no dropout is applied."""
        after: State = {}
        y = x = self._squashed(x)
        if len(self.rates):
            y, after["means"], after["last"] = self._with_context(x, state["means"], state["last"])
        hs, cs = [], []
        for layer, h, c in self._layer_states(state):
            y, c_after = lstm_step(layer, y, h, c)
            hs.append(y)
            cs.append(c_after)
        return self.head(y), y, after | {"h": torch.cat(hs, dim=1), "c": torch.cat(cs, dim=1)}

    def _squashed(self, x: Tensor) -> Tensor:
        if not self.config.squash:
            return x
        return torch.cat([torch.asinh(x[..., : self.variables]), x[..., self.variables :]], dim=-1)

    def _layer_states(self, state: State) -> list[tuple[nn.LSTM, Tensor, Tensor]]:
        sizes = list(self.config.hidden)
        layers = [layer for layer in self.layers if isinstance(layer, nn.LSTM)]
        hs, cs = torch.split(state["h"], sizes, dim=1), torch.split(state["c"], sizes, dim=1)
        return list(zip(layers, hs, cs, strict=True))

    def _with_contexts(self, x: Tensor, means: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `_with_context` for frames (B, T, F), all at once: a mean is a sum of earlier readings, each weighted by
        its age."""
        readings = x[:, :, : self.variables]
        trends, frames = len(self.config.trends), x.shape[1]
        before = torch.cat([last.unsqueeze(1), readings[:, :-1]], dim=1)
        changes = (readings - before).abs()
        ages = torch.arange(frames)[:, None] - torch.arange(frames)
        context: list[Tensor] = []
        for index, rate in enumerate(self.rates.to(x.dtype)):
            target = readings if index < trends else changes
            kept = (1 - rate) ** torch.arange(1, frames + 1)
            weights = (rate * (1 - rate) ** ages.clamp_min(0)).where(ages >= 0, x.new_zeros(()))
            context.append(weights @ target + kept[:, None] * means[:, index].unsqueeze(1))
        columns = [readings - mean for mean in context[:trends]] + context[trends:]
        extended = torch.cat([readings, *columns, x[:, :, self.variables :]], dim=2)
        return extended, torch.stack([mean[:, -1] for mean in context], dim=1), readings[:, -1]

    def _with_context(self, x: Tensor, means: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Put trend and spread columns between the readings and the observed bits of one frame x (B, F)."""
        reading = x[:, : self.variables]
        trends = len(self.config.trends)
        change = (reading - last).abs()
        target = torch.cat(
            [
                reading.unsqueeze(1).expand(-1, trends, -1),
                change.unsqueeze(1).expand(-1, means.shape[1] - trends, -1),
            ],
            dim=1,
        )
        means = torch.lerp(means, target, self.rates.to(means.dtype)[:, None])
        context = torch.cat([reading.unsqueeze(1) - means[:, :trends], means[:, trends:]], dim=1)
        return torch.cat([reading, context.flatten(1), x[:, self.variables :]], dim=1), means, reading
