"""The experiments behind docs/results/results.md: late fusion of paired runs and reports, and trainings compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from models.configs.fusion import RULES
from models.data.scaling import hold_frames
from models.diagnoser import Diagnoser
from models.evaluation.clustering import cluster, partition_scores
from models.evaluation.plots import draw_confusion, draw_epochs, draw_roc
from models.evaluation.scoring import Scores, label_scores
from models.experiments.base import Column, Done, Need, Results, above_seed, folder_of_seed, read_description
from models.experiments.baselines.classical import (
    BaselineConfig,
    BaselineKind,
    FrameRows,
    Topics,
    baseline_scores,
    build_baseline,
)
from models.experiments.late_fusion import (
    Draw,
    Heard,
    LateFusionConfig,
    Outcome,
    RunDeal,
    TextDeal,
    deal_runs,
    deal_texts,
    draw_rows,
    fuse,
    hear_sequences,
    hear_texts,
    read_reports,
    scaled,
)
from models.experiments.robustness import RobustnessExperiment
from models.experiments.simulation import run_values, simulated_table
from models.fusion.base import LearnedFusion
from models.model_file import SUFFIX, read_model
from models.network_file import build_network
from models.training.calibration import Evidence
from models.training.config import TrainConfig, load_train_config
from models.training.loop import OnProgress, Progress, Record
from models.training.stages.encoders import evidence_of
from models.training.train import prepare, train
from pipeline.errors import DataError
from pipeline.extras import require_modules
from pipeline.frames import Floats, Ints

_EPOCH_SCORES = {"ari": "adjusted Rand index", "explained": "share of the class entropy explained"}
_PART = 8192


class LateFusionExperiment(BaseModel):
    """Runs of some faults paired by label with factory reports, as in Li et al. (2022)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: Literal["late_fusion"]
    title: str
    reports: Path
    cache: Path
    """Where simulated runs are kept."""
    columns: tuple[Column, ...] = Field(min_length=1)
    settings: LateFusionConfig
    draws: tuple[Draw, ...] = ("distinct", "paraphrase", "paper")
    baselines: tuple[BaselineKind, ...] = ()
    windows: tuple[int, ...] = (10, 60, 240)
    """Of the baselines' statistics, in frames, back from the last one."""
    workers: int = Field(default=1, ge=1)
    """Processes that simulate."""

    def needs(self) -> list[Need]:
        """See `Experiment.needs`; runs are simulated if they are not there."""
        return [Need(self.reports, "factoryReports.csv of MathWorks")]

    def run(self, seeds: Sequence[int], out: Path, on_progress: Done) -> Results:
        """See `Experiment.run`."""
        require_modules("drawing plots", "matplotlib")
        settings = self.settings
        count = settings.simulation.runs
        table = simulated_table(
            settings.simulation,
            self.cache,
            workers=self.workers,
            on_runs=lambda done, total: on_progress("simulation", Progress("runs", done, total, 0.0)),
        )
        values = run_values(table, settings.frames)
        classes = np.arange(count) % len(settings.classes)
        reports = read_reports(self.reports, settings.classes)
        rows: dict[str, list[Scores]] = {}
        notes: dict[str, Any] = {"rules": {}, "seen_share": {}}
        histories: list[list[Record]] = []
        outcomes: dict[str, list[Outcome]] = {draw: [] for draw in self.draws}
        for seed in seeds:
            runs = deal_runs(settings, classes, seed)
            x = scaled(values, runs.train, settings.onset_frame)
            folder = out / f"seed-{seed}"
            sequences, history = hear_sequences(
                settings, x, classes, runs, seed=seed, folder=folder, on_progress=_telling(on_progress, f"seed {seed}")
            )
            histories.append(history)
            for draw in self.draws:
                drawn = settings.model_copy(update={"draw": draw})
                texts = deal_texts(drawn, reports, runs, classes, seed)
                told = _telling(on_progress, f"seed {seed}, {draw} draw")
                heard = hear_texts(drawn, texts, seed=seed, folder=folder / draw, on_progress=told)
                outcome = self._fused(sequences, heard, classes, runs, seed)
                outcomes[draw].append(outcome)
                self._add(rows, outcome, draw)
                notes["rules"].setdefault(draw, []).append(outcome.rule)
                notes["seen_share"].setdefault(draw, []).append(texts.seen_share)
                if draw == "distinct":
                    for name, scores in self._baselines(x, texts, classes, runs, seed, folder, told):
                        rows.setdefault(name, []).append(scores)
        pictures = self._draw(outcomes, histories, out)
        ordered = dict(sorted(rows.items(), key=lambda row: list(rows).index(row[0])))
        return Results(self.title, tuple(seeds), ordered, self.columns, notes, tuple(pictures))

    def _fused(self, sequences: Heard, texts: Heard, classes: Ints, runs: RunDeal, seed: int) -> Outcome:
        draws = self.settings.validation_draws
        return fuse(sequences, texts, classes[runs.validation], classes[runs.test], draws, seed=seed)

    def _add(self, rows: dict[str, list[Scores]], outcome: Outcome, draw: Draw) -> None:
        said = outcome.scores()
        names = ["sequences"] if draw == "distinct" else []
        names += ["texts", "fused"]
        if draw == "distinct":
            names += [f"fused, {rule}" for rule in RULES]
        for name in names:
            rows.setdefault(name if draw == "distinct" else f"{name}, {draw} draw", []).append(said[name])

    def _baselines(
        self,
        x: Tensor,
        texts: TextDeal,
        classes: Ints,
        runs: RunDeal,
        seed: int,
        folder: Path,
        on_progress: OnProgress,
    ) -> Iterable[tuple[str, Scores]]:
        """Each baseline on pairs: statistics up to the last frame beside the report's words."""
        if not self.baselines:
            return
        features = last_features(x.numpy(), self.windows)
        rng = np.random.default_rng([seed, *b"baseline pairs"])
        known = texts.known
        topics = Topics(sorted(set(known.texts)), seed=seed)

        def rows(part: Ints, documents: Sequence[str]) -> FrameRows:
            none = np.zeros((len(part), 0), np.float32)
            last = np.full(len(part), self.settings.frames - 1)
            return FrameRows(
                features[part],
                none,
                tuple(documents),
                topics(documents),
                classes[part],
                part,
                last,
                np.full(len(part), ""),
            )

        def drawn(part: Ints) -> list[str]:
            return [known.texts[row] for row in draw_rows(known.classes, classes[part], rng)]

        learned = rows(runs.train, drawn(runs.train))
        chosen_by = rows(runs.validation, drawn(runs.validation))
        test = rows(runs.test, [texts.test.texts[row] for row in texts.drawn])
        for kind in self.baselines:
            config = BaselineConfig(epochs=30)
            model = build_baseline(
                kind, len(self.settings.classes), config, seed=seed, folder=folder / kind, on_progress=on_progress
            )
            model.fit(learned, chosen_by)
            found = model.predict(test)
            yield f"baseline: {kind}", label_scores(test.labels, found) | partition_scores(test.labels, found)

    def _draw(self, outcomes: dict[str, list[Outcome]], histories: list[list[Record]], out: Path) -> list[Path]:
        """Confusion and ROC over the test parts of all seeds, and partition scores over the epochs."""
        names = list(self.settings.classes)
        pictures: list[Path] = []
        for draw, of in outcomes.items():
            truth = np.concatenate([outcome.classes for outcome in of])
            for system in ("sequences", "texts", "fused"):
                said = np.concatenate([outcome.probabilities[system] for outcome in of])
                stem = f"{system}_{draw}"
                pictures += [out / f"confusion_{stem}.png", out / f"roc_{stem}.png"]
                title = f"{system}, {draw} reports, test parts of {len(of)} seeds"
                draw_confusion(truth, said.argmax(axis=1), names, title, pictures[-2])
                draw_roc(truth, said, names, title, pictures[-1], normal=None)
        for score, measure in _EPOCH_SCORES.items():
            curves = {"sequences, validation": [[record[score] for record in history] for history in histories]}
            pictures.append(out / f"epochs_{score}.png")
            draw_epochs(curves, self.title, measure, pictures[-1])
        return pictures


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
    part: Literal["validation", "test"] = "test"
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

    def run(self, seeds: Sequence[int], out: Path, on_progress: Done) -> Results:
        """See `Experiment.run`."""
        require_modules("drawing plots", "matplotlib")
        rows: dict[str, list[Scores]] = {name: [] for name in self.rows}
        curves: dict[str, dict[str, list[list[float]]]] = {score: {} for score in _EPOCH_SCORES}
        for seed in seeds:
            trained: dict[str, _Trained] = {}
            for name, row in self.rows.items():
                if row.scores_of is not None:
                    trained[name] = self._earlier(trained, row.scores_of, "a training to score")
                else:
                    told = _telling(on_progress, f"{name}, seed {seed}")
                    config = self._config(row, seed, out / name.replace(" ", "-") / f"seed-{seed}", trained)
                    trained[name] = self._trained(row, config, told)
                    for score, of in curves.items():
                        if values := [at[score] for at in trained[name].history if at.get(score) is not None]:
                            of.setdefault(name, []).append(values)
                rows[name].append(trained[name].scored(row))
        pictures = []
        for score, of in curves.items():
            if of:
                pictures.append(out / f"epochs_{score}.png")
                draw_epochs(of, self.title, _EPOCH_SCORES[score], pictures[-1])
        return Results(self.title, tuple(seeds), rows, self.columns, {}, tuple(pictures))

    def _trained(self, row: TrainingRow, config: TrainConfig, told: OnProgress) -> _Trained:
        if row.baseline is None:
            report = train(config, on_progress=told, resume=True)
            return _Trained(report.scores, report.history, config, report.model)
        baseline = BaselineConfig(self.windows, self.most_frames, self.baseline_epochs)
        scores, history = baseline_scores(row.baseline, config, baseline, folder=config.output, on_progress=told)
        return _Trained(scores, history, config, None)

    def _earlier(self, trained: Mapping[str, _Trained], name: str, what: str) -> _Trained:
        if name not in trained:
            raise DataError(f"{self.title}: no earlier row {name!r} has {what}")
        return trained[name]

    def _model_in(self, folder: Path) -> Path:
        found = sorted(folder.glob(f"*{SUFFIX}"))
        if len(found) != 1:
            raise DataError(
                f"{self.title}: {folder} holds {len(found)} model files, and one is needed; {self.models_made_by}"
            )
        return found[0]

    def _config(self, row: TrainingRow, seed: int, out: Path, trained: Mapping[str, _Trained]) -> TrainConfig:
        base = load_train_config(self.train, data=self.work, output=out, seed=seed)
        said = merged(base.model_dump(exclude_unset=True), row.options)
        if row.encoders_of is not None:
            said["encoders"] = self._earlier(trained, row.encoders_of, "encoders to take over").model
        elif row.encoders is not None:
            said["encoders"] = self._model_in(folder_of_seed(row.encoders, seed))
        try:
            return TrainConfig.model_validate(said)
        except ValidationError as error:
            raise DataError(f"{self.title}: options of a row do not fit: {_problems(error)}") from error


@dataclass(frozen=True, slots=True)
class _Trained:
    """What one training or baseline left behind."""

    scores: Scores
    """By part; of a network further by source, subset and system."""
    history: list[Record]
    config: TrainConfig
    model: Path | None

    def scored(self, row: TrainingRow) -> Scores:
        """As the row asks; scores of clusters only of the whole system on all runs."""
        scores = dict(self.scores[row.part][row.source][row.subset][row.system])
        if self.model is not None and (row.source, row.subset, row.system) == ("all", "all_faults", "fusion"):
            scores["clusters"] = model_clusters(self.config, self.model, row.part)
        return scores


Described = LateFusionExperiment | TrainingsExperiment | RobustnessExperiment
AnyExperiment = Annotated[Described, Field(discriminator="experiment")]

_PATHS = ("reports", "cache")


def load_experiment(path: Path, *, data: Path, out: Path, work: Path) -> Described:
    """Read a description. `$DATA`, `$OUT` and `$WORK` stand for the folders, other `$NAME` for environment variables.

    `train` starts from the description's own folder, other paths from `data`. Raises DataError.
    """
    raw = read_description(path, {"DATA": str(data), "OUT": str(out), "WORK": str(work)})
    for name in _PATHS:
        if isinstance(raw.get(name), str):
            raw[name] = data / raw[name]
    if isinstance(raw.get("train"), str):
        raw["train"] = path.parent / raw["train"]
        raw["work"] = work
    try:
        found: Described = TypeAdapter(AnyExperiment).validate_python(raw)
    except ValidationError as error:
        raise DataError(f"experiment {path} does not fit: {_problems(error)}") from error
    return found


def model_clusters(config: TrainConfig, model: Path, part: str) -> Scores:
    """Partition scores of k-means on what a trained model's fusion classified (or, for a late fusion, on its answers),
    on the labelled frames of a part."""
    machine_type, split, _, fixed = prepare(config)
    network = build_network(read_model(model))
    evidence = evidence_of(network, getattr(split, part), fixed[part], hold_frames(machine_type))
    evidence = evidence.take((evidence.labels >= 0) & evidence.present.any(dim=0).numpy())
    return partition_scores(
        evidence.labels, cluster(_features(network, evidence), network.config.classes, seed=config.seed)
    )


def last_features(values: Floats, windows: Sequence[int]) -> Floats:
    """Of complete runs (N, T, V): the last reading, and mean, deviation, least and greatest of each trailing window."""
    parts = [values[:, -1]]
    for window in windows:
        tail = values[:, -window:]
        parts += [tail.mean(axis=1), tail.std(axis=1), tail.min(axis=1), tail.max(axis=1)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def merged(base: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options over a base, mapping by mapping; a mapping that names another `kind` replaces the base's."""
    whole = dict(base)
    for name, value in options.items():
        below = whole.get(name)
        same = isinstance(value, dict) and isinstance(below, dict) and value.get("kind") in (None, below.get("kind"))
        whole[name] = merged(below, value) if same and isinstance(below, dict) else value
    return whole


def _features(network: Diagnoser, evidence: Evidence) -> Floats:
    """What is classified in each frame, (N, D)."""
    features = []
    with torch.inference_mode():
        for start in range(0, len(evidence.labels), _PART):
            part = slice(start, start + _PART)
            fused = network.fusion(
                evidence.logits[:, part], evidence.present[:, part], [of[part] for of in evidence.features]
            )
            made = fused.embedding if isinstance(network.fusion, LearnedFusion) else None
            features.append((fused.probabilities if made is None else made).numpy())
    return np.concatenate(features)


def _telling(done: Done, what: str) -> OnProgress:
    return lambda progress: done(what, progress)


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors()[:5])
