"""LateFusionExperiment: runs of some faults paired by label with factory reports."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.configs.fusion import RULES
from models.evaluation.clustering import partition_scores
from models.evaluation.plots import draw_confusion, draw_epochs, draw_roc
from models.evaluation.scoring import Scores, label_scores
from models.experiments.base import EPOCH_SCORES, Column, Need, OnPartProgress, Results, report_part
from models.experiments.baselines.base import BaselineConfig, BaselineKind, FrameRows
from models.experiments.baselines.scores import build_baseline
from models.experiments.baselines.texts import DocumentVectors
from models.experiments.late_fusion.config import Draw, LateFusionConfig
from models.experiments.late_fusion.pairs import ReportSplit, RunSplitRows, draw_rows, split_reports, split_runs
from models.experiments.late_fusion.reports import read_reports
from models.experiments.late_fusion.systems import PartLogits, SeedResult, fuse, scaled, train_sequences, train_texts
from models.experiments.simulation import run_values, simulated_table
from models.training.loop import EpochRecord, OnProgress, Progress
from pipeline.arrays import Floats, Ints
from pipeline.extras import require_modules


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

    def run(self, seeds: Sequence[int], out: Path, on_progress: OnPartProgress) -> Results:
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
        histories: list[list[EpochRecord]] = []
        results: dict[str, list[SeedResult]] = {draw: [] for draw in self.draws}
        for seed in seeds:
            runs = split_runs(settings, classes, seed)
            x = scaled(values, runs.train, settings.onset_frame)
            folder = out / f"seed-{seed}"
            sequences, history = train_sequences(
                settings,
                x,
                classes,
                runs,
                seed=seed,
                folder=folder,
                on_progress=report_part(on_progress, f"seed {seed}"),
            )
            histories.append(history)
            for draw in self.draws:
                drawn = settings.model_copy(update={"draw": draw})
                texts = split_reports(drawn, reports, runs, classes, seed)
                on_training = report_part(on_progress, f"seed {seed}, {draw} draw")
                text_logits = train_texts(drawn, texts, seed=seed, folder=folder / draw, on_progress=on_training)
                result = self._fused(sequences, text_logits, classes, runs, seed)
                results[draw].append(result)
                self._add(rows, result, draw)
                notes["rules"].setdefault(draw, []).append(result.rule)
                notes["seen_share"].setdefault(draw, []).append(texts.seen_share)
                if draw == "distinct":
                    for name, scores in self._baselines(x, texts, classes, runs, seed, folder, on_training):
                        rows.setdefault(name, []).append(scores)
        plots = self._draw(results, histories, out)
        ordered = dict(sorted(rows.items(), key=lambda row: list(rows).index(row[0])))
        return Results(self.title, tuple(seeds), ordered, self.columns, notes, tuple(plots))

    def _fused(
        self, sequences: PartLogits, texts: PartLogits, classes: Ints, runs: RunSplitRows, seed: int
    ) -> SeedResult:
        draws = self.settings.validation_draws
        return fuse(sequences, texts, classes[runs.validation], classes[runs.test], draws, seed=seed)

    def _add(self, rows: dict[str, list[Scores]], result: SeedResult, draw: Draw) -> None:
        scores = result.scores()
        names = ["sequences"] if draw == "distinct" else []
        names += ["texts", "fused"]
        if draw == "distinct":
            names += [f"fused, {rule}" for rule in RULES]
        for name in names:
            rows.setdefault(name if draw == "distinct" else f"{name}, {draw} draw", []).append(scores[name])

    def _baselines(
        self,
        x: Tensor,
        texts: ReportSplit,
        classes: Ints,
        runs: RunSplitRows,
        seed: int,
        folder: Path,
        on_progress: OnProgress,
    ) -> Iterable[tuple[str, Scores]]:
        """Each baseline on pairs: statistics up to the last frame, and the report's words."""
        if not self.baselines:
            return
        features = last_features(x.numpy(), self.windows)
        rng = np.random.default_rng([seed, *b"baseline pairs"])
        training = texts.training
        vectors = DocumentVectors(sorted(set(training.texts)), seed=seed)

        def rows(part: Ints, documents: Sequence[str]) -> FrameRows:
            none = np.zeros((len(part), 0), np.float32)
            last = np.full(len(part), self.settings.frames - 1)
            return FrameRows(
                features[part],
                none,
                tuple(documents),
                vectors(documents),
                classes[part],
                part,
                last,
                np.full(len(part), ""),
            )

        def drawn(part: Ints) -> list[str]:
            return [training.texts[row] for row in draw_rows(training.classes, classes[part], rng)]

        train = rows(runs.train, drawn(runs.train))
        validation = rows(runs.validation, drawn(runs.validation))
        test = rows(runs.test, [texts.test.texts[row] for row in texts.drawn])
        for kind in self.baselines:
            config = BaselineConfig(epochs=30)
            model = build_baseline(
                kind, len(self.settings.classes), config, seed=seed, folder=folder / kind, on_progress=on_progress
            )
            model.fit(train, validation)
            predicted = model.predict(test)
            yield f"baseline: {kind}", label_scores(test.labels, predicted) | partition_scores(test.labels, predicted)

    def _draw(self, results: dict[str, list[SeedResult]], histories: list[list[EpochRecord]], out: Path) -> list[Path]:
        """Confusion and ROC over the test parts of all seeds, and partition scores over the epochs."""
        names = list(self.settings.classes)
        plots: list[Path] = []
        for draw, by_seed in results.items():
            truth = np.concatenate([result.classes for result in by_seed])
            for system in ("sequences", "texts", "fused"):
                probabilities = np.concatenate([result.probabilities[system] for result in by_seed])
                stem = f"{system}_{draw}"
                plots += [out / f"confusion_{stem}.png", out / f"roc_{stem}.png"]
                title = f"{system}, {draw} reports, test parts of {len(by_seed)} seeds"
                draw_confusion(truth, probabilities.argmax(axis=1), names, title, plots[-2])
                draw_roc(truth, probabilities, names, title, plots[-1], normal=None)
        for score, measure in EPOCH_SCORES.items():
            curves = {"sequences, validation": [[record[score] for record in history] for history in histories]}
            plots.append(out / f"epochs_{score}.png")
            draw_epochs(curves, self.title, measure, plots[-1])
        return plots


def last_features(values: Floats, windows: Sequence[int]) -> Floats:
    """Last reading of complete runs (N, T, V), and mean, deviation, minimum and maximum of each trailing window."""
    parts = [values[:, -1]]
    for window in windows:
        tail = values[:, -window:]
        parts += [tail.mean(axis=1), tail.std(axis=1), tail.min(axis=1), tail.max(axis=1)]
    return np.concatenate(parts, axis=1).astype(np.float32)
