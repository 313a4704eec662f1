"""Texts placed on the frames of a run, and which of them are in the event ring at each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Ints


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A text that reached the model with frame `frame`, `age` frames after it was written."""

    frame: int
    age: float
    text: str


def ring_plan(texts: Sequence[PlacedText], frames: int, *, size: int, ttl: int) -> tuple[Ints, NDArray[np.float64]]:
    """Which texts are in the event ring at each frame, newest first: rows (T, E) and ages (T, E) in frames.

    Empty places have row 0 and age -1. All ages grow at the same rate, so a text that was pushed out never returns:
    the ring at any frame is simply the `size` youngest texts so far that are not older than `ttl`.
    """
    rows = np.zeros((frames, size), np.int64)
    ages = np.full((frames, size), -1.0)
    if not texts:
        return rows, ages
    arrived = np.array([text.frame for text in texts])
    initial = np.array([text.age for text in texts], np.float64)
    elapsed = np.arange(frames)[:, None] - arrived
    age = np.where((elapsed >= 0) & (initial + elapsed <= ttl), initial + elapsed, np.inf)
    # Of two equally old texts the later one counts as newer, as in `push_texts`.
    order = len(texts) - 1 - np.argsort(age[:, ::-1], axis=1, kind="stable")[:, :size]
    chosen = np.take_along_axis(age, order, axis=1)
    taken = chosen.shape[1]
    rows[:, :taken] = np.where(np.isfinite(chosen), order, 0)
    ages[:, :taken] = np.where(np.isfinite(chosen), chosen, -1)
    return rows, ages
