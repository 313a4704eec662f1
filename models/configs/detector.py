"""Configuration of the detector: what it remembers of the normal state, and over how many frames."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.configs.limits import WholeFrames, Width

Span = Annotated[float, Field(ge=1, le=1e9)]
Spans = Annotated[tuple[Span, ...], Field(max_length=16)]


class DetectorConfig(BaseModel):
    """Shape of a detector that has seen only the normal state (docs/guide/models.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: Width = 96
    """Width of the LSTM that forecasts the next frame."""
    clip: float = Field(default=6.0, gt=0, le=1e3)
    """Readings further than this many standard deviations from the normal state count as this far."""
    mean_spans: Spans = (3.0,)
    """Frames over which whitened residuals are averaged, one block each; a mean moves by 1 / span towards each."""
    square_spans: Spans = (30.0,)
    """Frames over which their squares are averaged, one block each."""
    largest_square: float = Field(default=16.0, gt=0, le=1e6)
    """A square above this counts as this, so that one wild value is forgotten soon."""
    warm_up_frames: WholeFrames = 8
    """First frames of a machine, whose forecasts are not judged."""
    quiet_frames: WholeFrames = 20
    """For how many frames the novelty has to be quiet until the detector backs the classifier again."""

    @model_validator(mode="after")
    def _something_is_watched(self) -> DetectorConfig:
        if not self.mean_spans and not self.square_spans:
            raise ValueError("mean_spans and square_spans are both empty, so nothing is watched; give one of them")
        return self

    @property
    def blocks(self) -> int:
        """Groups of statistics, each with a distance and a limit of its own."""
        return len(self.mean_spans) + len(self.square_spans)
