"""How well unknown faults are told from the normal state and from known faults, on runs with faults left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.data.runs import Run, are_before_first_fault, class_runs
from models.evaluation.scoring import UNKNOWN, Scores
from pipeline.arrays import Bools, Ints
from pipeline.config.classes import UNKNOWN as UNKNOWN_NAME
from pipeline.config.classes import labelled_classes

SETTLED_FRAMES: Final = 20
"""First frames of a fault, which may not show yet and which areas under curves leave out."""


@dataclass(frozen=True, slots=True)
class FrameNovelty:
    """What a model with a detector says of N frames, run after run."""

    novelty: NDArray[np.floating[Any]]  # (N,)
    distance: NDArray[np.floating[Any]] | None
    """(N,) the smoothed distance from the features of known classes; None if the model compares none."""
    called: Bools
    """(N,) whether the answer is `unknown`."""


def as_labels(answers: Ints, faults: Sequence[str]) -> Ints:
    """Answers (N,) as classes of `faults`; where the last of these is `unknown`, a label of faults that were not
    learnt, that is the class of UNKNOWN, and the class `recovering`, which has its place, is the normal state."""
    place = learnt_count(faults)
    return answers if place == len(faults) else np.where(answers == UNKNOWN, place, labelled_classes(answers, place))


def learnt_count(faults: Sequence[str]) -> int:
    """How many of the classes that labels have are learnt: all but `unknown`, the last one if it is among them."""
    return len(faults) - (faults[-1] == UNKNOWN_NAME)


def unknown_labels(labels: Ints, faults: Sequence[str], left_out: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """Labels (N,) in which faults that were left out of the training are the class `unknown`, and the classes of them;
    both as they are where none was."""
    if not left_out:
        return labels, tuple(faults)
    return np.where(np.isin(labels, _places(faults, left_out)), len(faults), labels), (*faults, UNKNOWN_NAME)


def unknown_scores(
    runs: Sequence[Run], frames: FrameNovelty, faults: Sequence[str], left_out: Sequence[str], hard: Sequence[str]
) -> Scores:
    """Scores of frames of these runs; None where one side has no frames, or the model no such number.

    - `auroc_normal`: area under the ROC curve of the novelty, faults that were left out of the training against normal
      frames before a run's first fault; `auroc_known`: of the smoothed distance, against known faults that are not
      `hard`. The first SETTLED_FRAMES of each fault do not count.
    - `left_out_called_unknown`, `known_called_unknown`, `normal_called_unknown`: share of all frames of faults that
      were left out, of all known faults, and of normal frames before a run's first fault that are called unknown.
    - `per_fault`: by name of a left-out fault the first three of these, of its frames alone.
    """
    labels = np.concatenate([run.labels for run in runs])
    settled = np.concatenate([_settled(run.labels) for run in runs])
    before = are_before_first_fault(runs)
    normal, new = before & (labels == 0), _places(faults, left_out)
    known = (labels > 0) & ~np.isin(labels, new)
    visible = known & settled & ~np.isin(labels, _places(faults, hard))

    def scores_of(rows: Bools) -> Scores:
        return {
            "auroc_normal": _area(frames.novelty, rows & settled, normal),
            "auroc_known": None if frames.distance is None else _area(frames.distance, rows & settled, visible),
            "left_out_called_unknown": _share(frames.called, rows),
        }

    return {
        **scores_of(np.isin(labels, new)),
        "known_called_unknown": _share(frames.called, known),
        "normal_called_unknown": _share(frames.called, normal),
        "per_fault": {faults[place]: scores_of(labels == place) for place in new if (labels == place).any()},
    }


def _places(faults: Sequence[str], names: Iterable[str]) -> list[int]:
    return sorted({faults.index(name) for name in names if name in faults})


def _settled(labels: Ints) -> Bools:
    """Which frames (T,) come at least SETTLED_FRAMES after the start of their own class."""
    settled = np.zeros(len(labels), bool)
    for start, end, _ in class_runs(labels):
        settled[min(start + SETTLED_FRAMES, end) : end] = True
    return settled


def _area(score: NDArray[np.floating[Any]], positive: Bools, negative: Bools) -> float | None:
    if not positive.any() or not negative.any():
        return None
    rows = positive | negative
    return float(roc_auc_score(positive[rows], score[rows]))


def _share(called: Bools, rows: Bools) -> float | None:
    return float(called[rows].mean()) if rows.any() else None
