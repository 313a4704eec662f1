"""The training stage of the retrieval head: faulty frames and texts of the same fault, contrasted in batches.

The loss is symmetric InfoNCE (van den Oord et al. 2018): the cross-entropy of softmax(s u^T / temperature) over rows
and over columns. All pairs of one class in a batch are positives, each with the same share of the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models.data.runs import Run, class_runs
from models.data.text_pools import TextPool
from models.diagnoser import Diagnoser
from models.encoders.event_ring import TextModality
from models.evaluation.retrieval import retrieval_scores
from models.training.config import TrainConfig
from models.training.fitting.evidence import sensor_answers
from models.training.loop import EpochRecord
from models.training.prepare import PreparedData
from pipeline.arrays import Ints
from pipeline.errors import DataError

_RUNS = 32
"""Runs whose features are computed at a time."""
_MAX_AGE_FRAMES = 30.0
"""Texts are learnt at ages up to this."""


class RetrievalStage:
    """Trains the head alone; the encoders stay as they are."""

    name = "retrieval"

    def __init__(self, network: Diagnoser, data: PreparedData, config: TrainConfig) -> None:
        """Raises DataError if a part lacks frames or texts of faults."""
        assert network.retrieval is not None and network.text is not None and config.retrieval is not None
        self._head = network.retrieval
        self.module: nn.Module = self._head
        self._text = network.text
        self._choice = config.retrieval
        self._batch_size = config.retrieval_stage.batch_size
        rng = np.random.default_rng([config.seed, *b"retrieval frames"])
        count = config.retrieval.frames_per_episode
        self._frames = faulty_frames(network, data, data.split.train, count, rng)
        # The text encoder is more certain of texts that it has learnt than of any other.
        self._texts = faulty_texts(network, None if data.pools is None else data.pools.unread)
        self._validation_frames = faulty_frames(network, data, data.split.validation, 2, rng)
        self._validation_texts = faulty_texts(network, None if data.pools is None else data.pools.validation)
        self._classes = np.intersect1d(self._frames[1], self._texts[1])
        if len(self._classes) < 2 or not len(np.intersect1d(self._validation_frames[1], self._validation_texts[1])):
            raise DataError(
                "retrieval is learnt from frames and texts of the same faults, and the training part has both of "
                f"{len(self._classes)} faults; give more texts or runs of faults, or leave `retrieval` out"
            )
        self._head.sensors.fit_scaling(self._frames[0])
        with torch.no_grad():
            self._head.text.fit_scaling(self._pooled(self._texts[0], torch.ones(len(self._texts[1]))))

    def losses(self, rng: np.random.Generator) -> Iterator[tuple[float, Tensor]]:
        """See `Stage.losses`: every fault is drawn equally often."""
        frames_of = {label: np.flatnonzero(self._frames[1] == label) for label in self._classes.tolist()}
        texts_of = {label: np.flatnonzero(self._texts[1] == label) for label in self._classes.tolist()}
        total = self._choice.pairs_per_epoch
        for start in range(0, total, self._batch_size):
            count = min(self._batch_size, total - start)
            labels = rng.choice(self._classes, count)
            frames = [rng.choice(frames_of[label]) for label in labels.tolist()]
            texts = [rng.choice(texts_of[label]) for label in labels.tolist()]
            ages = torch.from_numpy(rng.uniform(0, _MAX_AGE_FRAMES, count)).float()
            with torch.no_grad():
                read = self._pooled(self._texts[0][texts], ages)
            loss = contrastive_loss(
                self._head.sensors(self._frames[0][frames]),
                self._head.text(read),
                torch.from_numpy(labels),
                self._choice.temperature,
            )
            yield min(1.0, (start + count) / total), loss

    def validate(self) -> EpochRecord:
        """Mean reciprocal rank of both directions, and the mean of the two as score."""
        (features, frame_labels), (vectors, text_labels) = self._validation_frames, self._validation_texts
        with torch.no_grad():
            sensors = self._head.sensors(features)
            texts = self._head.text(self._pooled(vectors, torch.ones(len(text_labels))))
            loss = contrastive_loss(*_paired(sensors, texts, frame_labels, text_labels), self._choice.temperature)
        similar = (sensors @ texts.T).numpy()
        there = retrieval_scores(similar, frame_labels, text_labels)
        back = retrieval_scores(similar.T, text_labels, frame_labels)
        score = (there["mrr"] + back["mrr"]) / 2
        return {
            "score": score,
            "validation_loss": float(loss),
            "sensors_to_text": there["mrr"],
            "text_to_sensors": back["mrr"],
        }

    def _pooled(self, vectors: Tensor, ages: Tensor) -> Tensor:
        return text_features(self._text, vectors, ages)


def contrastive_loss(sensors: Tensor, texts: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE of paired unit vectors (N, D) of classes (N,), with all pairs of a class as positives."""
    logits = sensors @ texts.T / temperature
    same = (labels[:, None] == labels[None, :]).to(logits.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    rows = -(target * logits.log_softmax(dim=1)).sum(dim=1)
    columns = -(target * logits.T.log_softmax(dim=1)).sum(dim=1)
    return (rows.mean() + columns.mean()) / 2


def text_features(text: TextModality, vectors: Tensor, ages: Tensor) -> Tensor:
    """The text modality's features (N, D) where one text (N, d) is remembered, `ages` (N,) frames old."""
    pooled, _ = text.pool(vectors[:, None], ages[:, None])
    return pooled


def faulty_frames(
    network: Diagnoser, data: PreparedData, runs: Sequence[Run], count: int, rng: np.random.Generator
) -> tuple[Tensor, Ints]:
    """Sensor features (N, D) and classes (N,) of up to `count` frames of every fault in every run."""
    features: list[Tensor] = []
    labels: list[int] = []
    for start in range(0, len(runs), _RUNS):
        batch = runs[start : start + _RUNS]
        for run, answer in zip(batch, sensor_answers(network, batch, data.hold_limit), strict=True):
            for begin, end, label in class_runs(run.labels):
                if label > 0:
                    rows = begin + rng.permutation(end - begin)[:count]
                    features.append(torch.from_numpy(answer.features[rows]))
                    labels += [label] * len(rows)
    if not features:
        return torch.zeros(0, network.sensors.feature_size), np.zeros(0, np.int64)
    return torch.cat(features), np.array(labels, np.int64)


def faulty_texts(network: Diagnoser, pool: TextPool | None) -> tuple[Tensor, Ints]:
    """Vectors (N, d) and classes (N,) of the texts about faults in which the network knows a word."""
    assert network.text is not None
    known = [] if pool is None else [row for row in range(len(pool)) if network.text.knows(pool.texts[row])]
    rows = [] if pool is None else [row for row in known if pool.classes[row] > 0]
    if pool is None or not rows:
        return torch.zeros(0, network.text.config.size), np.zeros(0, np.int64)
    with torch.inference_mode():
        vectors = network.text.encode([pool.texts[row] for row in rows])
    return vectors.clone(), pool.classes[rows]


def _paired(sensors: Tensor, texts: Tensor, frames: Ints, labels: Ints) -> tuple[Tensor, Tensor, Tensor]:
    """For every frame whose class has texts one of them, in turn."""
    left, right = [], []
    for label in np.intersect1d(frames, labels).tolist():
        rows, others = np.flatnonzero(frames == label), np.flatnonzero(labels == label)
        left += rows.tolist()
        right += np.resize(others, len(rows)).tolist()
    return sensors[left], texts[right], torch.from_numpy(frames[left])
