"""The weights of a pool of experts, and the faults that it cannot see, found on validation frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from models.encoders.experts import PooledExperts
from pipeline.arrays import Bools, Floats, Ints

_RIDGE = 1e-3
"""Pull to equal weights, which decides where validation has few episodes."""
_LARGEST_WEIGHT = 3.0
_TOLERATED = 0.01
"""Share of normal frames that may look like a fault when it is asked whether the fault shows at all."""
_SHOWS = 0.2
"""A fault that shows in a smaller share of its frames than this is hidden."""
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


def hidden_faults(log_probabilities: Floats, labels: Ints, classes: int) -> Bools:
    """Which of the first `classes` the sensors cannot see: their lead over the normal state is hardly ever larger in
    their own frames than in almost all normal ones. Log-probabilities (N, C) of validation frames."""
    hidden = np.zeros(classes, bool)
    normal = labels == 0
    if not normal.any():
        return hidden
    lead = log_probabilities - log_probabilities[:, :1]
    for fault in range(1, classes):
        own = labels == fault
        if own.sum() >= _FEWEST_FRAMES:
            limit = np.quantile(lead[normal, fault], 1 - _TOLERATED)
            hidden[fault] = (lead[own, fault] > limit).mean() < _SHOWS
    return hidden


def fit_pool(pool: PooledExperts, log_probabilities: Tensor, labels: Ints, faults: int, find_hidden: bool) -> None:
    """Fit the pool to validation: bounded log-probabilities (E, N, C) and classes (N,), of which the first `faults` may
    be hidden."""
    weights = fit_weights([part.numpy() for part in log_probabilities], labels)
    pool.weights.copy_(torch.from_numpy(weights))
    pool.hidden.zero_()
    pool.bias.zero_()
    if find_hidden:
        with torch.inference_mode():
            mixed = torch.log_softmax(torch.tensordot(pool.weights, log_probabilities, dims=1), dim=1).numpy()
        hidden = hidden_faults(mixed, labels, faults)
        pool.hidden[:faults] = torch.from_numpy(hidden.astype(np.float32))
