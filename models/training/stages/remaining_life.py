"""The training stage of the head that estimates remaining life: single frames, shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.data.augment import disturb
from models.data.remaining_life import RemainingLifeChoice, remaining_frames
from models.data.runs import Run, normal_runs
from models.diagnoser import Diagnoser
from models.encoders.experts.statistics import StatisticsNetwork
from models.fusion.remaining_life import RemainingLife
from models.training.batches import batches_of_similar_length, draw_offsets, sensor_batch
from models.training.config import TrainConfig
from models.training.loop import EpochRecord
from models.training.prepare import PreparedData
from pipeline.arrays import Floats
from pipeline.errors import DataError

_RUNS: Final = 32
"""Runs whose inputs are computed at a time."""
_INTERVAL_WEIGHT: Final = 0.3
"""Of the pinball losses beside the squared error, both in shares of the cap."""


class Life(NamedTuple):
    """A run that ends in failure, and the frames until then."""

    run: Run
    remaining: Floats
    """(T,) NaN in frames of no known life, else at most the cap."""


def lives(runs: Sequence[Run], choice: RemainingLifeChoice, ends: Sequence[int], cap_frames: int) -> list[Life]:
    """The runs with a frame whose remaining life is known; others, which end before a failure, say nothing of it."""
    found = [Life(run, np.minimum(remaining_frames(run, choice, ends), np.float32(cap_frames))) for run in runs]
    return [life for life in found if not np.isnan(life.remaining).all()]


class RemainingLifeStage:
    """Squared error of the estimate and pinball losses of the interval's ends, on frames after the burn-in.

    In each epoch every run is disturbed and starts at a random offset, so that the head does not learn to count frames
    alone: a machine's stream may begin in the middle of its life.
    """

    name = "remaining_life"

    def __init__(self, network: Diagnoser, data: PreparedData, config: TrainConfig) -> None:
        """Raises DataError if no training or no validation run ends in failure."""
        assert network.remaining_life is not None and config.remaining_life is not None
        choice = config.remaining_life
        self._head = network.remaining_life
        self.module: nn.Module = self._head
        self._network = network
        self._data = data
        self._config = config
        self._tails = ((1 - choice.coverage) / 2, (1 + choice.coverage) / 2)
        cap, ends = self._head.config.cap_frames, choice.classes(data.faults)
        self._lives = lives(data.split.train, choice, ends, cap)
        self._validation = lives(data.split.validation, choice, ends, cap)
        if not self._lives or not self._validation:
            part = "validation" if self._lives else "training"
            how = "ends while a fault is there" if choice.end == "run" else "has the onset of a fault"
            raise DataError(
                f"no {part} run {how}, so remaining life cannot be learnt; add runs to failure, correct `end` or "
                "`faults` of remaining_life, or leave it out"
            )
        if isinstance(self._head.network, StatisticsNetwork):
            with torch.no_grad():
                self._fit_scaling(self._head.network)

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        config, scaling = self._config, self._network.scaling()
        offsets = draw_offsets([life.run for life in self._lives], config.most_offset_frames, rng)
        runs = [life.run.between(offset, len(life.run)) for life, offset in zip(self._lives, offsets, strict=True)]
        readings = [disturb(run.values, scaling, config.augment, self._data.cells, rng) for run in runs]
        inputs, targets = [], []
        for batch in batches_of_similar_length(np.array([len(run) for run in runs]), _RUNS, 1, rng):
            with torch.no_grad():
                own = head_inputs(
                    self._network, self._data, [runs[row] for row in batch], [readings[row] for row in batch]
                )
            for row, frames in zip(batch, own, strict=True):
                remaining = self._lives[row].remaining[offsets[row] :]
                known = ~np.isnan(remaining)
                known[: config.burn_in_frames] = False
                inputs.append(frames[torch.from_numpy(known)])
                targets.append(remaining[known])
        x, y = torch.cat(inputs), torch.from_numpy(np.concatenate(targets)) / self._head.config.cap_frames
        order = torch.from_numpy(rng.permutation(len(y)))
        size = config.remaining_life_stage.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield min(1.0, (start + len(rows)) / len(order)), self._loss(self._head.answer(x[rows]), y[rows])

    def validate(self) -> EpochRecord:
        """The root of the mean squared error in frames; its negative is the score."""
        stated = stated_shares(self._network, self._data, [life.run for life in self._validation])
        estimates = np.concatenate([self._head.bounded(torch.from_numpy(own))[:, 0].numpy() for own in stated])
        away = estimates - np.concatenate([life.remaining for life in self._validation])
        error = float(np.sqrt(np.nanmean(away**2)))
        return {"score": -error, "validation_loss": error}

    def _loss(self, shares: Tensor, target: Tensor) -> Tensor:
        estimate, low, high = shares.unbind(1)
        loss = (estimate - target) ** 2
        for end, tail in zip((low, high), self._tails, strict=True):
            away = target - end
            loss = loss + _INTERVAL_WEIGHT * torch.maximum(tail * away, (tail - 1) * away)
        return loss.mean()

    def _fit_scaling(self, statistics: StatisticsNetwork) -> None:
        """Scale the head's statistics by the frames before each training run's first fault."""
        normal = normal_runs(self._data.split.train)
        rows = []
        for start in range(0, len(normal), _RUNS):
            batch = normal[start : start + _RUNS]
            x = _encoder_inputs(self._network, self._data, batch, [run.values for run in batch])
            seen, _ = statistics.statistics(self._head.own_inputs(x), statistics.init_state(len(batch)))
            rows += [own[: len(run)] for own, run in zip(seen, batch, strict=True)]
        statistics.fit_scaling(torch.cat(rows))


def _encoder_inputs(network: Diagnoser, data: PreparedData, runs: Sequence[Run], readings: Sequence[Floats]) -> Tensor:
    return sensor_batch(network, readings, [run.texts or () for run in runs], data.hold_limit)[1]


def head_inputs(
    network: Diagnoser, data: PreparedData, runs: Sequence[Run], readings: Sequence[Floats]
) -> list[Tensor]:
    """What the head's dense network gets of each run (T, I), with these readings (T, V)."""
    head = network.remaining_life
    assert isinstance(head, RemainingLife)
    x = _encoder_inputs(network, data, runs, readings)
    features = network.sensors(x)[1] if head.config.inputs == "features" else x[..., :0]
    inputs, _ = head.inputs(x, features, head.init_state(len(runs)))
    return [own[: len(run)] for own, run in zip(inputs, runs, strict=True)]


def stated_shares(network: Diagnoser, data: PreparedData, runs: Sequence[Run]) -> list[Floats]:
    """What the head states in the frames of each undisturbed run, in shares of the cap and not bounded, (T, 3)."""
    head = network.remaining_life
    assert isinstance(head, RemainingLife)
    stated: list[Floats] = []
    with torch.inference_mode():
        for start in range(0, len(runs), _RUNS):
            batch = runs[start : start + _RUNS]
            stated += [
                head.answer(own).numpy() for own in head_inputs(network, data, batch, [run.values for run in batch])
            ]
    return stated
