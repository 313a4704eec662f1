"""Batches of runs: runs of similar length together, each from a random first frame, padded at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.runs import Run
from models.data.scaling import hold
from models.diagnoser import Diagnoser
from models.encoders.placed_texts import PlacedText
from pipeline.arrays import Floats, Ints


def draw_offsets(runs: Sequence[Run], max_offset: int, rng: np.random.Generator) -> list[int]:
    """A random first frame for each run, up to `max_offset` but within its first quarter."""
    return [int(rng.integers(0, min(max_offset, len(run) // 4) + 1)) for run in runs]


def batches_of_similar_length(lengths: Ints, size: int, grain: int, rng: np.random.Generator) -> list[Ints]:
    """Rows in batches whose lengths differ by less than `grain` where possible, in random order."""
    order = rng.permutation(len(lengths))
    order = order[np.argsort(lengths[order] // grain, kind="stable")]
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    rng.shuffle(batches)
    return batches


def padded(arrays: Sequence[NDArray[np.generic]], fill: float) -> Tensor:
    """Arrays (T_b, …) of one batch as a tensor (B, T, …), filled up at the end."""
    longest = max(len(array) for array in arrays)
    full = np.full((len(arrays), longest, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in enumerate(arrays):
        full[row, : len(array)] = array
    return torch.from_numpy(full)


def sensor_batch(
    network: Diagnoser, readings: Sequence[Floats], texts: Sequence[Sequence[PlacedText]], hold_limit: int
) -> tuple[Tensor, Tensor]:
    """Readings (T_b, V) of one batch, and each run's own texts, as held values (B, T, V), NaN where unknown, and
    encoder inputs (B, T, F)."""
    filled = [hold(values, hold_limit) for values in readings]
    values = padded([held for held, _ in filled], np.nan)
    _, x = network.sensor_inputs(values, padded([measured for _, measured in filled], False))
    if network.messages is not None:
        columns = [network.message_columns(own, x.shape[1]) for own in texts]
        x = torch.cat([x, torch.stack(columns)], dim=2)
    return values, x
