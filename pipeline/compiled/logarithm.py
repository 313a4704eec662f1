"""A natural logarithm for compiled code, to about one unit in the last place, with the same bits on every processor.

The C library's logarithm differs from system to system, and its digits are published. This one is made of additions,
products and quotients, which are exactly defined.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pipeline.compiled import kernel

_ROOT_2: Final = 1.4142135623730951
_MANTISSA: Final = np.int64((1 << 52) - 1)
_EXPONENT_OF_1: Final = np.int64(1023 << 52)

# log 2 in two parts, of which the first has 20 zero bits at its end, so that its product with an exponent is exact.
_LOG_2: Final = 0.6931471804855391
_LOG_2_REST: Final = 7.440617110012397e-11


@kernel
def log(x: float) -> float:
    """log x of a positive, normal, finite float64."""
    bits = np.float64(x).view(np.int64)
    exponent = (bits >> 52) - 1023
    m = np.int64((bits & _MANTISSA) | _EXPONENT_OF_1).view(np.float64)
    if m > _ROOT_2:
        m *= 0.5
        exponent += 1
    # With s = f / (2 + f), log(1 + f) = 2 artanh(s) = 2s (1 + s^2/3 + s^4/5 + ...), and 2s = f - s f. So f, which is
    # exact, gets a small correction, and the series' rounding errors count little.
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    series = 2 / 21
    series = series * z + 2 / 19
    series = series * z + 2 / 17
    series = series * z + 2 / 15
    series = series * z + 2 / 13
    series = series * z + 2 / 11
    series = series * z + 2 / 9
    series = series * z + 2 / 7
    series = series * z + 2 / 5
    series = series * z + 2 / 3
    series = series * z
    e = np.float64(exponent)
    return e * _LOG_2 + (f - (s * (f - series) - e * _LOG_2_REST))
