"""Configuration of what calls a fault unknown: its rules, and which features it compares."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from models.configs.limits import FrameCount, WholeFrames


class UnknownRules(BaseModel):
    """When a fault counts as unknown; both rules need a novelty above the alarm limit (docs/guide/models.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    smoothing_frames: FrameCount = 20
    """Frames over which the hidden distance is averaged."""
    frames_in_row: WholeFrames = 5
    """For so many frames an answer without a fault may contradict the novelty."""
    quiet_frames: WholeFrames = 20
    """For how many frames after a fault the novelty has to be below the limit until such an answer counts again."""


class UnknownConfig(UnknownRules):
    """The rules, as fitted to a model."""

    recovering: bool = False
    """Whether the last of the classes that the model has learnt is `recovering`."""
    by_distance: bool = False
    """Whether features far from those of every class make a fault unknown."""
    by_contradiction: bool = False
    """Whether answers without a fault make it unknown."""
    always: bool = False
    """Whether the novelty alone decides, of a model that has learnt only the normal state."""
    first_feature: int = Field(default=0, ge=0, le=65_536)
    features: int = Field(default=0, ge=0, le=65_536)
    """Which features of the sensors are compared: so many from the first one on."""
    centres: int = Field(default=0, ge=0, le=65_536)
    """How many classes have a mean of these features."""
    by_length: bool = False
    """Whether features also count as further away, the shorter they are; those of undecided networks are short."""

    @model_validator(mode="after")
    def _distances_are_of_something(self) -> UnknownConfig:
        if self.by_distance and not (self.features and self.centres):
            raise ValueError("by_distance needs features, and the centres of classes")
        if self.always and (self.by_distance or self.by_contradiction):
            raise ValueError("always leaves nothing to other rules")
        return self

    @model_serializer(mode="wrap")
    def _as_in_older_files(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what older model files lack, if it says the same: their hash goes over this."""
        described: dict[str, Any] = serialize(self)
        if not self.by_length:
            described.pop("by_length", None)
        return described
