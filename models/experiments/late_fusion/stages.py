"""Networks of the late-fusion experiment and the stages that train them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from models.configs.text import TextConfig
from models.data.augment import with_typos
from models.encoders.lstm import SeqLSTM
from models.encoders.text import TextEncoder
from models.encoders.tokenizer import Tokenizer
from models.evaluation.clustering import partition_scores
from models.experiments.late_fusion.config import LateFusionConfig
from models.experiments.late_fusion.reports import Reports
from models.training.loop import EpochRecord
from pipeline.arrays import Floats, Ints

_EVALUATION_BATCH = 100


class SequenceStage:
    """Cross entropy of runs (N, T, V) with one class each, by truncated back-propagation with carried state."""

    name = "sequences"

    def __init__(
        self, module: SeqLSTM, x: Tensor, classes: Ints, train: Ints, validation: Ints, config: LateFusionConfig
    ):
        self.module: nn.Module = module
        self._network = module
        self._x = x
        self._y = torch.from_numpy(classes)
        self._train = train
        self._validation = validation
        self._config = config

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        config, frames = self._config, self._x.shape[1]
        every = config.loss == "every_frame"
        chunk = config.chunk_frames if every else frames
        order = rng.permutation(self._train)
        size = config.sensor_stage.batch_size
        for start in range(0, len(order), size):
            rows = torch.from_numpy(order[start : start + size])
            x, y = self._x[rows], self._y[rows]
            state = self._network.init_state(len(rows))
            for begin in range(0, frames, chunk):
                logits, _, state = self._network.advance(x[:, begin : begin + chunk], state)
                state = {key: tensor.detach() for key, tensor in state.items()}
                scored = logits[:, max(config.onset_frame - begin, 0) :] if every else logits[:, -1:]
                if scored.shape[1]:
                    repeated = y.unsqueeze(1).expand(scored.shape[:2]).flatten()
                    loss = cross_entropy(scored.flatten(0, 1), repeated, label_smoothing=config.label_smoothing)
                    done = (start + len(rows) * min(1.0, (begin + chunk) / frames)) / len(order)
                    yield min(1.0, done), loss

    def validate(self) -> EpochRecord:
        """Loss, its negative as the score, and accuracy at the last frame."""
        return _scored(last_logits(self._network, self._x, self._validation), self._y.numpy()[self._validation])


class TextClassifier(nn.Module):
    """The text encoder with a dense head; one text, one answer."""

    def __init__(self, config: TextConfig, tokenizer: Tokenizer, *, classes: int) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(config, words=len(tokenizer))
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, classes)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Logits (N, C)."""
        logits: Tensor = self.head(self.dropout(self.encoder(self.tokenizer(texts))))
        return logits


class ReportStage:
    """Cross entropy of single reports, each class with the same weight, with new typing errors each epoch."""

    name = "texts"

    def __init__(self, module: TextClassifier, train: Reports, config: LateFusionConfig) -> None:
        self.module: nn.Module = module
        self._network = module
        self._train = train
        self._config = config

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`."""
        train, config = self._train, self._config
        y = torch.from_numpy(train.classes)
        weights = 1 / torch.bincount(y, minlength=len(config.classes)).clamp_min(1).float()
        weights = weights * len(y) / len(config.classes)
        order = rng.permutation(len(y))
        size = config.text_stage.batch_size
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            texts = [with_typos(train.texts[row], config.typo_share, rng) for row in rows]
            loss = cross_entropy(self._network(texts), y[rows], weights, label_smoothing=config.label_smoothing)
            yield min(1.0, (start + len(rows)) / len(order)), loss

    def validate(self) -> EpochRecord:
        """Nothing: the left-out fold is for the fusion, so the last weights are the ones that count."""
        return {"score": 0.0, "validation_loss": None}


def last_logits(network: SeqLSTM, x: Tensor, rows: Ints) -> Floats:
    """Logits (N, C) at the last frame of some runs."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(x[torch.from_numpy(rows[start : start + _EVALUATION_BATCH])])[0][:, -1]
            for start in range(0, len(rows), _EVALUATION_BATCH)
        ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


def text_logits(network: TextClassifier, texts: Sequence[str]) -> Floats:
    """Logits (N, C) of texts."""
    network.eval()
    with torch.inference_mode():
        return np.asarray(network(texts).numpy(), np.float32)


def _scored(logits: Floats, y: Ints) -> EpochRecord:
    loss = float(cross_entropy(torch.from_numpy(logits), torch.from_numpy(y)))
    predicted = np.asarray(logits.argmax(axis=1), np.int64)
    return {"score": -loss, "validation_loss": loss, "accuracy": float(np.mean(predicted == y))} | partition_scores(
        y, predicted
    )
