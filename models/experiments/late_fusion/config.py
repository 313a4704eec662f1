"""Configuration of the late-fusion experiment."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from models.configs.sensors import SeqLSTMConfig
from models.configs.text import TextConfig
from models.experiments.simulation import SimulationConfig
from models.training.loop import StageConfig

Draw = Literal["distinct", "paraphrase", "paper"]


class FaultType(BaseModel):
    """One class of the experiment: runs with this disturbance belong to reports of this category."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fault: int
    category: str


class LateFusionConfig(BaseModel):
    """Everything that determines the experiment, except seeds and paths."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: dict[str, FaultType] = Field(min_length=2)
    runs_per_class: int = Field(default=500, ge=5)
    frames: int = Field(default=500, ge=2)
    onset_frame: int = Field(default=20, ge=0)
    first_seed: int = Field(default=700_000, ge=0)
    validation: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.2, gt=0, lt=1)
    sensors: SeqLSTMConfig = SeqLSTMConfig(mask_inputs=False)
    text: TextConfig = TextConfig()
    sensor_stage: StageConfig = StageConfig(epochs=12, batch_size=32, learning_rate=3e-3)
    text_stage: StageConfig = StageConfig(epochs=40, batch_size=32, learning_rate=5e-3, weight_decay=1e-2)
    loss: Literal["every_frame", "last_frame"] = "every_frame"
    """Whether the loss is over every frame after the onset, or over the last one alone, as in the paper."""
    chunk_frames: int = Field(default=100, ge=1)
    draw: Draw = "distinct"
    """`distinct`: reports are split by their words before runs draw them. `paraphrase`: so are groups of reports with
    almost the same words. `paper`: pairs are drawn and then split, so that test pairs contain
    training reports."""
    text_folds: int = Field(default=5, ge=2)
    """Text models that are trained, each without another fold of the reports, and averaged. The validation logits of
    a report come from the one model that was trained without it."""
    validation_draws: int = Field(default=5, ge=1)
    """Reports that each validation run is paired with, so that the fusion is fitted on more than a few."""
    typo_share: float = Field(default=0.1, ge=0, le=1)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)

    @property
    def simulation(self) -> SimulationConfig:
        """The runs that the experiment needs."""
        return SimulationConfig(
            faults=tuple(kind.fault for kind in self.classes.values()),
            runs_per_fault=self.runs_per_class,
            frames=self.frames,
            onset_frame=self.onset_frame,
            first_seed=self.first_seed,
        )
