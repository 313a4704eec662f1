"""What all sensor encoders share: the type of states, the contract, and two building blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
"""All that a network remembers between frames: named tensors with leading dimension B."""


def part_of(state: State, prefix: str) -> State:
    """What a state has under names that begin with a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def states_of(members: Iterable[tuple[int, SensorEncoder]], batch: int) -> State:
    """The states of several encoders before the first frame of `batch` machines, each under its place."""
    return {f"{place}.{key}": value for place, one in members for key, value in one.init_state(batch).items()}


class SensorEncoder(nn.Module):
    """A causal network over scaled readings whose `step`, folded over a run, equals its `forward`."""

    feature_size: int

    def init_state(self, batch: int) -> State:
        """The state before the first frame of `batch` machines."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole runs (B, T, F) to logits (B, T, C) and features (B, T, D)."""
        logits, features, _ = self.advance(x, self.init_state(x.shape[0]))
        return logits, features

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Some frames (B, T, F) from a state on: logits (B, T, C), features (B, T, D), the state after them."""
        raise NotImplementedError

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F): logits (B, C), features (B, D) and the state after it."""
        raise NotImplementedError

    def subtract(self, margin: Tensor) -> None:
        """Subtract a margin (C,) from the logits of every later answer."""
        subtract_from_answers(self.get_submodule("head"), margin)


def mlp(size_in: int, hidden: Sequence[int], size_out: int) -> nn.Sequential:
    """Linear layers with ReLU between them, from `size_in` over `hidden` to `size_out`."""
    sizes = [size_in, *hidden, size_out]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def subtract_from_answers(head: nn.Module, margin: Tensor) -> None:
    """Subtract a margin (C,) from what a head's last layer gives."""
    assert isinstance(head, nn.Sequential) and isinstance(head[-1], nn.Linear)
    head[-1].bias.sub_(margin)


def lstm_step(layer: nn.LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One frame of a one-layer `nn.LSTM`: x (B, F), h and c (B, H) to the next h and c.

    Calling the layer on a sequence of length one gives the same numbers but takes three times as long for small
    batches.
    """
    input_weight, state_weight, input_bias, state_bias = layer.all_weights[0]
    h, c = torch.lstm_cell(x, (h, c), input_weight, state_weight, input_bias, state_bias)
    return h, c
