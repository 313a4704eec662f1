"""Values as foreign producers write them: numbers, texts of numbers and truth values; and their qualities."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final, Literal

from pipeline.config.form import QualityPlace
from pipeline.wire.readings import Given, Unused, ValueReason, shown

_TRUTH: Final = {"true": 1.0, "false": 0.0}
_SIGNS: Final = frozenset("0123456789+-.eE")
_OPC_DA_QUALITY: Final = 0xC0
_OPC_UA_SEVERITY: Final = 30


def value_reader(decimal: Literal[".", ","]) -> Callable[[Any], Given]:
    """The reader of values whose texts have this decimal sign."""

    def read(value: Any) -> Given:
        if type(value) is float:
            return value if math.isfinite(value) else Unused(ValueReason.NOT_FINITE, str(value))
        if value is None or type(value) is Unused:
            return value
        if isinstance(value, int | float | Decimal):  # truth values are integers
            return _finite(value)
        if isinstance(value, str):
            return _from_text(value, decimal)
        return Unused(ValueReason.NOT_A_NUMBER, shown(value))

    return read


def _finite(value: float | Decimal) -> Given:
    try:
        number = float(value)
    except (OverflowError, ValueError):  # ValueError: a signalling NaN of decimal
        return Unused(ValueReason.NOT_FINITE, shown(value))
    return number if math.isfinite(number) else Unused(ValueReason.NOT_FINITE, shown(value))


def _from_text(text: str, decimal: str) -> Given:
    stripped = text.strip()
    if (truth := _TRUTH.get(stripped.lower())) is not None:
        return truth
    if decimal == ",":
        stripped = "?" if "." in stripped else stripped.replace(",", ".", 1)
    try:
        number = float(stripped)
    except ValueError:
        return Unused(ValueReason.NOT_A_NUMBER, shown(text))
    if not math.isfinite(number):
        return Unused(ValueReason.NOT_FINITE, shown(text))
    # Python's numbers may have underscores and digits of any script.
    return number if _SIGNS.issuperset(stripped) else Unused(ValueReason.NOT_A_NUMBER, shown(text))


def quality_test(place: QualityPlace) -> Callable[[Any], bool]:
    """Whether a quality is good."""
    if place.good == "opc_da":
        return _is_good_opc_da
    if place.good == "opc_ua":
        return _is_good_opc_ua
    good = frozenset(map(_comparable, place.good))

    def is_good(quality: Any) -> bool:
        return _comparable(quality) in good

    return is_good


def _comparable(quality: Any) -> Any:
    """Qualities that mean the same are equal: 192, 192.0 and "192", "Good" and "GOOD"; but true is not 1."""
    if isinstance(quality, bool):
        return str(quality).lower()
    if isinstance(quality, int | float):
        return quality
    if isinstance(quality, str):
        text = quality.strip().lower()
        return int(text) if text.isdecimal() and len(text) < 20 else text
    return quality if quality is None else shown(quality)


def _is_good_opc_da(quality: Any) -> bool:
    number = _whole(quality)
    if number is None:
        return isinstance(quality, str) and quality.strip().lower().startswith("good")
    return number & _OPC_DA_QUALITY == _OPC_DA_QUALITY


def _is_good_opc_ua(quality: Any) -> bool:
    """An absent status code is good, as in the JSON of OPC UA."""
    if quality is None:
        return True
    if type(quality) is dict:
        folded = {str(name).lower(): part for name, part in quality.items()}
        quality = folded.get("code", folded.get("symbol"))
        if quality is None:
            return not folded
    number = _whole(quality)
    if number is None:
        return isinstance(quality, str) and quality.strip().lower().startswith("good")
    return number >> _OPC_UA_SEVERITY == 0


def _whole(quality: Any) -> int | None:
    if isinstance(quality, bool):
        return None
    if isinstance(quality, float):
        return int(quality) if quality.is_integer() and abs(quality) < 2**53 else None
    if isinstance(quality, int):
        return quality if 0 <= quality < 2**32 else None
    if isinstance(quality, str) and len(quality) <= 20:
        try:
            return int(quality.strip(), 0)
        except ValueError:
            return None
    return None
