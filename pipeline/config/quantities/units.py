"""Units of measurement: whether two are the same, and how values of one become values of the other."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple


class Conversion(NamedTuple):
    """target = scale * value + offset."""

    scale: float
    offset: float


_ALIASES = {
    **dict.fromkeys(("℃", "°C", "° C", "deg C", "DEG C", "DEGC", "C", "Celsius"), "degC"),  # nobody measures coulombs
    **dict.fromkeys(("℉", "°F", "° F", "deg F", "DEG F", "DEGF", "F", "Fahrenheit"), "degF"),  # or farads
    **dict.fromkeys(("1/min", "min-1", "RPM", "U/min"), "rpm"),
    "PSI": "psi",
    "BAR": "bar",
    "KPA": "kPa",
    "Nm": "N*m",
}
_POWER = re.compile(r"(?<=[A-Za-z])(?=[23](?![0-9A-Za-z]))")
"""Where `m3` lacks the power that it means."""


def conversion(given: str, wanted: str) -> Conversion | None:
    """How values in one unit become values in another; None if they are the same or one is not stated.

    Raises ValueError if they measure different things, or if one is not known and they are written differently.
    """
    if not given or not wanted or _written(given) == _written(wanted):
        return None
    return _known_conversion(_written(given), _written(wanted))


def _written(unit: str) -> str:
    text = unit.strip()
    return _ALIASES.get(text, text)


@cache
def _known_conversion(given: str, wanted: str) -> Conversion | None:
    import pint

    registry: pint.UnitRegistry[Any] = pint.UnitRegistry(non_int_type=Fraction)  # 5/9 of a degree is exact then
    try:
        zero, one = (registry.Quantity(Fraction(number), _POWER.sub("**", given)) for number in (0, 1))
        target = registry.Unit(_POWER.sub("**", wanted))
        # To pint an angle is a plain number, which would make one turn a second 6.28 hertz.
        if one.to_base_units().units != registry.Quantity(Fraction(1), target).to_base_units().units:
            raise pint.DimensionalityError(one.units, target)
        offset = Fraction(zero.to(target).magnitude)
        return Conversion(float(Fraction(one.to(target).magnitude) - offset), float(offset))
    except pint.DimensionalityError:
        raise ValueError(f"unit {given!r} cannot be converted to {wanted!r}: they measure different things") from None
    except Exception as error:  # pint's parser raises errors of many kinds for what is no unit
        raise ValueError(
            f"unit {given!r} cannot be converted to {wanted!r}: {str(error).splitlines()[0][:100]}; "
            "write both the same way, or as units that the library pint knows, such as degC, bar or m3/h"
        ) from None
