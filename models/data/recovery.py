"""Recovery labels: which normal frames after a fault's clearing show a plant that is not yet in its normal state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.data.runs import Run, before_first_fault, class_runs
from models.data.scaling import Scaling, hold
from pipeline.arrays import Bools, Floats, Ints

_MAX_DEVIATION: Final = 10.0
"""Readings further from the normal state, in standard deviations, count as this far: one wild value is no state."""
_RIDGE: Final = 0.01
_MIN_NOISE: Final = 0.1
"""A smoothed variable counts as moving at least by this share of the variance that white noise would leave."""


class RecoveryRule(BaseModel):
    """When a plant has recovered from a fault that has cleared."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    span_frames: float = Field(default=4.0, ge=1)
    """Readings are smoothed by an exponential mean that takes in one part in this many of each frame."""
    quantile: float = Field(default=0.99, gt=0, lt=1)
    """Share of the normal frames whose distance counts as normal."""
    quiet_frames: int = Field(default=8, ge=1)
    """For how many frames in a row the distance has to be normal; these frames are normal already."""
    most_frames: int | None = Field(default=None, ge=1)
    """Longest time that a plant takes to recover; if unset, it may last until the next fault or the run's end."""


@dataclass(frozen=True, slots=True)
class NormalDistance:
    """Squared Mahalanobis distance of smoothed readings from the normal state, and how large it normally is."""

    scaling: Scaling
    rule: RecoveryRule
    hold_limit: int
    mean: NDArray[np.float64]  # (V,)
    precision: NDArray[np.float64]  # (V, V)
    limit: float

    @classmethod
    def fit(cls, runs: Sequence[Run], scaling: Scaling, rule: RecoveryRule, hold_limit: int) -> Self:
        """From the frames before each run's first fault, which `scaling` has been fitted on: there is at least one."""
        normal = []
        for run in runs:
            before = before_first_fault(run).values
            normal.append(smoothed(_scaled(before, scaling, hold_limit), rule.span_frames))
        frames = np.concatenate(normal).astype(np.float64)
        mean = frames.mean(axis=0)
        centred = frames - mean
        covariance = centred.T @ centred / len(frames)
        variance = np.diag(covariance)
        step = 1 / rule.span_frames
        floor = _MIN_NOISE * step / (2 - step)
        covariance = covariance + np.diag(_RIDGE * variance + np.maximum(floor - variance, 0))
        precision = np.linalg.inv(covariance)
        limit = float(np.quantile(_squared(centred, precision), rule.quantile))
        return cls(scaling, rule, hold_limit, mean, precision, limit)

    def is_normal(self, values: Floats) -> Bools:
        """Whether the distance is normal in each frame of a run with readings (T, V), NaN where not measured; (T,)."""
        frames = smoothed(_scaled(values, self.scaling, self.hold_limit), self.rule.span_frames)
        return np.asarray(_squared(frames - self.mean, self.precision) <= self.limit)


def smoothed(values: Floats, span: float) -> Floats:
    """Exponential mean over the frames of (T, V) from 0 on; it stays where a value is NaN."""
    mean = np.zeros(values.shape[1], np.float32)
    means = np.empty_like(values)
    step = np.float32(1 / span)
    for frame, row in enumerate(values):
        mean = np.where(np.isnan(row), mean, mean + step * (row - mean))
        means[frame] = mean
    return means


def recovery_targets(labels: Ints, is_normal: Bools, recovering: int, rule: RecoveryRule) -> tuple[Ints, list[int]]:
    """Labels (T,), but `recovering` from each clearing until the distance has been normal for `rule.quiet_frames`; and
    for how many frames after each clearing.

    A stretch that ends before so many frames have passed needs only those that it has.
    """
    targets = labels.copy()
    lengths: list[int] = []
    after_fault = False
    for start, end, label in class_runs(labels):
        if label == 0 and after_fault:
            latest = end if rule.most_frames is None else min(end, start + rule.most_frames)
            over = start
            while over < latest and not is_normal[over : min(over + rule.quiet_frames, end)].all():
                over += 1
            targets[start:over] = recovering
            lengths.append(over - start)
        # A stretch without labels does not say that a fault has cleared, nor that the plant has recovered.
        after_fault = label > 0 or (label < 0 and after_fault)
    return targets, lengths


def has_clearing(run: Run) -> bool:
    """Whether a fault clears in the run."""
    labels = run.labels[run.labels >= 0]
    return bool(((labels[1:] == 0) & (labels[:-1] > 0)).any())


def with_targets(runs: Sequence[Run], distance: NormalDistance, recovering: int) -> tuple[tuple[Run, ...], list[int]]:
    """The runs with the classes to learn; and for how many frames each clearing in them is followed by recovery."""
    learnt, lengths = [], []
    for run in runs:
        if not has_clearing(run):
            learnt.append(run)
            continue
        targets, of_run = recovery_targets(run.labels, distance.is_normal(run.values), recovering, distance.rule)
        learnt.append(replace(run, targets=targets))
        lengths += of_run
    return tuple(learnt), lengths


def _scaled(values: Floats, scaling: Scaling, hold_limit: int) -> Floats:
    held, _ = hold(values, hold_limit)
    deviations: Floats = (held - scaling.mean) / scaling.std
    return np.clip(deviations, -_MAX_DEVIATION, _MAX_DEVIATION)


def _squared(centred: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distance (T,) of centred rows (T, V)."""
    return np.asarray(np.einsum("tv,tv->t", centred @ precision, centred))
