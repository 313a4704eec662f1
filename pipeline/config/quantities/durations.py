"""Durations as people write them: `250ms`, `10s`, `3m`, `1.5h`, `2d`."""

from __future__ import annotations

import math
import re
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field

MAX_MS = 100 * 366 * 86_400_000
"""Longer ones are slips of the keyboard, and sums of times in milliseconds must stay exact."""

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_Number = TypeVar("_Number", int, float)

_NUMBER = r"\d+(?:\.\d+)?"
_DURATION = re.compile(rf"\s*({_NUMBER})\s*(ms|s|m|h|d)\s*")
_BARE = re.compile(rf"\s*({_NUMBER})\s*")
_IN_WORDS = re.compile(rf"\s*({_NUMBER})\s*([A-Za-z]+)\s*")
_UNIT_OF_WORD = {
    **dict.fromkeys(("milli", "millis", "millisecond", "milliseconds", "msec", "msecs"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
    **dict.fromkeys(("d", "day", "days"), "d"),
}
_MANY = 1_000
"""From here on a number without unit may well count milliseconds."""


def parse_duration_ms(value: object) -> int:
    """Whole milliseconds from `250ms`, `10s`, `3m`, `1.5h`, `2d`; raises ValueError for anything else.

    A number without a unit is refused, because it could mean anything; only 0 needs none.
    """
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        if isinstance(text, str) and (bare := _BARE.fullmatch(text)):
            return _without_unit(bare[1])
        raise ValueError(f"{repr(value)[:80]} is not a duration such as 250ms, 10s, 3m, 1.5h or 2d{_meant(text)}")
    milliseconds = _bounded(float(match[1]) * _UNIT_MS[match[2]], value)
    if milliseconds != int(milliseconds):
        raise ValueError(f"{value!r} is not a whole number of milliseconds")
    return int(milliseconds)


def parse_milliseconds(value: object) -> int:
    """As `parse_duration_ms`, but a whole number without a unit counts milliseconds, as its setting's name says."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _bounded(value, value)
    if isinstance(value, str) and value.strip().isdecimal():
        return _bounded(int(value), value)
    return parse_duration_ms(value)


def _without_unit(number: str) -> int:
    if float(number) == 0:
        return 0
    raise ValueError(f"{number[:40]} has no unit; write {_choices(number)}")


def _choices(number: str) -> str:
    """What a number without a unit may mean, if it counts seconds or not: `3600s or 1h`, `30s, 30m or 30h`."""
    seconds = float(number)
    if not math.isfinite(seconds) or len(number) > 12:
        return "for example 10s, 3m or 1h"
    for unit in ("d", "h", "m"):
        count = seconds * 1_000 / _UNIT_MS[unit]
        if count >= 1 and count == int(count):
            same = f"{number}s or {int(count)}{unit}"
            return same if seconds < 10 * _MANY else f"{same} if it counts seconds, {number}ms if milliseconds"
    return f"{number}s or {number}ms" if seconds >= _MANY else f"{number}s, {number}m or {number}h"


def _meant(text: object) -> str:
    """The duration that words such as `10 min` and `2 Hours` mean, as a hint."""
    match = _IN_WORDS.fullmatch(text) if isinstance(text, str) else None
    unit = _UNIT_OF_WORD.get(match[2].lower()) if match else None
    return f"; write {match[1]}{unit}" if match and unit else ""


def _bounded(milliseconds: _Number, given: object) -> _Number:
    if milliseconds > MAX_MS:
        raise ValueError(f"{repr(given)[:80]} is longer than a hundred years")
    return milliseconds


DurationMs = Annotated[int, BeforeValidator(parse_duration_ms), Field(gt=0)]


def shown_duration(ms: int) -> str:
    """About how long, in the largest unit that is no more than a tenth off: `50 min`, `1 h`, `90 min`."""
    for name, unit in (("d", "d"), ("h", "h"), ("min", "m"), ("s", "s")):
        count = abs(ms) / _UNIT_MS[unit]
        if count >= 1 and abs(count - round(count)) <= count / 10:
            return f"{'-' if ms < 0 else ''}{round(count)} {name}"
    return f"{ms} ms"
