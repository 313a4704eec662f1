"""Configuration of the head that estimates a machine's remaining life."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.configs.limits import FrameCounts, Widths

MAX_CAP_FRAMES: Final = 1_000_000
"""Longest remaining life that a head can state; float32 still knows each single frame there."""
OUTPUTS: Final = 3
"""What the head states: the estimate, and the lower and upper end of its interval."""


class RemainingLifeConfig(BaseModel):
    """Shape of the head (docs/guide/models.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cap_frames: int = Field(ge=1, le=MAX_CAP_FRAMES)
    """Longer remaining lives count as this: a machine without wear does not show how long it will live."""
    inputs: Literal["statistics", "features"] = "statistics"
    """What the head sees: streaming statistics of the readings, of its own, or the features of the sensor encoder."""
    spans: FrameCounts = Field(default=(5.0, 20.0, 60.0), min_length=1)
    """Frames of its running means and variances; without effect on features."""
    hidden: Widths = Field(default=(128, 64), min_length=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
