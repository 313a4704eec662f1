"""The weights of a pool of experts, and the faults that it cannot see, found on validation frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from models.encoders.experts.pool import PooledExperts
from pipeline.arrays import Bools, Floats, Ints

_RIDGE = 1e-3
"""Pull to equal weights, which decides where validation has few episodes."""
_LARGEST_WEIGHT = 3.0
_SHOWS = 0.2
"""A fault that is detected in a smaller share of its frames than this is hidden."""
_FEWEST_FRAMES = 100
"""With fewer frames of a fault nothing is said about it."""


def fit_weights(log_probabilities: Sequence[Floats], labels: Ints) -> Floats:
    """Weights (E,) of experts' bounded log-probabilities (N, C) each: the least negative log-likelihood of the labelled
    frames, with a small pull to equal weights."""
    known = labels >= 0
    experts = len(log_probabilities)
    equal = np.full(experts, 1 / experts)
    if experts == 1 or not known.any():
        return equal.astype(np.float32)
    told = np.stack([part[known] for part in log_probabilities]).astype(np.float64)
    truth = labels[known]
    rows = np.arange(len(truth))

    def loss(weights: Floats) -> tuple[float, Floats]:
        mixed = np.tensordot(weights, told, axes=1)
        mixed -= mixed.max(axis=1, keepdims=True)
        p = np.exp(mixed)
        p /= p.sum(axis=1, keepdims=True)
        away = weights - equal
        value = -np.log(np.maximum(p[rows, truth], 1e-300)).mean() + _RIDGE * (away**2).sum()
        expected = (told * p).sum(axis=2)
        gradient = (expected - told[:, rows, truth]).mean(axis=1) + 2 * _RIDGE * away
        return float(value), gradient

    found = minimize(loss, equal, jac=True, bounds=[(0.0, _LARGEST_WEIGHT)] * experts).x
    return np.asarray(found, np.float32)


def hidden_faults(log_probabilities: Floats, labels: Ints, normal: Bools, faults: int, false_alarms: float) -> Bools:
    """Which of the first `faults` classes the sensors cannot see, (faults,); log-probabilities (N, C), classes (N,),
    and which frames are surely normal, (N,), all of validation.

    The alarm odds of a frame are those of the visible faults against everything else. While a fault is detected in
    hardly any of its frames, where the odds raise no more than this share of false alarms, the one that is detected
    least is hidden, for its odds only raise the limit for the others.
    """
    visible = np.ones(faults, bool)
    visible[0] = False
    hidden = np.zeros(faults, bool)
    judged = [fault for fault in range(1, faults) if (labels == fault).sum() >= _FEWEST_FRAMES]
    if not normal.any():
        return hidden
    while visible.sum() > 1:
        named = np.zeros(log_probabilities.shape[1], bool)
        named[:faults] = visible
        odds = _log_sum(log_probabilities[:, named]) - _log_sum(log_probabilities[:, ~named])
        alarm = odds > np.quantile(odds[normal], 1 - false_alarms)
        shares = {fault: alarm[labels == fault].mean() for fault in judged if visible[fault]}
        if not shares:
            break
        least = min(shares, key=lambda fault: shares[fault])
        if shares[least] >= _SHOWS:
            break
        visible[least], hidden[least] = False, True
    return hidden


def _log_sum(logarithms: Floats) -> Floats:
    largest = logarithms.max(axis=1, keepdims=True)
    return np.asarray(largest[:, 0] + np.log(np.exp(logarithms - largest).sum(axis=1)))


def fit_pool(pool: PooledExperts, log_probabilities: Tensor, labels: Ints) -> Floats:
    """Fit the weights of a pool to validation, with no fault hidden; returns its log-probabilities (N, C).

    `log_probabilities` are those of its experts, bounded, (E, N, C); `labels` are the classes to learn, (N,).
    """
    weights = fit_weights([part.numpy() for part in log_probabilities], labels)
    pool.weights.copy_(torch.from_numpy(weights))
    pool.hidden.zero_()
    pool.bias.zero_()
    return np.asarray(pool.pool(log_probabilities).numpy(), np.float32)
