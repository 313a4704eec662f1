"""exp, log, tanh, sigmoid, asinh of eight numbers at a time, to about one unit in the last place, the same everywhere.

Every processor's C library has its own, so these are polynomials of our own: fitted at Chebyshev nodes in 60 digits
and rounded to float32. The reductions are the classic ones (Cody and Waite 1980).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.stepping.kernels.lanes import (
    Lanes,
    absolute,
    exponent,
    mantissa,
    pick_less,
    roots,
    splat,
    times_power_of_two,
    with_sign,
)
from pipeline.compiled import kernel

F: Final = np.float32

_ZERO, _HALF, _ONE, _TWO = F(0), F(0.5), F(1), F(2)

_LARGEST_EXPONENT, _SMALLEST_EXPONENT = F(88), F(-87)
"""exp of less is 0: what is smaller than any normal number would make everything after it slow."""
_LOG2_E = F(1.4426950408889634)
_LOG_2_HIGH, _LOG_2_LOW = F(0.693359375), F(-2.1219444005469057e-4)
"""log 2 in two parts, of which the first times a small whole number is exact."""
_ROUNDER = F(1.5 * 2**23)
"""Adding and subtracting it rounds to a whole number."""

_EXP = tuple(F(c) for c in (0.5, 0.16666573286056519, 0.04166654869914055, 0.008363774046301842, 0.0013926926767453551))
"""(exp(r) - 1 - r) / r^2 for |r| <= log(2) / 2."""
_TANH = tuple(
    F(c)
    for c in (
        -0.333333283662796,
        0.13332748413085938,
        -0.05384775623679161,
        0.020982297137379646,
        -0.006075166631489992,
    )
)
"""(tanh(x) / x - 1) / x^2 as a polynomial in x^2, for |x| <= 0.625."""
_TANH_SMALL = F(0.625)
_LOG = tuple(
    F(c)
    for c in (
        0.3333333134651184,
        -0.2499999701976776,
        0.20000715553760529,
        -0.1666780263185501,
        0.14249058067798615,
        -0.12425687164068222,
        0.11685419827699661,
        -0.11479733884334564,
        0.06971611827611923,
    )
)
"""(log(1 + f) - f + f^2 / 2) / f^3 for sqrt(1/2) <= 1 + f <= sqrt(2)."""
_ROOT_2 = F(1.4142135623730951)


@kernel
def exp(x: Lanes) -> Lanes:
    """e^x; 0 below -87, where the exact value nears the smallest normal number, and e^88 above 88."""
    bounded = pick_less(splat(_LARGEST_EXPONENT), x, splat(_LARGEST_EXPONENT), x)
    bounded = pick_less(bounded, splat(_SMALLEST_EXPONENT), splat(_SMALLEST_EXPONENT), bounded)
    whole = (bounded * splat(_LOG2_E) + splat(_ROUNDER)) - splat(_ROUNDER)
    r = (bounded - whole * splat(_LOG_2_HIGH)) - whole * splat(_LOG_2_LOW)
    p = splat(_EXP[4])
    p = p * r + splat(_EXP[3])
    p = p * r + splat(_EXP[2])
    p = p * r + splat(_EXP[1])
    p = p * r + splat(_EXP[0])
    power = times_power_of_two((p * (r * r) + r) + splat(_ONE), whole)
    return pick_less(x, splat(_SMALLEST_EXPONENT), splat(_ZERO), power)


@kernel
def tanh(x: Lanes) -> Lanes:
    """Hyperbolic tangent: an odd polynomial near 0, 1 - 2 / (e^2|x| + 1) beyond."""
    size = absolute(x)
    square = x * x
    p = splat(_TANH[4])
    p = p * square + splat(_TANH[3])
    p = p * square + splat(_TANH[2])
    p = p * square + splat(_TANH[1])
    p = p * square + splat(_TANH[0])
    near = p * (square * x) + x
    far = splat(_ONE) - splat(_TWO) / (exp(size + size) + splat(_ONE))
    return pick_less(size, splat(_TANH_SMALL), near, with_sign(far, x))


@kernel
def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + e^-x), as e^x / (1 + e^x) for negative x, so that small values keep their precision."""
    falling = exp(splat(_ZERO) - absolute(x))
    return pick_less(x, splat(_ZERO), falling, splat(_ONE)) / (splat(_ONE) + falling)


@kernel
def log(x: Lanes) -> Lanes:
    """Natural logarithm of normal positive numbers."""
    m, n = mantissa(x), exponent(x)
    large = splat(_ROOT_2)
    n = pick_less(large, m, n + splat(_ONE), n)
    f = pick_less(large, m, m * splat(_HALF), m) - splat(_ONE)
    p = splat(_LOG[8])
    p = p * f + splat(_LOG[7])
    p = p * f + splat(_LOG[6])
    p = p * f + splat(_LOG[5])
    p = p * f + splat(_LOG[4])
    p = p * f + splat(_LOG[3])
    p = p * f + splat(_LOG[2])
    p = p * f + splat(_LOG[1])
    p = p * f + splat(_LOG[0])
    square = f * f
    tail = p * (square * f) + n * splat(_LOG_2_LOW)
    return n * splat(_LOG_2_HIGH) + (f + (tail - splat(_HALF) * square))


@kernel
def asinh(x: Lanes) -> Lanes:
    """Inverse hyperbolic sine: log(|x| + sqrt(x^2 + 1)) with the sign of x, for |x| whose square is a number."""
    size = absolute(x)
    return with_sign(log(size + roots(size * size + splat(_ONE))), x)
