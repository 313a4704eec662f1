"""Scaling of readings against the normal state, and gaps filled as alignment fills them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from models.data.runs import UNLABELLED, Run, before_first_fault
from pipeline.arrays import Bools, Floats
from pipeline.config.profile import MachineType
from pipeline.errors import DataError


@dataclass(frozen=True, slots=True)
class Scaling:
    """Standard scores against the normal state of the training runs."""

    mean: Floats  # (V,)
    std: Floats  # (V,)

    @classmethod
    def fit(cls, runs: Iterable[Run]) -> Self:
        """From the frames before each run's first fault; a plant that recovers from one is not yet in its normal state.

        Where that leaves a variable without values it counts as never measured: mean 0, deviation 1. A variable
        that does not move gets a thousandth of its mean as deviation, so that rounding does not look like a fault.
        """
        parts = []
        given = tuple(runs)
        for run in given:
            parts.append(before_first_fault(run).values)
        clean = np.concatenate(parts).astype(np.float64) if parts else np.empty((0, 0))
        if not len(clean):
            raise DataError(_nothing_normal(given))
        measured = ~np.isnan(clean)
        count = measured.sum(axis=0)
        mean = np.where(measured, clean, 0).sum(axis=0) / np.maximum(count, 1)
        variance = np.where(measured, (clean - mean) ** 2, 0).sum(axis=0) / np.maximum(count, 1)
        std = np.maximum(np.sqrt(variance), 1e-3 * np.abs(mean))
        return cls(mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32))


def _nothing_normal(runs: Sequence[Run]) -> str:
    """Why the runs do not show the normal state, and what to do."""
    if not runs:
        return "there is no training run, so readings cannot be scaled; add data"
    first = [int(run.labels[0]) if len(run) else UNLABELLED for run in runs]
    unlabelled, faulty = sum(label < 0 for label in first), sum(label > 0 for label in first)
    return (
        f"readings are scaled by the normal frames before a run's first fault, and none of {len(runs)} training runs "
        f"begins with one: {unlabelled} begin without a label and {faulty} with a fault; label normal frames there, or "
        "add runs that begin in the normal state"
    )


def hold(values: Floats, limit: int) -> tuple[Floats, Bools]:
    """Fill NaN in (T, V) with the last value at most `limit` frames old, as alignment does.

    Returns the filled values, still NaN where unknown, and which were measured in their own frame.
    """
    observed = ~np.isnan(values)
    frames = np.arange(len(values))[:, None]
    last = np.maximum.accumulate(np.where(observed, frames, -1), axis=0)
    held = np.take_along_axis(values, np.maximum(last, 0), axis=0)
    return np.where((last >= 0) & (frames - last <= limit), held, np.float32(np.nan)), observed


def hold_frames(machine_type: MachineType) -> int:
    """For how many frames alignment holds a value in place of missing ones; the minimum over the sources."""
    shortest = min(machine_type.hold_ms(source) for source in machine_type.sources)
    return shortest // machine_type.frame_period_ms
