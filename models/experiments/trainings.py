"""Trainings of one configuration with differences, compared with each other and with baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.evaluation.clustering import cluster, partition_scores
from models.evaluation.plots import draw_epochs
from models.evaluation.scoring import Scores
from models.experiments.base import (
    EPOCH_SCORES,
    Column,
    Need,
    OnPartProgress,
    Results,
    above_seed,
    folder_of_seed,
    report_part,
)
from models.experiments.baselines.base import BaselineConfig, BaselineKind
from models.experiments.baselines.scores import baseline_scores
from models.model_file import SUFFIX, read_model
from models.network_file import build_network
from models.training.config import TrainConfig, load_train_config
from models.training.fitting.evidence import part_evidence
from models.training.loop import EpochRecord, OnProgress
from models.training.prepare import Part, prepare
from models.training.train import train
from pipeline.errors import DataError
from pipeline.extras import require_modules
from pipeline.files.yaml_fields import field_problems


class TrainingRow(BaseModel):
    """One row of a table of trainings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: dict[str, Any] = {}
    """What differs from the training configuration."""
    encoders_of: str | None = None
    """An earlier row whose encoders, of the same seed, are taken over."""
    encoders: str | None = None
    """Folder of a training whose encoders are taken over; `{seed}` in it stands for the seed."""
    scores_of: str | None = None
    """An earlier row whose training is scored here once more, in another way."""
    baseline: BaselineKind | None = None
    """A baseline instead of a network."""
    system: str = "fusion"
    """Whose answers are scored: `fusion`, `late`, or a modality."""
    part: Part = "test"
    source: str = "all"
    """Stem of the file whose runs are scored, or `all`."""
    subset: str = "all_faults"


class TrainingsExperiment(BaseModel):
    """Trainings of one configuration with differences, each over all seeds, scored on a held-out part of its split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Literal["trainings"]
    title: str
    train: Path
    """Training configuration; its relative paths start from `work`."""
    work: Path
    made_by: str
    """What makes the inputs in `work`."""
    models_made_by: str = "faultline evaluate"
    """What trains the models whose encoders are taken over."""
    columns: tuple[Column, ...] = Field(min_length=1)
    rows: dict[str, TrainingRow] = Field(min_length=1)
    windows: tuple[int, ...] = (10, 60)
    most_frames: int = 100_000
    baseline_epochs: int = 20

    def needs(self) -> list[Need]:
        """See `Experiment.needs`."""
        config = load_train_config(self.train, data=self.work, output=Path())
        needed = [Need(path, self.made_by) for path in config.inputs]
        folders = dict.fromkeys(above_seed(row.encoders) for row in self.rows.values() if row.encoders is not None)
        return [*needed, *(Need(folder, self.models_made_by) for folder in folders)]

    def run(self, seeds: Sequence[int], out: Path, on_progress: OnPartProgress) -> Results:
        """See `Experiment.run`."""
        require_modules("drawing plots", "matplotlib")
        rows: dict[str, list[Scores]] = {name: [] for name in self.rows}
        curves: dict[str, dict[str, list[list[float]]]] = {score: {} for score in EPOCH_SCORES}
        for seed in seeds:
            trained: dict[str, _Trained] = {}
            for name, row in self.rows.items():
                if row.scores_of is not None:
                    trained[name] = self._earlier(trained, row.scores_of, "a training to score")
                else:
                    on_training = report_part(on_progress, f"{name}, seed {seed}")
                    config = self._config(row, seed, out / name.replace(" ", "-") / f"seed-{seed}", trained)
                    trained[name] = self._trained(row, config, on_training)
                    for score, by_row in curves.items():
                        if values := [
                            record[score] for record in trained[name].history if record.get(score) is not None
                        ]:
                            by_row.setdefault(name, []).append(values)
                rows[name].append(trained[name].scored(row))
        plots = []
        for score, by_row in curves.items():
            if by_row:
                plots.append(out / f"epochs_{score}.png")
                draw_epochs(by_row, self.title, EPOCH_SCORES[score], plots[-1])
        return Results(self.title, tuple(seeds), rows, self.columns, {}, tuple(plots))

    def _trained(self, row: TrainingRow, config: TrainConfig, on_progress: OnProgress) -> _Trained:
        if row.baseline is None:
            report = train(config, on_progress=on_progress, resume=True)
            return _Trained(report.scores, report.history, config, report.model)
        baseline = BaselineConfig(self.windows, self.most_frames, self.baseline_epochs)
        scores, history = baseline_scores(row.baseline, config, baseline, folder=config.output, on_progress=on_progress)
        return _Trained(scores, history, config, None)

    def _earlier(self, trained: Mapping[str, _Trained], name: str, what: str) -> _Trained:
        if name not in trained:
            raise DataError(f"{self.title}: no earlier row {name!r} has {what}")
        return trained[name]

    def _config(self, row: TrainingRow, seed: int, out: Path, trained: Mapping[str, _Trained]) -> TrainConfig:
        base = load_train_config(self.train, data=self.work, output=out, seed=seed)
        settings = merged(base.model_dump(exclude_unset=True), row.options)
        if row.encoders_of is not None:
            settings["encoders"] = self._earlier(trained, row.encoders_of, "encoders to take over").model
        elif row.encoders is not None:
            settings["encoders"] = model_in(folder_of_seed(row.encoders, seed), self.title, self.models_made_by)
        return config_of(self.title, settings)


@dataclass(frozen=True, slots=True)
class _Trained:
    """The result of one training or baseline."""

    scores: Scores
    """By part; of a network further by source, subset and system."""
    history: list[EpochRecord]
    config: TrainConfig
    model: Path | None

    def scored(self, row: TrainingRow) -> Scores:
        """As the row asks; scores of clusters only of the whole system on all runs."""
        scores = dict(self.scores[row.part][row.source][row.subset][row.system])
        if self.model is not None and (row.source, row.subset, row.system) == ("all", "all_faults", "fusion"):
            scores["clusters"] = model_clusters(self.config, self.model, row.part)
        return scores


def model_clusters(config: TrainConfig, model: Path, part: Part) -> Scores:
    """Partition scores of k-means on what a trained model's fusion classified (or, for a late fusion, on its answers),
    on the labelled frames of a part."""
    network = build_network(read_model(model))
    evidence = part_evidence(network, prepare(config), part)
    evidence = evidence.take((evidence.labels >= 0) & evidence.present.any(dim=0).numpy())
    clusters = cluster(evidence.embedded(network.fusion), network.config.classes, seed=config.seed)
    return partition_scores(evidence.labels, clusters)


def config_of(title: str, settings: dict[str, Any]) -> TrainConfig:
    """A row's configuration; raises DataError, which begins with the experiment's title."""
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise DataError(f"{title}: options of a row do not fit: {field_problems(error, TrainConfig)}") from error


def model_in(folder: Path, title: str, made_by: str) -> Path:
    """The one model file in a folder; raises DataError, which begins with the experiment's title."""
    models = sorted(folder.glob(f"*{SUFFIX}"))
    if len(models) != 1:
        raise DataError(f"{title}: {folder} holds {len(models)} model files, and one is needed; {made_by}")
    return models[0]


def merged(base: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options over a base, mapping by mapping; a mapping that names another `kind` replaces the base's."""
    whole = dict(base)
    for name, value in options.items():
        below = whole.get(name)
        same = isinstance(value, dict) and isinstance(below, dict) and value.get("kind") in (None, below.get("kind"))
        whole[name] = merged(below, value) if same and isinstance(below, dict) else value
    return whole
