"""Trains one network of areas on composed areas, and checks it on recorded ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.features import area_shape
from models.areas.networks.base import AreaNetwork
from models.areas.networks.graphs import build_area_network
from models.areas.training.compose import Composer
from models.areas.training.examples import Batch, batch_of, composed_batches, examples_of
from models.areas.training.sequences import AreaSequence
from models.areas.training.stage import AreaStage
from models.training.loop import EpochRecord, OnProgress, StageConfig, run_stage
from pipeline.compiled import Notify

VALIDATION_STEP: Final = 6
"""Every so many frames of the validation areas tell which epoch is best."""


class AreaTraining(BaseModel):
    """What networks of areas learn from, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    """Folder with the areas that training areas are composed of."""
    areas: int = Field(default=600, ge=1)
    """How many are composed."""
    batch_size: int = Field(default=128, ge=1)
    """Frames of areas."""
    stage: StageConfig = StageConfig(epochs=10, learning_rate=5e-3, weight_decay=5e-3)


def sequence_shape(sequence: AreaSequence, quiet: Sequence[int], *, reads_texts: bool = True) -> AreaShape:
    """Sizes for networks that learn from such areas."""
    classes, sizes = sequence.graph.faults.shape[1], sequence.embedding_sizes
    text_size = classes if reads_texts else 0
    return area_shape(classes, sizes, text_size=text_size, text_modality=len(sizes) - 1, quiet=quiet)


class LearningData:
    """Composed and recorded areas as batches, made when they are first asked for: the same of one seed."""

    def __init__(
        self,
        training: AreaTraining,
        shape: AreaShape,
        learning: Sequence[AreaSequence],
        validation: Sequence[AreaSequence],
        *,
        seed: int,
        notify: Notify,
        on_composing: Callable[[], None] = lambda: None,
    ) -> None:
        """Composed areas are of those of `learning`; `on_composing` is told when that begins."""
        self.training, self.shape, self.seed = training, shape, seed
        self._learning, self._validation = learning, validation
        self._notify, self._on_composing = notify, on_composing

    @cached_property
    def batches(self) -> list[Batch]:
        """To learn from."""
        self._on_composing()
        composer = Composer(self._learning)
        areas, batch_size = self.training.areas, self.training.batch_size
        return list(
            composed_batches(
                composer, self.shape, areas=areas, batch_size=batch_size, seed=self.seed, notify=self._notify
            )
        )

    @cached_property
    def checked(self) -> list[Batch]:
        """Some usable frames of the validation areas, all modalities there."""
        found = []
        for sequence in self._validation:
            frames = np.flatnonzero(sequence.usable)[::VALIDATION_STEP]
            if len(frames):
                found += examples_of(sequence, frames.tolist(), None, self.shape.quiet, self._notify)
        size = self.training.batch_size
        return [batch_of(found[first : first + size], self.shape) for first in range(0, len(found), size)]

    def digest(self, config: AreaNetworkConfig) -> str:
        """Of the configuration, the training and the seed of a network that learns from this."""
        parts: list[BaseModel] = [config, self.training, self.shape]
        essence = [*(part.model_dump(mode="json") for part in parts), self.seed]
        return hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()


def train_network(
    config: AreaNetworkConfig, data: LearningData, folder: Path, on_progress: OnProgress | None
) -> tuple[AreaNetwork, list[EpochRecord]]:
    """A trained network, and its epochs; one of which the folder has a checkpoint is trained from there.

    Raises DataError if that is of another configuration or other data.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.seed)
        network = build_area_network(config, data.shape)
    digest = data.digest(config)
    history = run_stage(
        AreaStage(network, lambda: data.batches, lambda: data.checked),
        data.training.stage,
        seed=data.seed,
        checkpoint=folder / f"{digest[:16]}.checkpoint",
        fingerprint=digest,
        resume=True,
        on_progress=on_progress,
    )
    return network, history
