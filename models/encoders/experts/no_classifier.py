"""NoClassifier: the sensors' answer of a model that has learnt no fault."""

from __future__ import annotations

import torch
from torch import Tensor

from models.configs.sensors import NO_FAULT, NoClassifierConfig
from models.encoders.base import SensorEncoder, State


class NoClassifier(SensorEncoder):
    """Answers with the first class in every frame; it has no weights and no state."""

    def __init__(self, config: NoClassifierConfig, *, variables: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.feature_size = 1
        answer = torch.full((classes,), NO_FAULT)
        answer[0] = 0
        self.register_buffer("answer", answer, persistent=False)
        self.answer: Tensor  # (C,)

    def init_state(self, batch: int) -> State:
        """Nothing."""
        return {}

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """See `SensorEncoder.advance`."""
        return self.answer.to(x.dtype).expand(*x.shape[:-1], -1), x.new_zeros(*x.shape[:-1], 1), {}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """See `SensorEncoder.step`."""
        return self.advance(x, state)

    def subtract(self, margin: Tensor) -> None:
        """Nothing: there is no fault to report."""
