"""The logarithm of compiled code is that of the decimals, to a unit in the last place."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.compiled.logarithm import log


@settings(deadline=None)  # the first example compiles
@given(st.floats(2.0**-1022, 1.7e308) | st.floats(0.5, 2.0))
@example(1.0)
@example(math.nextafter(1.0, 2.0))
@example(math.nextafter(1.0, 0.0))
@example(2.0**-1022)
def test_the_logarithm_is_right_to_a_unit_in_the_last_place(x: float) -> None:
    with localcontext(prec=40):
        exact = Decimal(x).ln()
        unit = Decimal(math.ulp(float(exact)))
        assert abs(Decimal(log(x)) - exact) <= unit
