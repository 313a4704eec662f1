"""Runs and reports split and paired by class, for training, validation and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.encoders.tokenizer import normalised
from models.experiments.late_fusion.config import LateFusionConfig
from models.experiments.late_fusion.reports import Reports, distinct, paraphrase_groups
from pipeline.arrays import Ints


@dataclass(frozen=True, slots=True)
class RunSplitRows:
    """Rows of the runs in three parts."""

    train: Ints
    validation: Ints
    test: Ints


@dataclass(frozen=True, slots=True)
class ReportSplit:
    """Reports to learn from, and for each validation and test pair the report that it drew."""

    training: Reports
    groups: Ints
    """Of the training reports; reports of a group share a fold."""
    validation: Ints
    """Rows of `training`."""
    test: Reports
    drawn: Ints
    """Rows of `test`."""

    @property
    def seen_share(self) -> float:
        """Share of the test pairs whose report, but for case and punctuation, is a training report too."""
        training = {normalised(text) for text in self.training.texts}
        return float(np.mean([normalised(self.test.texts[row]) in training for row in self.drawn]))


def split_rows(classes: Ints, share: float, rng: np.random.Generator, groups: Ints | None = None) -> tuple[Ints, Ints]:
    """Rows in two parts, the second with about this share of every class; both in order; groups stay whole."""
    group_of = np.arange(len(classes)) if groups is None else groups
    held_out: set[int] = set()
    for label in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == label))
        wanted, taken = max(1, round(share * len(rows))), 0
        for group in dict.fromkeys(group_of[rows].tolist()):
            if taken >= wanted:
                break
            held_out.add(group)
            taken += int((group_of[rows] == group).sum())
    second = np.isin(group_of, sorted(held_out))
    return np.flatnonzero(~second), np.flatnonzero(second)


def draw_rows(available: Ints, classes: Ints, rng: np.random.Generator) -> Ints:
    """For each class in `classes` (N,) a row of `available` with that class, drawn with repetition."""
    rows = np.zeros(len(classes), np.int64)
    for label in np.unique(classes):
        of_class = classes == label
        rows[of_class] = rng.choice(np.flatnonzero(available == label), int(of_class.sum()))
    return rows


def split_runs(config: LateFusionConfig, classes: Ints, seed: int) -> RunSplitRows:
    """The runs in three parts, each class by itself."""
    rng = np.random.default_rng([seed, *b"runs"])
    rest, test = split_rows(classes, config.test, rng)
    train, validation = split_rows(classes[rest], config.validation / (1 - config.test), rng)
    return RunSplitRows(rest[train], rest[validation], test)


def split_reports(
    config: LateFusionConfig, reports: Reports, runs: RunSplitRows, classes: Ints, seed: int
) -> ReportSplit:
    """Reports split by `config.draw`; validation pairs draw from training reports, which are answered by folds."""
    rng = np.random.default_rng([seed, *b"texts"])
    validation = np.repeat(classes[runs.validation], config.validation_draws)
    if config.draw != "paper":
        unique = distinct(reports)
        groups = paraphrase_groups(unique) if config.draw == "paraphrase" else np.arange(len(unique.texts))
        rows, left_out = split_rows(unique.classes, config.test, rng, groups)
        training, held_out, groups = unique.take(rows), unique.take(left_out), groups[rows]
        drawn = draw_rows(held_out.classes, classes[runs.test], rng)
    else:
        # Every run draws from all reports before anything is split, so most test reports are training reports too.
        drawn_rows = np.unique(draw_rows(reports.classes, classes[np.concatenate([runs.train, runs.validation])], rng))
        training, held_out = reports.take(drawn_rows), reports
        drawn, groups = draw_rows(reports.classes, classes[runs.test], rng), np.arange(len(drawn_rows))
    return ReportSplit(training, groups, draw_rows(training.classes, validation, rng), held_out, drawn)
