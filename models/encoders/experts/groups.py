"""GroupEncoders: an encoder for each modality that is a group of variables, beside the one that sees all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from models.configs.groups import GroupConfig
from models.encoders.base import SensorEncoder, State, part_of, states_of
from models.encoders.experts.build import build_sensors


class GroupEncoders(nn.Module):
    """Input x (…, F): V scaled readings, 0 where unknown, then V observed bits; each group gets its own columns."""

    def __init__(self, groups: Sequence[GroupConfig], *, variables: int, classes: int) -> None:
        super().__init__()
        self.groups = tuple(groups)
        self.variables = variables
        self.encoders = nn.ModuleList(
            build_sensors(group.encoder, variables=len(group.columns), classes=classes) for group in groups
        )
        self.feature_sizes = [encoder.feature_size for _, encoder in self.members()]

    def members(self) -> Iterator[tuple[int, SensorEncoder]]:
        """The encoders with their places."""
        for place, encoder in enumerate(self.encoders):
            assert isinstance(encoder, SensorEncoder)
            yield place, encoder

    def inputs(self, place: int, x: Tensor) -> Tensor:
        """What the encoder at this place gets of x (…, F)."""
        group = self.groups[place]
        columns = list(group.columns)
        own = [x[..., columns]]
        if group.encoder.mask_inputs:
            own.append(x[..., [self.variables + column for column in columns]])
        return torch.cat(own, dim=-1)

    def present(self, place: int, values: Tensor) -> Tensor:
        """Whether any variable of the group is known in readings (…, V), NaN where unknown."""
        return ~values[..., list(self.groups[place].columns)].isnan().all(dim=-1)

    def init_state(self, batch: int) -> State:
        """The encoders' states, each under its place."""
        return states_of(self.members(), batch)

    def advance(self, x: Tensor, state: State) -> tuple[list[tuple[Tensor, Tensor]], State]:
        """Frames (B, T, F) from a state on: of each group logits (B, T, C) and features (B, T, D), and the state."""
        return _answers(
            encoder.advance(self.inputs(place, x), part_of(state, f"{place}.")) for place, encoder in self.members()
        )

    def step(self, x: Tensor, state: State) -> tuple[list[tuple[Tensor, Tensor]], State]:
        """One frame (B, F): of each group logits (B, C) and features (B, D), and the state after it."""
        return _answers(
            encoder.step(self.inputs(place, x), part_of(state, f"{place}.")) for place, encoder in self.members()
        )


def _answers(found: Iterable[tuple[Tensor, Tensor, State]]) -> tuple[list[tuple[Tensor, Tensor]], State]:
    """The encoders' answers, in the order of their places, and their states together."""
    answers: list[tuple[Tensor, Tensor]] = []
    after: State = {}
    for place, (logits, features, own) in enumerate(found):
        answers.append((logits, features))
        after |= {f"{place}.{key}": value for key, value in own.items()}
    return answers, after
