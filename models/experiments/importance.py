"""Importance of variables: how much a trained model's sensors lose without the readings of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.metrics import f1_score

from models.data.runs import Run
from models.diagnoser import Diagnoser
from models.training.fitting.evidence import sensor_answers
from models.training.loop import OnProgress, Progress
from pipeline.arrays import Ints
from pipeline.config.classes import labelled_classes


def variable_importance(
    network: Diagnoser,
    runs: Sequence[Run],
    variables: Sequence[str],
    hold_limit: int,
    *,
    seed: int,
    faults: int | None = None,
    on_progress: OnProgress | None = None,
) -> dict[str, float]:
    """By variable, most important first, how far macro-F1 of the sensors falls when the variable's readings are those
    of another time, drawn from the seed. Labels have the first `faults` classes of the
    network, by default all.

    Variables that tell the same stand in for each other, so that each of them loses little.
    """
    labels = np.concatenate([run.labels for run in runs])
    known = network.config.classes if faults is None else faults
    whole = _macro_f1(network, runs, labels, hold_limit, known)
    lost: dict[str, float] = {}
    for column, name in enumerate(variables):
        if on_progress is not None:
            on_progress(Progress("importance", column, len(variables), 0.0))
        rng = np.random.default_rng([seed, column])
        shuffled = _with_foreign_column(runs, column, rng)
        lost[name] = whole - _macro_f1(network, shuffled, labels, hold_limit, known)
    if on_progress is not None:
        on_progress(Progress("importance", len(variables), len(variables), 0.0))
    return dict(sorted(lost.items(), key=lambda entry: -entry[1]))


def _with_foreign_column(runs: Sequence[Run], column: int, rng: np.random.Generator) -> list[Run]:
    """The runs with one variable's readings taken from all of them, moved by a random number of frames."""
    readings = np.concatenate([run.values[:, column] for run in runs])
    readings = np.roll(readings, int(rng.integers(len(readings) // 4, 3 * len(readings) // 4 + 1)))
    foreign, start = [], 0
    for run in runs:
        values = run.values.copy()
        values[:, column] = readings[start : start + len(run)]
        foreign.append(replace(run, values=values))
        start += len(run)
    return foreign


def _macro_f1(network: Diagnoser, runs: Sequence[Run], labels: Ints, hold_limit: int, faults: int) -> float:
    answers = np.concatenate(
        [answer.logits.argmax(axis=1) for answer in sensor_answers(network, runs, hold_limit, network.sensors)]
    )
    said = labelled_classes(answers, faults)
    known = labels >= 0
    present = np.unique(labels[known])
    return float(f1_score(labels[known], said[known], labels=present, average="macro", zero_division=0))
