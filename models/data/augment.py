"""Augmentation of training data: noise and gaps in readings, missing cells, and typing errors in texts."""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.data.scaling import Scaling
from pipeline.arrays import Bools, Floats
from pipeline.config.sections.modalities import Cells


class MaskingConfig(BaseModel):
    """How often and how many cells, which are variables of one component and modality, are missing for a whole run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    complete_share: float = Field(default=0.35, ge=0, le=1)
    """Share of the runs that keep all cells."""
    most_missing: float = Field(default=0.7, ge=0, le=1)
    """Largest rate at which the others lose cells; it is drawn evenly from 0 on for each run."""
    dead_units: float = Field(default=0.25, ge=0, le=1)
    """Share of the runs that lose whole units at this rate: all cells of a component together."""


class AugmentConfig(BaseModel):
    """How often and how strongly a training run is disturbed, with new random numbers in each epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    clean_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the runs that are left unchanged."""
    noise: float = Field(default=0.05, ge=0)
    """White noise, in standard deviations of the normal state."""
    lost_variables: float = Field(default=0.06, ge=0, le=1)
    """Mean share of the variables that are lost for a while."""
    never_share: float = Field(default=0.2, ge=0, le=1)
    """Share of these that are lost for the whole run."""
    lost_stretches: float = Field(default=1.5, ge=0)
    """Mean number of stretches without any reading."""
    stretch_frames: float = Field(default=4.0, ge=1)
    """Mean length of such a stretch."""
    lost_readings: float = Field(default=0.02, ge=0, le=1)
    """Share of single readings that are lost."""
    thinned_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the disturbed runs that lose many more single readings, up to `most_thinned`."""
    most_thinned: float = Field(default=0.7, ge=0, le=1)
    """Largest share of single readings that a thinned run loses; it is drawn evenly from 0 on."""
    masking: MaskingConfig | None = None
    """If given, runs, disturbed or not, lose whole cells."""


def disturb(values: Floats, scaling: Scaling, config: AugmentConfig, cells: Cells, rng: np.random.Generator) -> Floats:
    """A disturbed copy of a run's readings (T, V), NaN where a reading was taken away."""
    disturbed = _disturbed(values, scaling, config, rng)
    if config.masking is None or rng.random() < config.masking.complete_share:
        return disturbed
    rate = rng.random() * config.masking.most_missing
    by_unit = rng.random() < config.masking.dead_units
    return without_cells(disturbed, cells, missing_cells(cells, rate, by_unit=by_unit, rng=rng))


def missing_cells(cells: Cells, rate: float, *, by_unit: bool, rng: np.random.Generator) -> Bools:
    """Which cells are missing, each (or each unit with all of its cells) with a probability of `rate`."""
    if by_unit:
        dead: Bools = rng.random(max(cells.units) + 1) < rate
        return dead[list(cells.units)]
    return np.asarray(rng.random(len(cells.columns)) < rate)


def without_cells(values: Floats, cells: Cells, missing: Bools) -> Floats:
    """A copy of readings (T, V) in which missing cells have no reading."""
    left = values.copy()
    for cell in np.flatnonzero(missing).tolist():
        left[:, list(cells.columns[cell])] = np.nan
    return left


def _disturbed(values: Floats, scaling: Scaling, config: AugmentConfig, rng: np.random.Generator) -> Floats:
    if rng.random() < config.clean_share:
        return values
    frames, variables = values.shape
    noise = rng.standard_normal(values.shape, dtype=np.float32)
    disturbed = values + noise * scaling.std * np.float32(config.noise)
    lost = config.lost_readings
    if config.thinned_share and rng.random() < config.thinned_share:
        lost = max(lost, rng.random() * config.most_thinned)
    disturbed[rng.random(values.shape, dtype=np.float32) < lost] = np.nan
    for variable in rng.choice(
        variables, min(rng.poisson(config.lost_variables * variables), variables), replace=False
    ):
        if rng.random() < config.never_share:
            disturbed[:, variable] = np.nan
        else:
            start, end = np.sort(rng.integers(0, frames + 1, 2))
            disturbed[start:end, variable] = np.nan
    for _ in range(rng.poisson(config.lost_stretches)):
        start = int(rng.integers(0, frames))
        disturbed[start : start + int(rng.geometric(1 / config.stretch_frames))] = np.nan
    return disturbed


def with_typos(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with one letter of a `share` of its words dropped, doubled or swapped with the next."""
    words = text.split()
    for index, word in enumerate(words):
        if len(word) > 3 and rng.random() < share:
            cut = int(rng.integers(1, len(word) - 1))
            changed = (
                word[:cut] + word[cut + 1 :],
                word[:cut] + word[cut] + word[cut:],
                word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :],
            )
            words[index] = changed[int(rng.integers(3))]
    return " ".join(words)
