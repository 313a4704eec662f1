"""The training stage of a network on streaming statistics: single frames, shuffled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.data.augment import disturb
from models.data.runs import UNLABELLED, Run
from models.diagnoser import Diagnoser
from models.encoders.experts.statistics import StatisticsNetwork
from models.training.batches import batches_of_similar_length, draw_offsets, sensor_batch
from models.training.config import TrainConfig
from models.training.fitting.evidence import expert_inputs, sensor_answers
from models.training.loop import EpochRecord
from models.training.losses import validation_scores, weighted_loss
from models.training.prepare import PreparedData, learnt_frames, repeated_runs
from pipeline.arrays import Floats

_RUNS = 32
"""Runs whose statistics are computed at a time."""


class StatisticsStage:
    """Cross entropy on single frames after the burn-in.

    In each epoch every run is disturbed and starts at a random offset, its statistics are computed once, and the frames
    of all runs are shuffled: the network has no state to carry, and learns faster from frames that are not alike.
    """

    def __init__(
        self, network: Diagnoser, data: PreparedData, config: TrainConfig, encoder: StatisticsNetwork, name: str
    ) -> None:
        self.name = name
        self.module: nn.Module = encoder
        self._encoder = encoder
        self._network = network
        self._data = data
        self._config = config
        self._runs = repeated_runs(config, data.split.train)
        self._validation_labels = learnt_frames(config, data.split.validation)

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        offsets = draw_offsets(self._runs, self._config.most_offset_frames, rng)
        runs = [run.between(offset, len(run)) for run, offset in zip(self._runs, offsets, strict=True)]
        scaling = self._network.scaling()
        readings = [disturb(run.values, scaling, self._config.augment, self._data.cells, rng) for run in runs]
        inputs, labels, weights = self._frames(runs, readings, rng)
        order = torch.from_numpy(rng.permutation(len(labels)))
        size = self._config.statistics_stage.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            logits, _ = self._encoder.answer(inputs[rows])
            loss = weighted_loss(logits, labels[rows], self._data.class_weights, weights[rows])
            yield min(1.0, (start + len(rows)) / len(order)), loss

    def validate(self) -> EpochRecord:
        """Macro-F1 and loss on undisturbed validation runs."""
        answers = sensor_answers(self._network, self._data.split.validation, self._data.hold_limit, self._encoder)
        return validation_scores(np.concatenate([answer.logits for answer in answers]), self._validation_labels)

    def _frames(
        self, runs: Sequence[Run], readings: Sequence[Floats], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (N, F), classes (N,) and weights (N,) of the frames to learn from."""
        lengths = np.array([len(run) for run in runs])
        inputs: list[Tensor] = []
        labels, weights = [], []
        for batch in batches_of_similar_length(lengths, _RUNS, 1, rng):
            texts = [runs[row].texts or () for row in batch]
            with torch.no_grad():
                _, x = sensor_batch(self._network, [readings[row] for row in batch], texts, self._data.hold_limit)
                x = expert_inputs(self._network, self._encoder, x)
                statistics, _ = self._encoder.statistics(x, self._encoder.init_state(len(batch)))
                x = self._encoder.inputs(x, statistics)
            for place, row in enumerate(batch):
                run = runs[row]
                weight = self._config.recovery.weights(run.labels)
                weight[: self._config.burn_in_frames] = 0
                learnt = (weight > 0) & (run.learnt != UNLABELLED)
                inputs.append(x[place, : len(run)][torch.from_numpy(learnt)])
                labels.append(run.learnt[learnt])
                weights.append(weight[learnt])
        return torch.cat(inputs), torch.from_numpy(np.concatenate(labels)), torch.from_numpy(np.concatenate(weights))
