"""Answers of a network along recorded areas, as scores that rules have too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import torch

from models.areas.config import AreaShape
from models.areas.networks.base import AreaNetwork, GraphBatch
from models.areas.networks.batches import graph_batch
from models.areas.training.examples import examples_of
from models.areas.training.sequences import AreaSequence
from pipeline.arrays import Floats
from pipeline.compiled import Notify

_BATCH: Final = 120


class AreaPrediction(NamedTuple):
    """A network's answers along one area."""

    scores: Floats
    """(T, U) log odds that a utility has failed."""
    machines: Floats
    """(T, N, C) corrected probabilities."""


def sequence_batches(sequence: AreaSequence, shape: AreaShape, notify: Notify) -> Iterator[GraphBatch]:
    """All frames of an area in batches."""
    found = examples_of(sequence, range(sequence.frames), None, shape.quiet, notify)
    for first in range(0, len(found), _BATCH):
        yield graph_batch([(each.graph, each.features) for each in found[first : first + _BATCH]], shape)


def predict(network: AreaNetwork, batches: Sequence[GraphBatch]) -> AreaPrediction:
    """Answers along one area from its batches."""
    scores, machines = [], []
    with torch.no_grad():
        for batch in batches:
            answers = network(batch).fused
            classes = answers.machines.shape[1]
            causes = answers.causes[batch.areas + batch.nodes(0) :].view(batch.areas, -1, classes).numpy()
            scores.append(utility_scores(causes))
            machines.append(answers.machines.exp().view(batch.areas, -1, classes).numpy())
    return AreaPrediction(np.concatenate(scores), np.concatenate(machines))


def utility_scores(causes: Floats) -> Floats:
    """Scores as of `AreaPrediction` from log-probabilities (T, U, C)."""
    total = np.exp(causes.astype(np.float64)).sum(axis=2)
    odds: Floats = (np.log(np.maximum(total, 1e-12)) - np.log(np.maximum(1 - total, 1e-12))).astype(np.float32)
    return odds
