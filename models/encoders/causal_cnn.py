"""CausalCNN: dilated causal convolutions over time, whose state is inputs per layer (docs/guide/models.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.configs.sensors import CausalCNNConfig
from models.encoders.base import SensorEncoder, State, mlp


class CausalCNN(SensorEncoder):
    """Input x (…, F): V scaled readings, 0 where unknown, then V observed bits if `mask_inputs`.

    A linear layer makes channels of the readings; then each layer l with kernel k and dilation d_l is

        y_t += LN( ReLU( b + sum_j W_j y_{t - (k-1-j) d_l} ) ),   j = 0 … k-1, inputs before the run are 0

    (dilated causal convolutions of van den Oord et al. 2016, residual as in Bai et al. 2018). LN is over the channels
    of one frame: statistics over time would leak the future into the past.
    """

    def __init__(self, config: CausalCNNConfig, *, variables: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.feature_size = config.channels
        self.input = nn.Linear(variables * (1 + int(config.mask_inputs)), config.channels)
        self.layers = nn.ModuleList(
            nn.Conv1d(config.channels, config.channels, config.kernel, dilation=dilation)
            for dilation in config.dilations
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.channels) for _ in config.dilations)
        self.dropout = nn.Dropout(config.dropout)
        self.head = mlp(config.channels, config.head, classes)

    def init_state(self, batch: int) -> State:
        """Zeros: of each layer `inputs` (B, (k-1) * dilation, channels), its last inputs, oldest first."""
        like = self.input.weight
        return {
            f"inputs{index}": like.new_zeros(batch, (self.config.kernel - 1) * dilation, self.config.channels)
            for index, dilation in enumerate(self.config.dilations)
        }

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Frames (B, T, F) from a state on; see `SensorEncoder.advance`."""
        after: State = {}
        y = self.input(x)
        for index, (layer, norm) in enumerate(self._layers()):
            queue = state[f"inputs{index}"]
            inputs = torch.cat([queue, y], dim=1)
            after[f"inputs{index}"] = inputs[:, -queue.shape[1] :]
            convolved = layer(inputs.transpose(1, 2)).transpose(1, 2)
            y = y + self.dropout(norm(torch.relu(convolved)))
        return self.head(y), y, after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F); see `SensorEncoder.step`. Meant for inference: no dropout is applied."""
        after: State = {}
        y = self.input(x)
        for index, (layer, norm) in enumerate(self._layers()):
            inputs = torch.cat([state[f"inputs{index}"], y.unsqueeze(1)], dim=1)
            after[f"inputs{index}"] = inputs[:, 1:]
            # One output of the convolution is one matrix product over its k taps.
            taps = inputs[:, :: self.config.dilations[index]].flatten(1)
            convolved = nn.functional.linear(taps, layer.weight.transpose(1, 2).flatten(1), layer.bias)
            y = y + norm(torch.relu(convolved))
        return self.head(y), y, after

    def _layers(self) -> list[tuple[nn.Conv1d, nn.Module]]:
        layers = [layer for layer in self.layers if isinstance(layer, nn.Conv1d)]
        return list(zip(layers, self.norms, strict=True))
