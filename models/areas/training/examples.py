"""Examples that networks of areas learn from: frames of areas with modalities masked, and their targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.areas.config import AreaShape
from models.areas.features import AreaFeatures, FeatureBuilder
from models.areas.graph import AreaGraph
from models.areas.networks.base import GraphBatch
from models.areas.networks.batches import graph_batch
from models.areas.training.compose import Composer
from models.areas.training.sequences import UNLABELLED, AreaSequence
from models.evaluation.areas import MASK_FRAMES
from pipeline.arrays import Bools, Ints
from pipeline.compiled import Notify

FRAMES_PER_AREA = 18
_BEFORE = 8
"""Frames per area that are drawn from all; the others are of the first frames of a cause."""
_EARLY_FRAMES = 40
_COMPLETE, _HIGHEST_RATE, _OFFLINE, _OFFLINE_RATE = 0.35, 0.7, 0.25, 0.3
_AREAS_MIXED = 64
"""Frames of so many areas are shuffled together."""


@dataclass(frozen=True, slots=True)
class Example:
    """A frame of an area, and what was true."""

    graph: AreaGraph
    features: AreaFeatures
    shared: tuple[int, int]
    own: Bools  # (N,)
    labels: Ints  # (N,)


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples as one graph."""

    graph: GraphBatch
    causes: Tensor
    """(A + N + U C,) bool: for each area the causes that are right, rows as of `CauseAnswers`."""
    labels: Tensor
    """(N,) class of each machine; negative where it is not certain."""


def draw_mask(frames: int, machines: int, modalities: int, rng: np.random.Generator) -> Bools:
    """(T, N, M) modalities that are missing, for MASK_FRAMES at a time: none in 35 % of the draws, else a share that is
    uniform from 0 to 70 %; in a quarter of them machines have nothing at all."""
    if rng.random() < _COMPLETE:
        return np.zeros((frames, machines, modalities), np.bool_)
    blocks = frames // MASK_FRAMES + 2
    missing = rng.random((blocks, machines, modalities)) < rng.uniform(0, _HIGHEST_RATE)
    if rng.random() < _OFFLINE:
        missing |= rng.random((blocks, machines, 1)) < _OFFLINE_RATE
    phase = int(rng.integers(MASK_FRAMES))
    spread: Bools = np.repeat(missing, MASK_FRAMES, axis=0)[phase : phase + frames]
    return spread


def examples_of(
    sequence: AreaSequence, frames: Iterable[int], missing: Bools | None, quiet: Sequence[int], notify: Notify
) -> list[Example]:
    """Examples at some frames of an area, with modalities (T, N, M) missing."""
    wanted, builder, found = set(frames), FeatureBuilder(sequence.graph, quiet, notify), []
    for frame in range(max(wanted) + 1):
        mask = None if missing is None else missing[frame]
        probabilities, present = sequence.fused(frame, mask)
        builder.advance(probabilities, np.asarray(present.any(axis=1)))
        if frame in wanted:
            features = builder.features(sequence.inputs(frame, mask))
            cause, labels = sequence.shared[frame], sequence.machines.labels[frame]
            found.append(Example(sequence.graph, features, (int(cause[0]), int(cause[1])), sequence.own[frame], labels))
    return found


def batch_of(examples: Sequence[Example], shape: AreaShape) -> Batch:
    """Examples put together."""
    graph = graph_batch([(example.graph, example.features) for example in examples], shape)
    none = np.array([e.shared[0] == UNLABELLED and not e.own.any() for e in examples])
    own = np.concatenate([e.own & (e.shared[0] == UNLABELLED) for e in examples])
    shared = []
    for example in examples:
        causes = np.zeros(example.graph.faults.shape, np.bool_)
        if example.shared[0] != UNLABELLED:
            causes[example.shared] = True
        shared.append(causes.ravel())
    right = torch.from_numpy(np.concatenate([none, own, *shared]))
    return Batch(graph, right, torch.from_numpy(np.concatenate([e.labels for e in examples])))


def composed_batches(
    composer: Composer,
    shape: AreaShape,
    *,
    areas: int,
    batch_size: int,
    seed: int,
    notify: Notify,
) -> Iterator[Batch]:
    """Batches of frames of composed areas, always the same of one seed."""
    mixed: list[Example] = []
    rng = np.random.default_rng([seed, *b"areas"])
    for number in range(areas):
        sequence = composer.draw(rng)
        frames, machines, modalities = sequence.machines.present.shape
        missing = draw_mask(frames, machines, modalities, rng)
        mixed += examples_of(sequence, _drawn_frames(sequence, rng), missing, shape.quiet, notify)
        if (number + 1) % _AREAS_MIXED == 0 or number + 1 == areas:
            order = rng.permutation(len(mixed))
            for first in range(0, len(mixed), batch_size):
                yield batch_of([mixed[i] for i in order[first : first + batch_size]], shape)
            mixed = []


def _drawn_frames(sequence: AreaSequence, rng: np.random.Generator) -> Ints:
    """Frames of an area, most of them soon after its first cause begins."""
    usable = np.flatnonzero(sequence.usable)
    drawn = rng.choice(usable, _BEFORE, replace=False)
    active = (sequence.shared[:, 0] != UNLABELLED) | sequence.own.any(axis=1)
    if active.any():
        early = usable[(usable >= active.argmax()) & (usable < active.argmax() + _EARLY_FRAMES)]
        place = (len(early) * rng.random(FRAMES_PER_AREA - _BEFORE) ** 1.5).astype(np.int64)
        drawn = np.concatenate([drawn, early[place]])
    found: Ints = np.unique(drawn)
    return found
