"""Fitting conformal sets on the validation part, run by run."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.fusion.conformal import ConformalSets, conformal_scores
from pipeline.arrays import Bools, Floats, Ints

PENALTIES: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""What is tried as the penalty."""
EVERY_CLASS: Final = 1e6
"""A threshold that no score exceeds."""
_MAX_FOLDS: Final = 20


class _Scored(NamedTuple):
    """Frames with one penalty."""

    truth: NDArray[np.float64]  # (N,) the score of the true class
    all: Floats  # (N, C) the scores of all classes


def fit_conformal(
    probabilities: Tensor, present: Tensor, labels: Ints, runs: Ints, meanings: Ints, coverage: float
) -> ConformalSets:
    """Sets that have the true class in this share of the frames of a new run, of final answers (N, C).

    `present` (M, N), `labels` (N,) and `runs` (N,) are those of the frames; `meanings` (C,) says which label each class
    stands for, and the score of a label is the smallest of its classes. Frames of a run depend on each other: runs are
    exchangeable and frames are not. So every run counts once, whatever its length, as in hierarchical conformal
    prediction (Dunn, Wasserman and Ramdas 2022; Lee, Barber and Willett 2023):

        threshold(q) = the smallest t for which   mean over runs k of   share of k's frames with score <= t   is >= q

    There q is coverage (K + 1) / K, which guarantees the coverage but overshoots where a run's frames differ. Here q is
    the smallest level with which thresholds of the other runs cover the runs left out (cross-conformal prediction, Vovk
    2015), in at most 20 folds of runs. If no level does, all classes are candidates.

    `free_ranks` is the rank of the true class that is not exceeded in the wanted share of frames, and the penalty the
    one with the fewest candidates on one half of the runs with the threshold of the other half, and the reverse.
    """
    rows = (labels >= 0) & present.any(dim=0).numpy()
    p, y = probabilities[torch.from_numpy(rows)].float(), labels[rows]
    _, run = np.unique(runs[rows], return_inverse=True)
    sets = ConformalSets()
    if not len(y):
        sets.threshold.fill_(EVERY_CLASS)
        return sets.eval()
    weights = 1 / np.bincount(run)[run]
    ranks = _truth(conformal_scores(p, 1.0, 0.0) - conformal_scores(p, 0.0, 0.0), y, meanings)
    free_ranks = max(1.0, float(np.round(_quantile(ranks, weights, coverage))))
    halves = run % 2 == 0
    sizes = []
    for penalty in PENALTIES:
        scored = _score(p, y, meanings, penalty, free_ranks)
        sizes.append(sum(_size(scored, weights, coverage, half) for half in (halves, ~halves)))
    penalty = PENALTIES[int(np.argmin(np.round(sizes, 3)))]
    scored = _score(p, y, meanings, penalty, free_ranks)
    sets.penalty.fill_(penalty)
    sets.free_ranks.fill_(free_ranks)
    sets.threshold.fill_(_threshold(scored.truth, run, weights, coverage))
    return sets.eval()


def _score(p: Tensor, labels: Ints, meanings: Ints, penalty: float, free_ranks: float) -> _Scored:
    scores = conformal_scores(p, penalty, free_ranks)
    return _Scored(_truth(scores, labels, meanings), scores.numpy())


def _truth(scores: Tensor, labels: Ints, meanings: Ints) -> NDArray[np.float64]:
    """The score of each frame's label, (N,): the smallest of the classes that stand for it."""
    stands = meanings[None, :] == labels[:, None]
    return np.asarray(np.where(stands, scores.numpy(), np.float64(EVERY_CLASS)).min(axis=1))


def _size(scored: _Scored, weights: NDArray[np.float64], coverage: float, fitted_on: Bools) -> float:
    """The mean number of candidates on the other runs."""
    if not fitted_on.any() or fitted_on.all():
        return 0.0
    threshold = _quantile(scored.truth[fitted_on], weights[fitted_on], coverage)
    sizes = (scored.all[~fitted_on] <= threshold).sum(axis=1)
    return float(np.average(sizes, weights=weights[~fitted_on]))


def _quantile(scores: NDArray[np.float64], weights: NDArray[np.float64], level: float) -> float:
    """The smallest of the scores (N,) that so large a share of the weights does not exceed."""
    order = np.argsort(scores, kind="stable")
    total = np.cumsum(weights[order])
    place = np.searchsorted(total, level * total[-1] * (1 - 1e-12))
    return float(scores[order[min(int(place), len(order) - 1)]])


def _threshold(scores: NDArray[np.float64], run: Ints, weights: NDArray[np.float64], coverage: float) -> float:
    """The threshold at the smallest level that covers runs left out; EVERY_CLASS if none does."""
    folds = run % min(_MAX_FOLDS, int(run.max()) + 1)
    left_out = [folds == fold for fold in np.unique(folds)]
    if len(left_out) < 2:
        return EVERY_CLASS

    def covers(level: float) -> bool:
        covered = np.zeros(len(scores), bool)
        for rows in left_out:
            covered[rows] = scores[rows] <= _quantile(scores[~rows], weights[~rows], level)
        return bool(np.average(covered, weights=weights) >= coverage)

    if not covers(1.0):
        return EVERY_CLASS
    low, high = 0.0, 1.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if covers(middle) else (middle, high)
    return _quantile(scores, weights, high)
