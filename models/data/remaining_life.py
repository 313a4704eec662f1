"""Remaining life in training runs: where a machine's life ends, and how many frames are left before that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.configs.limits import FrameCounts, Widths
from models.configs.remaining_life import MAX_CAP_FRAMES, RemainingLifeConfig
from models.data.runs import Run, class_runs
from pipeline.arrays import Floats
from pipeline.config.profile import MachineType
from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.errors import DataError
from pipeline.files.yaml_fields import did_you_mean

_FRAMES: Final = re.compile(r"\s*(\d{1,9})\s*frames?\s*")


class RemainingLifeChoice(BaseModel):
    """What a training says about remaining life: how long it is at most, where it ends, and the shape of the head."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cap: str
    """Longer remaining lives count as this: `125 frames`, or a duration such as `5d`."""
    end: Literal["run", "onset"] = "run"
    """`run`: a run that ends while a fault is there ends with the failure. `onset`: each fault begins with it."""
    faults: tuple[str, ...] = ()
    """The faults that end a life; all, if none is named."""
    coverage: float = Field(default=0.9, gt=0, lt=1)
    """Share of the frames whose remaining life the interval should contain."""
    inputs: Literal["statistics", "features"] = "statistics"
    spans: FrameCounts = Field(default=(5.0, 20.0, 60.0), min_length=1)
    hidden: Widths = Field(default=(128, 64), min_length=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)

    @field_validator("cap", mode="before")
    @classmethod
    def _a_cap_has_a_unit(cls, given: object) -> object:
        if not (isinstance(given, str) and _FRAMES.fullmatch(given)):
            try:
                parse_duration_ms(given)
            except ValueError as error:
                raise ValueError(f"{error}; or give frames, such as `125 frames`") from None
        return given

    def cap_frames(self, machine_type: MachineType) -> int:
        """The cap in frames of a machine type; raises DataError if it is less than one, or too many."""
        match = _FRAMES.fullmatch(self.cap)
        frames = int(match[1]) if match else parse_duration_ms(self.cap) // machine_type.frame_period_ms
        if not 1 <= frames <= MAX_CAP_FRAMES:
            raise DataError(
                f"the cap of remaining_life, {self.cap}, is {frames:,} frames of machine type {machine_type.name}; it "
                f"must be from 1 to {MAX_CAP_FRAMES:,}"
            )
        return frames

    def network(self, machine_type: MachineType) -> RemainingLifeConfig:
        """The head for a machine type; raises DataError as `cap_frames` does."""
        return RemainingLifeConfig(
            cap_frames=self.cap_frames(machine_type),
            inputs=self.inputs,
            spans=self.spans,
            hidden=self.hidden,
            dropout=self.dropout,
        )

    def classes(self, faults: Sequence[str]) -> tuple[int, ...]:
        """The classes that end a life, of a plant with these classes; raises DataError for an unknown name."""
        for name in self.faults:
            if name not in faults[1:]:
                raise DataError(
                    f"remaining_life names {name!r}, which is no fault of the profile; {did_you_mean(name, faults[1:])}"
                )
        return tuple(range(1, len(faults))) if not self.faults else tuple(faults.index(name) for name in self.faults)


def remaining_frames(run: Run, choice: RemainingLifeChoice, ends: Sequence[int]) -> Floats:
    """Frames until the failure that comes next, (T,), 0 in the frame that it comes with; NaN where none is known of.

    With `end: run` that is the last frame of a run whose last label is one of the classes `ends`. With `end: onset` it
    is the first frame of each stretch of one of them; the later frames of a stretch belong to no life.
    """
    remaining = np.full(len(run), np.nan, np.float32)
    stretches = class_runs(run.labels)
    if choice.end == "run":
        if stretches and stretches[-1][2] in ends:
            remaining[:] = np.arange(len(run))[::-1]
        return remaining
    begin = 0
    for start, end, label in stretches:
        if label in ends:
            remaining[begin : start + 1] = np.arange(start - begin, -1, -1)
            begin = end
    return remaining
