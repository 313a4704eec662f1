"""Configuration of the modalities that are groups of variables."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.configs.limits import Column, Width
from models.configs.sensors import (
    CausalCNNConfig,
    LinearStateConfig,
    RingAttentionConfig,
    SeqLSTMConfig,
    StatisticsConfig,
)

GroupEncoder = Annotated[
    SeqLSTMConfig | CausalCNNConfig | RingAttentionConfig | LinearStateConfig | StatisticsConfig,
    Field(discriminator="kind"),
]
"""The encoder of one group of variables, by its `kind`."""


class GroupConfig(BaseModel):
    """A modality: some of the variables, and the encoder that sees them alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=100)
    columns: tuple[Column, ...] = Field(min_length=1)
    """Places of its variables among all, ascending."""
    encoder: GroupEncoder = StatisticsConfig(hidden=(128, 64))

    @model_validator(mode="after")
    def _ascends(self) -> GroupConfig:
        if list(self.columns) != sorted(set(self.columns)):
            raise ValueError(f"the columns of modality {self.name} are not in ascending order")
        return self


def group_of_variables(groups: tuple[GroupConfig, ...], variables: Width) -> list[int]:
    """For each variable the place of its group, beginning with 1, and 0 if it is in none.

    Raises ValueError if a group has a variable that does not exist, or that another one has.
    """
    places = [0] * variables
    for place, group in enumerate(groups, start=1):
        for column in group.columns:
            if column >= variables:
                raise ValueError(f"modality {group.name} has variable {column}, and there are {variables}")
            if places[column]:
                raise ValueError(f"modality {group.name} has variable {column}, which another one has")
            places[column] = place
    return places
