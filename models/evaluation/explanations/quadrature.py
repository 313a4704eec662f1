"""Integrals along a straight path from 0 to 1, refined until they add up to what the function gains on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FIRST_INTERVALS = 8
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(4)

Numbers = NDArray[np.float64]


class Integrated(NamedTuple):
    """Integrals of K partial derivatives."""

    parts: Numbers  # (K,)
    evaluations: int
    """Points at which the gradient was computed."""


def integrate(
    values: Callable[[Numbers], Numbers],
    gradients: Callable[[Numbers], Numbers],
    *,
    tolerance: float,
    max_evaluations: int,
) -> Integrated:
    """Integrate `gradients`, points (N,) to (N, K) whose sum over K is the derivative of `values`, points (N,) to (N,).

    Gauss-Legendre with four points an interval. How far an interval's integral is from what the function gains on it is
    known exactly; intervals are halved, the worst first, until these errors together are at most `tolerance`, or there
    were `max_evaluations` points.
    """
    edges = np.linspace(0, 1, FIRST_INTERVALS + 1)
    known = dict(zip(edges.tolist(), values(edges).tolist(), strict=True))
    done: dict[tuple[float, float], tuple[Numbers, float]] = {}
    open_ones = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    evaluations = 0
    while True:
        starts, ends = (np.array(side) for side in zip(*open_ones, strict=True))
        half, middle = (ends - starts) / 2, (ends + starts) / 2
        points = (middle[:, None] + half[:, None] * _NODES).ravel()
        found = gradients(points).reshape(len(open_ones), len(_NODES), -1)
        evaluations += len(points)
        parts = np.einsum("n,ink->ik", _WEIGHTS, found) * half[:, None]
        for place, part in zip(open_ones, parts, strict=True):
            done[place] = part, abs(float(part.sum()) - (known[place[1]] - known[place[0]]))
        total = sum(error for _, error in done.values())
        if total <= tolerance or evaluations >= max_evaluations:
            return Integrated(np.sum([part for part, _ in done.values()], axis=0), evaluations)
        worst = sorted(done, key=lambda place: done[place][1])
        left, open_ones = total, []
        while worst and left > tolerance / 2 and len(open_ones) < 2 * FIRST_INTERVALS:
            start, end = worst.pop()
            left -= done.pop((start, end))[1]
            open_ones += [(start, (start + end) / 2), ((start + end) / 2, end)]
        halves = np.array([end for _, end in open_ones[::2]])
        known |= dict(zip(halves.tolist(), values(halves).tolist(), strict=True))
