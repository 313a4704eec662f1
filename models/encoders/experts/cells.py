"""CellsNetwork: statistics of each cell encoded by itself, and a dense network on all codes (docs/guide/models.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.configs.sensors import CellsConfig, cell_inputs
from models.encoders.base import mlp
from models.encoders.experts.statistics import StatisticsNetwork


class CellLayer(nn.Linear):
    """A linear layer whose outputs see the inputs of one cell each."""

    def __init__(self, mask: Tensor) -> None:
        """`mask` (out, in) is 1 where an output sees an input, else 0."""
        outputs, inputs = mask.shape
        super().__init__(inputs, outputs)
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor
        with torch.no_grad():
            # Initial weights as large as those of a layer that has the cell's inputs alone.
            seen = mask.sum(dim=1, keepdim=True)
            self.weight.mul_(mask * (inputs / seen).sqrt())
            self.bias.mul_((inputs / seen[:, 0]).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (…, F) to codes (…, cells * size)."""
        return linear(x, self.weight * self.mask, self.bias)


class CellsNetwork(StatisticsNetwork):
    """Input x (…, F): V scaled readings, 0 where unknown, then V observed bits.

    Of each cell the statistics of its variables, as of `StatisticsNetwork`, and their observed bits give a code; the
    codes of all cells side by side go through the dense layers.
    """

    def __init__(self, config: CellsConfig, *, variables: int, classes: int) -> None:
        """Raises ValueError if the configuration has no cells yet."""
        super().__init__(config, variables=variables, classes=classes)
        mask = torch.zeros(len(config.cells or ()) * config.size, variables * (2 + 2 * len(config.spans)))
        for place, inputs in enumerate(cell_inputs(config, variables)):
            mask[place * config.size : (place + 1) * config.size, inputs] = 1
        dense = mlp(len(mask), config.hidden[:-1], config.hidden[-1])
        self.layers = nn.Sequential(CellLayer(mask), nn.ReLU(), *dense)
