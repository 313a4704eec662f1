"""The training stage of the detector's forecast, on normal frames alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.data.runs import Run, before_first_fault
from models.data.scaling import hold
from models.diagnoser import Diagnoser
from models.encoders.experts.detector import Detector
from models.training.batches import padded
from models.training.config import TrainConfig
from models.training.loop import EpochRecord
from models.training.prepare import PreparedData
from pipeline.arrays import Bools, Floats

CHUNK_FRAMES = 121
_STRIDE = 60
_BATCHES = 40
"""Of an epoch, at least, unless the configuration says how many chunks a batch has; chunks are drawn repeatedly."""
_MOST_CHUNKS = 1_500
"""Of an epoch, about 90,000 frames."""


class Chunk(NamedTuple):
    """Consecutive frames of a run before its first fault."""

    scaled: Floats  # (T, V) standard scores, 0 where unknown
    observed: Bools  # (T, V)


class DetectorStage:
    """Mean square of what the forecast misses, over the readings that were measured, after the warm-up.

    An epoch draws chunks of the training runs before their first fault. Validation runs give the loss by which the best
    epoch is kept.
    """

    name = "detector"

    def __init__(self, network: Diagnoser, data: PreparedData, config: TrainConfig) -> None:
        assert network.detector is not None
        self._detector: Detector = network.detector
        self.module: nn.Module = network.detector
        self._config = config
        self._chunks = _chunks(network, data.split.train, data.hold_limit)
        self._validation = _chunks(network, data.split.validation, data.hold_limit)

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        size = self._config.detector_stage.batch_size
        if "batch_size" not in self._config.detector_stage.model_fields_set:
            size = min(size, max(4, len(self._chunks) // _BATCHES))
        wanted = min(max(len(self._chunks), size * _BATCHES), _MOST_CHUNKS)
        order = np.concatenate(
            [rng.permutation(len(self._chunks)) for _ in range(-(-wanted // max(len(self._chunks), 1)))]
        )[:wanted]
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield min(1.0, (start + len(rows)) / len(order)), self._loss([self._chunks[row] for row in rows])

    def validate(self) -> EpochRecord:
        """The loss on validation runs; its negative is the score."""
        if not self._validation:
            return {"score": 0.0, "validation_loss": None}
        size = self._config.detector_stage.batch_size
        with torch.inference_mode():
            losses = [
                self._loss(self._validation[start : start + size]).item()
                for start in range(0, len(self._validation), size)
            ]
        return {"score": -float(np.mean(losses)), "validation_loss": float(np.mean(losses))}

    def _loss(self, chunks: Sequence[Chunk]) -> Tensor:
        x = padded([chunk.scaled for chunk in chunks], 0)
        judged = padded([chunk.observed for chunk in chunks], False)[:, 1:]
        judged[:, : self._detector.config.warm_up_frames - 1] = False
        clip = self._detector.config.clip
        missed = self._detector.forecasts(x[:, :-1]) - x[:, 1:].clamp(-clip, clip)
        return (missed * missed * judged).sum() / judged.sum().clamp_min(1)


def normal_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs before their first fault, those that have frames there."""
    return [part for part in map(before_first_fault, runs) if len(part)]


def _chunks(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> list[Chunk]:
    """Overlapping chunks of the runs before their first fault."""
    scaling = network.scaling()
    chunks = []
    assert network.detector is not None
    shortest = network.detector.config.warm_up_frames + 1
    for run in normal_runs(runs):
        held, observed = hold(run.values, hold_limit)
        scaled = np.nan_to_num((held - scaling.mean) / scaling.std, nan=0.0)
        for start in range(0, max(1, len(run) - CHUNK_FRAMES + _STRIDE), _STRIDE):
            part = slice(start, start + CHUNK_FRAMES)
            if len(scaled[part]) > shortest:
                chunks.append(Chunk(scaled[part], observed[part]))
    return chunks
