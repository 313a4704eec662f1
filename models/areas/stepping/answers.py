"""The head of the networks of areas, compiled: scores of causes, and the machines' corrected answers."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import types

from models.areas.stepping.kernels import SOURCES, F, dot, product, softmax
from models.stepping.kernels.lanes import LANES, load, pick_less, splat, store
from models.stepping.kernels.vectors import exponentiate
from pipeline.arrays import Floats, Ints
from pipeline.compiled import CompiledFunction, kernel
from pipeline.compiled.logarithm import log

_ZERO, _ONE = F(0), F(1)
_CERTAIN: Final = F(8)
"""Limit of a machine's own log odds."""


class Head(NamedTuple):
    """Weights; matrices are (in, out), and the C classes are padded to K, whole lanes."""

    machine: Floats  # (W, W)
    machine_bias: Floats
    utility: Floats  # (W, W)
    utility_bias: Floats
    correction: Floats  # (W, K)
    correction_bias: Floats
    cause: Floats  # (W, K)
    cause_bias: Floats
    own: Floats  # (W,)
    none: Floats  # (2 W,) of the machines' mean, and of the utilities'
    numbers: Floats
    """Bias of `own` and of `none`, and how much a machine's own log odds count."""
    shared: Floats  # (P,) how much each kind of evidence counts; zeros without evidence
    quiet: Floats  # (C,) 1 of classes without a fault, else 0


@kernel
def own_odds(logs: Floats, at: int, quiet: Floats, work: Floats) -> np.float32:
    """Log odds that a machine has any fault, by its own log-probabilities (C,)."""
    odds = _ZERO
    for side in range(2):  # log of the summed e^x of the classes with a fault, less that of those without
        count, high = 0, F(-1e30)
        for c in range(len(quiet)):
            if quiet[c] == F(side):
                work[count] = logs[at + c]
                high = max(high, logs[at + c])
                count += 1
        total = high + F(log(np.float64(exponentiate(work, 0, count))))
        odds = odds - total if side else total
    return min(max(odds, -_CERTAIN), _CERTAIN)


@kernel
def rectified(x: Floats, x_at: int, weights: Floats, bias: Floats, y: Floats) -> None:
    """y (W,) = max(x weights + bias, 0)."""
    width = len(bias)
    product(x, x_at, width, weights, 0, width, bias, 0, y, 0)
    for k in range(0, width, LANES):
        value = load(y, k)
        store(y, k, pick_less(value, splat(_ZERO), splat(_ZERO), value))


def _answer(
    h: Floats, graphs: int, first: Ints, log_probabilities: Floats, evidence: Floats, head: Head, corrected: Floats,
    causes: Floats,
) -> None:  # fmt: skip
    """Answers from vectors h (G, V, W), means of the scores of G graphs; log-probabilities are (N, C), evidence
    (U, C, P).

    `corrected` (N, K) become the machines' probabilities, `causes` (1 + N + U C,) the scores of all candidates, whose
    softmax is how probable they are: no cause, each machine's own fault, each class of each utility.
    """
    machines, utilities, nodes = first[1], first[2] - first[1], first[3]
    width, classes, padded = len(head.own), len(head.quiet), len(head.cause_bias)
    kinds, share = len(head.shared), _ONE / F(graphs)
    z, work, scores = np.zeros(width, F), np.zeros(padded, F), np.zeros(padded, F)
    corrected[:] = _ZERO
    causes[:] = _ZERO
    for g in range(graphs):
        none = head.numbers[1]
        for n in range(machines):
            rectified(h, (g * nodes + n) * width, head.machine, head.machine_bias, z)
            none += dot(z, 0, head.none, 0, width) / F(machines)
            product(z, 0, width, head.correction, 0, padded, head.correction_bias, 0, scores, 0)
            for c in range(classes):
                corrected[n * padded + c] += share * (log_probabilities[n * classes + c] + scores[c])
            own = head.numbers[2] * own_odds(log_probabilities, n * classes, head.quiet, work)
            causes[1 + n] += share * (dot(z, 0, head.own, 0, width) + head.numbers[0] + own)
        for u in range(utilities):
            rectified(h, (g * nodes + machines + u) * width, head.utility, head.utility_bias, z)
            none += dot(z, 0, head.none, width, width) / F(utilities)
            product(z, 0, width, head.cause, 0, padded, head.cause_bias, 0, scores, 0)
            for c in range(classes):
                place = u * classes + c
                support = dot(evidence, place * kinds, head.shared, 0, kinds)
                causes[1 + machines + place] += share * (scores[c] + support)
        causes[0] += share * none
    for n in range(machines):
        softmax(corrected, n * padded, classes)


_FLOATS, _INTS = types.Array(types.float32, 1, "C"), types.Array(types.int64, 1, "C")
_HEAD: Final = types.NamedUniTuple(_FLOATS, len(Head._fields), Head)
ANSWER: Final = CompiledFunction(
    _answer,
    types.void(_FLOATS, types.int64, _INTS, _FLOATS, _FLOATS, _HEAD, _FLOATS, _FLOATS),
    SOURCES,
    name="area_answer",
)
