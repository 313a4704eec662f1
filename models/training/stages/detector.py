"""The training stage of the detector's forecast, on normal frames alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.configs.detector import DetectorConfig
from models.data.runs import Run, normal_runs
from models.data.scaling import hold
from models.diagnoser import Diagnoser
from models.encoders.experts.detector import Detector
from models.encoders.experts.no_classifier import NoClassifier
from models.training.batches import padded
from models.training.config import TrainConfig
from models.training.fitting.backing import BackingScores, fit_backing
from models.training.fitting.detector import fit_limits, fit_normal_state, share_above
from models.training.loop import EpochRecord, Stage, StageConfig
from models.training.prepare import Part, PreparedData
from pipeline.arrays import Bools, Floats
from pipeline.errors import DataError

CHUNK_FRAMES = 121
_STRIDE = 60
_BATCHES = 40
"""Of an epoch, at least, unless the configuration says how many chunks a batch has; chunks are drawn repeatedly."""
_MOST_CHUNKS = 1_500
"""Of an epoch, about 90,000 frames."""
_FEWEST_TRAINING, _FEWEST_VALIDATION = 2_000, 400
"""Normal frames before a fault; with fewer there is no detector."""
DEFAULT_SHARE = 5e-4
"""Share of the normal frames that may be above the limit, unless the configuration limits false alarms."""


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


class DetectorReport(NamedTuple):
    """What is known of a detector after its training."""

    share: float
    """Of normal frames above the alarm limit, as wanted."""
    normal: dict[Part, tuple[int, float]]
    """Of each held-out part the normal frames before a fault, and the share of them that is above the limit."""
    weight: float
    """With which the detector backs the classifier; 0 if it does not."""
    backing: dict[float, BackingScores]
    """What validation says of each weight."""


def wanted_detector(config: TrainConfig, data: PreparedData) -> DetectorConfig | None:
    """The detector's configuration, or None where there are too few normal frames for one that nobody asked for."""
    if config.detector is None and data.normal_only:
        raise DataError("there are only normal frames, from which a detector can learn; leave out `detector: null`")
    if config.detector is None:
        return None
    frames = {part: sum(map(len, normal_runs(getattr(data.split, part)))) for part in ("train", "validation")}
    if frames["train"] >= _FEWEST_TRAINING and frames["validation"] >= _FEWEST_VALIDATION:
        return config.detector
    if data.normal_only or "detector" in config.model_fields_set:
        raise DataError(
            f"a detector needs {_FEWEST_TRAINING:,} normal frames before a fault for training and "
            f"{_FEWEST_VALIDATION:,} for validation, and there are {frames['train']:,} and {frames['validation']:,}; "
            "add normal data, or leave `detector` out"
        )
    return None


def train_detector(
    network: Diagnoser, data: PreparedData, config: TrainConfig, run_stage: Callable[[Stage, StageConfig], None]
) -> DetectorReport | None:
    """Train the forecast, fit the normal state to training runs, and limits and backing to validation; nothing of a
    network without a detector."""
    if network.detector is None:
        return None
    run_stage(DetectorStage(network, data, config), config.detector_stage)
    share = config.false_alarms or DEFAULT_SHARE
    network.eval()
    backing: dict[float, BackingScores] = {}
    with torch.no_grad():
        fit_normal_state(network, normal_runs(data.split.train), data.hold_limit)
        fit_limits(
            network,
            normal_runs(data.split.validation),
            data.hold_limit,
            share,
        )
        if not isinstance(network.sensors, NoClassifier):
            backing = fit_backing(
                network, data.split.validation, data.hold_limit, len(data.faults), config.false_alarms
            )
        parts: tuple[Part, ...] = ("validation", "test") if config.score_test else ("validation",)
        normal = {
            part: share_above(network, runs, data.hold_limit)
            for part in parts
            if (runs := normal_runs(data.runs(part)))
        }
    return DetectorReport(share, normal, float(network.detector.backing.max()), backing)
