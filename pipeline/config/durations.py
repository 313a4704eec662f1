"""Durations as people write them: `250ms`, `10s`, `3m`, `1.5h`, `2d`."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field

MAX_MS = 100 * 366 * 86_400_000
"""Longer ones are slips of the keyboard, and sums of times in milliseconds must stay exact."""

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_Number = TypeVar("_Number", int, float)

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def parse_duration_ms(value: object) -> int:
    """Whole milliseconds from `250ms`, `10s`, `3m`, `1.5h`, `2d`; raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _bounded(value, value)
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{repr(value)[:80]} is not a duration such as 250ms, 10s, 3m, 1.5h or 2d")
    milliseconds = _bounded(float(match[1]) * _UNIT_MS[match[2]], value)
    if milliseconds != int(milliseconds):
        raise ValueError(f"{value!r} is not a whole number of milliseconds")
    return int(milliseconds)


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
