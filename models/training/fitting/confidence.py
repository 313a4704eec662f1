"""Fitting a ConfidenceMap on validation frames, where the fused answers need one."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from models.evaluation.calibration import answer_confidence, expected_calibration_error
from models.fusion.confidence import ConfidenceMap, answered
from pipeline.arrays import Bools, Ints

GOOD_ERROR: Final = 0.02
"""With an expected calibration error of no more than this, answers stay as they are."""
_RIDGE: Final = 1e-3
"""Pull to a map that changes nothing, which decides where validation has few frames of a kind."""
_FOLDS: Final = 5
_LEAST: Final = 1e-6
"""Probabilities are cut here while a map is fitted, or a few sure errors would decide."""
_SLOPES: Final = ((0.05, 5.0), (0.05, 5.0), (-5.0, 5.0))


def fit_confidence(
    probabilities: Tensor, present: Tensor, labels: Ints, runs: Ints, meanings: Ints
) -> ConfidenceMap | None:
    """A map for fused answers (N, C), or None if they are calibrated well enough without one or no map is better.

    `present` (M, N), `labels` (N,) and `runs` (N,) are those of the frames; `meanings` (C,) says which label each class
    stands for. The map is better if cross-fitting by runs lowers the negative log-likelihood of the answers.
    """
    rows = (labels >= 0) & present.any(dim=0).numpy()
    p, y, run = probabilities[torch.from_numpy(rows)], labels[rows], runs[rows]
    confidence, right = answer_confidence(p.numpy(), y, meanings)
    if not len(y) or expected_calibration_error(confidence, right) <= GOOD_ERROR:
        return None
    faultless = torch.from_numpy((meanings == 0).astype(np.float32))
    top, _ = answered(p, faultless)
    faulty: Bools = faultless[top].numpy() == 0
    held_out = np.zeros(len(y))
    folds = np.searchsorted(np.unique(run), run) % _FOLDS
    for fold in range(_FOLDS):
        parameters = _fit(confidence[folds != fold], right[folds != fold], faulty[folds != fold])
        rest = folds == fold
        held_out[rest] = _loss_each(_inputs(confidence[rest]), right[rest], parameters[faulty[rest].astype(int)])
    unchanged = np.tile(np.array([1.0, 1.0, 0.0]), (len(y), 1))
    if held_out.mean() >= _loss_each(_inputs(confidence), right, unchanged).mean():
        return None
    confidence_map = ConfidenceMap(len(meanings))
    confidence_map.faultless.copy_(faultless)
    confidence_map.fitted.copy_(torch.from_numpy(_fit(confidence, right, faulty)))
    return confidence_map.eval()


def _fit(confidence: NDArray[np.float64], right: Bools, faulty: Bools) -> NDArray[np.float64]:
    """a, b and d (2, 3) of answers without a fault, and of those with one."""
    start = np.array([1.0, 1.0, 0.0])
    fitted = np.tile(start, (2, 1))
    for kind, rows in enumerate((~faulty, faulty)):
        x, y = _inputs(confidence[rows]), right[rows]
        if not len(y):
            continue

        def loss(
            parameters: NDArray[np.float64], x: NDArray[np.float64] = x, y: Bools = y
        ) -> tuple[float, NDArray[np.float64]]:
            share = 1 / (1 + np.exp(-(x @ parameters)))
            away = parameters - start
            value = _loss_each(x, y, parameters[None]).mean() + _RIDGE * (away**2).sum()
            return float(value), x.T @ (share - y) / len(y) + 2 * _RIDGE * away

        fitted[kind] = minimize(loss, start, jac=True, bounds=_SLOPES).x
    return fitted


def _inputs(confidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """log c, -log(1 - c) and 1, (N, 3)."""
    c = np.clip(confidence.astype(np.float64), _LEAST, 1 - _LEAST)
    return np.stack([np.log(c), -np.log1p(-c), np.ones_like(c)], axis=1)


def _loss_each(x: NDArray[np.float64], right: Bools, parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Negative log-likelihood of each answer being right or wrong, (N,)."""
    odds = (x * parameters).sum(axis=1)
    return np.asarray(np.logaddexp(0, odds) - right * odds)
