"""The training stage of the sensor encoder, on whole runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from models.data.augment import disturb
from models.data.runs import UNLABELLED
from models.diagnoser import Diagnoser
from models.encoders.base import SensorEncoder
from models.training.batches import batches_of_similar_length, draw_offsets, padded, sensor_batch
from models.training.config import TrainConfig
from models.training.fitting.evidence import expert_inputs, sensor_answers
from models.training.loop import EpochRecord
from models.training.losses import validation_scores, weighted_loss
from models.training.prepare import PreparedData, learnt_frames, repeated_runs
from pipeline.arrays import Floats

_BATCHES = 8
"""Of an epoch, at least, unless the configuration says how many runs a batch has."""


class SensorStage:
    """Cross entropy on every frame after the burn-in, by truncated back-propagation with carried state.

    In each epoch every run (those in which a fault clears several times, if the configuration says so) is disturbed,
    starts at a random offset, and is cut into chunks; the state is carried from chunk to chunk, the gradient is not.
    """

    def __init__(
        self,
        network: Diagnoser,
        data: PreparedData,
        config: TrainConfig,
        encoder: SensorEncoder | None = None,
        name: str = "sensors",
    ) -> None:
        """`encoder` is one expert of the network's pool, by default the only encoder."""
        self.name = name
        self._encoder = network.sensors if encoder is None else encoder
        self.module: nn.Module = self._encoder
        self._network = network
        self._data = data
        self._config = config
        self._scaling = network.scaling()
        self._batch_size = config.sensor_stage.batch_size
        if "batch_size" not in config.sensor_stage.model_fields_set:
            # Of few runs each batch has fewer, so that an epoch has enough updates.
            self._batch_size = min(self._batch_size, max(4, len(data.split.train) // _BATCHES))
        self._runs = repeated_runs(config, data.split.train)
        self._frame_weights = [config.recovery.weights(run.labels) for run in self._runs]
        self._validation_labels = learnt_frames(config, data.split.validation)

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        config, runs, chunk_frames = self._config, self._runs, self._config.chunk_frames
        offsets = draw_offsets(runs, config.most_offset_frames, rng)
        lengths = np.array([len(run) - offset for run, offset in zip(runs, offsets, strict=True)])
        total, finished = lengths.sum(), 0
        for batch in batches_of_similar_length(lengths, self._batch_size, 2 * chunk_frames, rng):
            readings = [
                disturb(runs[row].values[offsets[row] :], self._scaling, config.augment, self._data.cells, rng)
                for row in batch
            ]
            texts = [runs[row].between(offsets[row], len(runs[row])).texts or () for row in batch]
            with torch.no_grad():
                _, x = sensor_batch(self._network, readings, texts, self._data.hold_limit)
                x = expert_inputs(self._network, self._encoder, x)
            y = padded([runs[row].learnt[offsets[row] :] for row in batch], UNLABELLED)
            weights = padded([self._weights(row, offsets[row]) for row in batch], 0)
            state = self._encoder.init_state(len(batch))
            for start in range(0, x.shape[1], chunk_frames):
                chunk = slice(start, start + chunk_frames)
                logits, _, state = self._encoder.advance(x[:, chunk], state)
                state = {key: tensor.detach() for key, tensor in state.items()}
                if bool((weights[:, chunk] > 0).any()):
                    ended = np.minimum(lengths[batch], start + chunk_frames).sum()
                    labels, frame_weights = y[:, chunk].flatten(), weights[:, chunk].flatten()
                    loss = weighted_loss(logits.flatten(0, 1), labels, self._data.class_weights, frame_weights)
                    yield float((finished + ended) / total), loss
            finished += lengths[batch].sum()

    def validate(self) -> EpochRecord:
        """Macro-F1 and loss on undisturbed validation runs."""
        runs, limit = self._data.split.validation, self._data.hold_limit
        answers = sensor_answers(self._network, runs, limit, self._encoder)
        return validation_scores(np.concatenate([answer.logits for answer in answers]), self._validation_labels)

    def _weights(self, row: int, offset: int) -> Floats:
        """Loss weights of a run from its first frame on; 0 within the burn-in."""
        weights = self._frame_weights[row][offset:]
        return np.where(np.arange(len(weights)) < self._config.burn_in_frames, np.float32(0), weights)
