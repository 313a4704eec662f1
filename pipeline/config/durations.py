"""Durations as people write them: `250ms`, `10s`, `3m`, `1.5h`, `2d`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def parse_duration_ms(value: object) -> int:
    """Whole milliseconds from `250ms`, `10s`, `3m`, `1.5h`, `2d`; raises ValueError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration such as 250ms, 10s, 3m, 1.5h or 2d")
    milliseconds = float(match[1]) * _UNIT_MS[match[2]]
    if milliseconds != int(milliseconds):
        raise ValueError(f"{value!r} is not a whole number of milliseconds")
    return int(milliseconds)


DurationMs = Annotated[int, BeforeValidator(parse_duration_ms), Field(gt=0)]


def shown_duration(ms: int) -> str:
    """About how long, in the largest unit that is no more than a tenth off: `50 min`, `1 h`, `90 min`."""
    for name, unit in (("d", "d"), ("h", "h"), ("min", "m"), ("s", "s")):
        count = abs(ms) / _UNIT_MS[unit]
        if count >= 1 and abs(count - round(count)) <= count / 10:
            return f"{'-' if ms < 0 else ''}{round(count)} {name}"
    return f"{ms} ms"
