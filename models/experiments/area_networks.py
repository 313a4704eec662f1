"""Networks of areas in experiments: trained on the same composed areas, and what they name along recorded ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from models.areas.config import AreaNetworkConfig, AreaShape
from models.areas.networks.base import AreaNetwork
from models.areas.training.cases import AreaCase
from models.areas.training.networks import AreaTraining, LearningData, sequence_shape, train_network
from models.areas.training.predict import AreaPrediction, predict, sequence_batches
from models.areas.training.sequences import AreaSequence
from models.evaluation.areas import machine_alarms
from models.experiments.base import OnPartProgress, report_part
from models.training.loop import Progress
from pipeline.arrays import Floats, Ints
from pipeline.compiled import Notify
from pipeline.files.atomic_file import replacing


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
    data = LearningData(
        training,
        sequence_shape(learning[0], quiet),
        learning,
        validation,
        seed=seed,
        notify=notify,
        on_composing=lambda: on_progress("composing", Progress("composing", 0, 1, 0.0)),
    )
    networks = {
        name: train_network(config, data, out, report_part(on_progress, name))[0] for name, config in configs.items()
    }
    return Trained(networks, {name: data.digest(config) for name, config in configs.items()}, data.shape)


def named_by_networks(
    trained: Trained, cases: Sequence[AreaCase], folder: Path, notify: Notify
) -> dict[str, list[Named]]:
    """What each network makes of each area; answers that the folder already has are not computed again."""
    found: dict[str, list[Named]] = {name: [] for name in trained.networks}
    for case in cases:
        paths = {name: folder / digest[:16] / f"{case.answers.area}.npz" for name, digest in trained.digests.items()}
        if missing := [name for name, path in paths.items() if not path.exists()]:
            batches = list(sequence_batches(case.sequence(), trained.shape, notify))
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
