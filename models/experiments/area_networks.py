"""Networks of areas in experiments: trained on composed areas, and what they name along recorded ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.data import AreaAnswers
from models.areas.graph import AreaGraph, area_graph
from models.areas.networks.base import AreaNetwork
from models.areas.networks.batches import area_shape
from models.areas.networks.graphs import build_area_network
from models.areas.training.compose import Composer
from models.areas.training.examples import Batch, batch_of, composed_batches, examples_of
from models.areas.training.predict import AreaPrediction, predict, sequence_batches
from models.areas.training.sequences import AreaSequence, area_sequence
from models.areas.training.stage import AreaStage
from models.evaluation.areas import AreaTruth, machine_alarms
from models.experiments.base import OnPartProgress, report_part
from models.training.loop import Progress, StageConfig, run_stage
from pipeline.arrays import Bools, Floats, Ints
from pipeline.compiled import Notify
from pipeline.files.atomic_file import replacing

VALIDATION_STEP: Final = 6
"""Every so many frames of the validation areas tell which epoch is best."""


class AreaTraining(BaseModel):
    """What all networks of an experiment learn from, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str
    """Folder in `work` with the areas that training areas are composed of."""
    areas: int = Field(default=600, ge=1)
    """How many are composed."""
    batch_size: int = Field(default=128, ge=1)
    """Frames of areas."""
    stage: StageConfig = StageConfig(epochs=10, learning_rate=5e-3, weight_decay=5e-3)


class Named(NamedTuple):
    """What a rule or network makes of one area."""

    scores: Floats
    """(T, U) of each utility."""
    own_names: Ints | None = None
    """(T, N) the faults of the machines by their corrected answers, 0 for none."""


class Trained(NamedTuple):
    """Networks of one seed with what they are given."""

    networks: Mapping[str, AreaNetwork]
    digests: Mapping[str, str]
    """Of each network's configuration, training and seed."""
    shape: AreaShape


def graph_of(answers: AreaAnswers, members: Bools, faults: Bools) -> AreaGraph:
    """The graph of an area whose utilities have these machines (U, N) and faults (U, C)."""
    machines = len(answers.machines)
    return area_graph(
        [np.flatnonzero(row).tolist() for row in members],
        [np.flatnonzero(row).tolist() for row in faults],
        machines=machines,
        classes=len(answers.classes),
        machine_types=["machine"] * machines,
    )


def train_networks(
    configs: Mapping[str, AreaNetworkConfig],
    training: AreaTraining,
    learning: Sequence[AreaSequence],
    validation: Sequence[AreaSequence],
    quiet: Sequence[int],
    *,
    seed: int,
    out: Path,
    notify: Notify,
    on_progress: OnPartProgress,
) -> Trained:
    """Train every network on the same composed areas; those that a folder already has are not trained again.

    Raises DataError if the folder has checkpoints of another configuration or other data.
    """
    first = learning[0]
    shape = area_shape(
        first.graph.faults.shape[1],
        first.embedding_sizes,
        text_size=first.graph.faults.shape[1],
        text_modality=len(first.embedding_sizes) - 1,
        quiet=quiet,
    )

    @cache
    def batches() -> list[Batch]:
        on_progress("composing", Progress("composing", 0, 1, 0.0))
        composer = Composer(learning)
        return list(
            composed_batches(
                composer, shape, areas=training.areas, batch_size=training.batch_size, seed=seed, notify=notify
            )
        )

    @cache
    def checked() -> list[Batch]:
        return _validation_batches(validation, shape, training.batch_size, notify)

    networks: dict[str, AreaNetwork] = {}
    digests: dict[str, str] = {}
    for name, config in configs.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_area_network(config, shape)
        essence = [
            config.model_dump(mode="json"),
            training.model_dump(mode="json"),
            shape.model_dump(mode="json"),
            seed,
        ]
        digest = hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()
        checkpoint = out / f"{digest[:16]}.checkpoint"
        run_stage(
            AreaStage(network, batches, checked),
            training.stage,
            seed=seed,
            checkpoint=checkpoint,
            fingerprint=digest,
            resume=True,
            on_progress=report_part(on_progress, name),
        )
        networks[name], digests[name] = network, digest
    return Trained(networks, digests, shape)


def _validation_batches(
    sequences: Sequence[AreaSequence], shape: AreaShape, batch_size: int, notify: Notify
) -> list[Batch]:
    """Some usable frames of areas, all modalities there."""
    found = []
    for sequence in sequences:
        frames = np.flatnonzero(sequence.usable)[::VALIDATION_STEP]
        if len(frames):
            found += examples_of(sequence, frames.tolist(), None, shape.quiet, notify)
    return [batch_of(found[first : first + batch_size], shape) for first in range(0, len(found), batch_size)]


def named_by_networks(
    trained: Trained, areas: Sequence[tuple[AreaAnswers, AreaTruth, AreaGraph]], folder: Path, notify: Notify
) -> dict[str, list[Named]]:
    """What each network makes of each area; answers that the folder already has are not computed again."""
    found: dict[str, list[Named]] = {name: [] for name in trained.networks}
    for answers, truth, graph in areas:
        paths = {name: folder / digest[:16] / f"{answers.area}.npz" for name, digest in trained.digests.items()}
        if missing := [name for name, path in paths.items() if not path.exists()]:
            batches = list(sequence_batches(area_sequence(answers, truth, graph), trained.shape, notify))
            for name in missing:
                _save(paths[name], predict(trained.networks[name], batches), trained.shape.quiet)
        for name, path in paths.items():
            with np.load(path) as file:
                found[name].append(Named(file["scores"], file["own_names"]))
    return found


def _save(path: Path, prediction: AreaPrediction, quiet: Sequence[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, scores=prediction.scores, own_names=machine_alarms(prediction.machines, quiet))
