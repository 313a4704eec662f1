"""Remaining life: the head trained, its interval made to cover what it should on validation runs, and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from models.diagnoser import Diagnoser
from models.network_file import round_weights
from models.training.config import TrainConfig
from models.training.experts.train import RunStage
from models.training.prepare import Part, PreparedData
from models.training.stages.remaining_life import Life, RemainingLifeStage, lives, stated_shares
from pipeline.arrays import Floats

REMAINING_LIFE: Final = "remaining_life"
"""Where the scores of the whole system have those of remaining life."""


def train_remaining_life(network: Diagnoser, data: PreparedData, config: TrainConfig, run_stage: RunStage) -> None:
    """Train the head, if there is one, and fit its interval on validation; raises DataError without runs to failure."""
    if network.remaining_life is None:
        return
    network.eval()
    run_stage(RemainingLifeStage(network, data, config), config.remaining_life_stage)
    # As it will be stored.
    round_weights(network, config.storage)
    fit_margin(network, data, config)


def fit_margin(network: Diagnoser, data: PreparedData, config: TrainConfig) -> None:
    """Set the head's margin so that on validation the interval contains the share that is wanted of the frames.

    Conformalised quantile regression (Romano, Patterson and Candes 2019) with each run weighing the same, however long
    it is: the frames of one run err alike. The margin is negative if the interval was too wide.
    """
    head, choice = network.remaining_life, config.remaining_life
    assert head is not None and choice is not None
    known = _lives(network, data, config, "validation")
    outside: list[Floats] = []
    weights: list[Floats] = []
    for life, shares in zip(known, stated_shares(network, data, [life.run for life in known]), strict=True):
        target = life.remaining / np.float32(head.config.cap_frames)
        distance = np.maximum(shares[:, 1] - target, target - shares[:, 2])[~np.isnan(target)]
        outside.append(distance)
        weights.append(np.full(len(distance), 1 / len(distance)))
    head.margin.fill_(float(weighted_quantile(np.concatenate(outside), np.concatenate(weights), choice.coverage)))


def weighted_quantile(values: Floats, weights: Floats, share: float) -> np.float32:
    """The smallest of the values (N,) below or at which at least this share of the weights (N,) lies."""
    order = np.argsort(values, kind="stable")
    sums = np.cumsum(weights[order])
    # Rounding may leave the whole sum a little below 1.
    place = min(int(np.searchsorted(sums, share * sums[-1])), len(values) - 1)
    return np.float32(values[order][place])


def remaining_life_scores(network: Diagnoser, data: PreparedData, config: TrainConfig, part: Part) -> dict[str, Any]:
    """Scores of the head under `REMAINING_LIFE`, on all frames of a held-out part's runs to failure; nothing without a
    head or such a run. All are in frames.

    `rmse` is about the capped target, `rmse_below_cap` and `coverage_below_cap` only about frames with less left than
    the cap, which are the harder ones. `width` is the mean width of the interval.
    """
    head = network.remaining_life
    known = [] if head is None else _lives(network, data, config, part)
    if head is None or not known:
        return {}
    shares = np.concatenate(stated_shares(network, data, [life.run for life in known]))
    target = np.concatenate([life.remaining for life in known])
    stated = head.bounded(torch.from_numpy(shares)).numpy()
    frames = ~np.isnan(target)
    return {REMAINING_LIFE: scores_of(target[frames], stated[frames], head.config.cap_frames) | {"runs": len(known)}}


def scores_of(target: Floats, stated: Floats, cap_frames: int) -> dict[str, Any]:
    """Scores of stated estimates, lows and highs (N, 3) for targets (N,), all in frames."""
    away = (stated[:, 0] - target).astype(np.float64)
    inside = (stated[:, 1] <= target) & (target <= stated[:, 2])
    below = target < cap_frames
    return {
        "rmse": float(np.sqrt(np.mean(away**2))),
        "rmse_below_cap": float(np.sqrt(np.mean(away[below] ** 2))) if below.any() else None,
        "coverage": float(inside.mean()),
        "coverage_below_cap": float(inside[below].mean()) if below.any() else None,
        "width": float((stated[:, 2] - stated[:, 1]).mean()),
        "frames": len(target),
    }


def _lives(network: Diagnoser, data: PreparedData, config: TrainConfig, part: Part) -> Sequence[Life]:
    assert network.remaining_life is not None and config.remaining_life is not None
    choice = config.remaining_life
    return lives(data.runs(part), choice, choice.classes(data.faults), network.remaining_life.config.cap_frames)
