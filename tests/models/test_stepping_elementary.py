"""exp, log, tanh and sigmoid of the compiled step: close to the exact values everywhere, and odd values handled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from models.stepping.kernels import elementary
from models.stepping.kernels.lanes import LANES, load, store, totals

Doubles = NDArray[np.float64]

SPREAD = np.concatenate(
    [np.linspace(-100, 100, 400_000), np.linspace(-1, 1, 400_000), np.geomspace(1e-30, 1, 40_000)]
).astype(np.float32)
POSITIVE = np.exp(np.linspace(-87, 88, 800_000)).astype(np.float32)


def apply(function: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    @numba.njit(error_model="numpy")  # type: ignore[untyped-decorator]
    def run(x: Any, y: Any) -> None:
        for i in range(0, len(x), LANES):
            store(y, i, function(load(x, i)))

    given = np.concatenate([x, np.ones(-len(x) % LANES, np.float32)])
    y = np.empty_like(given)
    run(given, y)
    return y[: len(x)]


def ulps(found: NDArray[np.float32], exact: Doubles) -> Doubles:
    """Distance in units of the last place of the exact value, where that is a normal number."""
    normal = np.abs(exact) > np.finfo(np.float32).tiny
    spacing = np.spacing(np.abs(exact[normal]).astype(np.float32)).astype(np.float64)
    distance: Doubles = np.abs(found[normal] - exact[normal]) / spacing
    return distance


def logistic(x: Doubles) -> Doubles:
    e: Doubles = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1 + e)


@pytest.mark.parametrize(
    ("name", "exact", "domain", "most"),
    [
        ("exp", np.exp, SPREAD[(SPREAD > -86.9) & (SPREAD < 88)], 1.1),
        ("tanh", np.tanh, SPREAD, 1.5),
        ("sigmoid", logistic, SPREAD[SPREAD > -86.9], 2.5),
        ("log", np.log, POSITIVE, 1.0),
    ],
)
def test_values_are_exact_to_a_unit_or_two_in_the_last_place(
    name: str, exact: Callable[[Doubles], Doubles], domain: NDArray[np.float32], most: float
) -> None:
    found = apply(getattr(elementary, name), domain)
    assert ulps(found, exact(domain.astype(np.float64))).max() <= most


def test_ends_of_the_domain() -> None:
    far = np.array([-1e30, -88, 0, 100, 1e30, -0.0], np.float32)
    assert apply(elementary.exp, far)[:3].tolist() == [0, 0, 1]
    assert np.isfinite(apply(elementary.exp, far)).all()
    assert apply(elementary.tanh, far).tolist() == [-1, -1, 0, 1, 1, 0]
    assert apply(elementary.sigmoid, far).tolist() == [0, 0, 0.5, 1, 1, 0.5]
    assert apply(elementary.log, np.array([1.0], np.float32))[0] == 0


def test_eight_sums_at_once() -> None:
    @numba.njit  # type: ignore[untyped-decorator]
    def run(x: Any, y: Any) -> None:
        store(
            y,
            0,
            totals(
                load(x, 0), load(x, 8), load(x, 16), load(x, 24), load(x, 32), load(x, 40), load(x, 48), load(x, 56)
            ),
        )

    x = np.arange(64, dtype=np.float32) ** 2
    y = np.empty(8, np.float32)
    run(x, y)
    assert y.tolist() == x.reshape(8, 8).sum(axis=1).tolist()
