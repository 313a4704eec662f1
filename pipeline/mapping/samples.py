"""Arrays of samples, spread over the readings that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import Given, Reading

MAX_SAMPLES: Final = 65_536
"""Samples of one variable in one record, at most."""


def spread(
    machine: str,
    time_ms: int,
    values: dict[str, Any] | list[Any],
    read: Callable[[Any], Given],
    period_ms: int,
    time_of: Literal["first", "last"],
) -> Iterator[Reading]:
    """One reading for each time of a sample; a value that is no array is the one sample at `time_ms`."""
    arrays = [value if type(value) is list else [value] for value in _all(values)]
    count = max(map(len, arrays), default=0)
    if count > MAX_SAMPLES:
        raise RejectedError(Reason.TOO_LARGE, f"it has {count} samples of a variable; {MAX_SAMPLES} may be in a record")
    is_last = time_of == "last"
    starts = [count - len(array) if is_last else 0 for array in arrays]
    for number in range(count):
        at_ms = time_ms + (number - count + 1 if is_last else number) * period_ms
        row: list[Given] = [
            read(array[number - start]) if start <= number < start + len(array) else None
            for array, start in zip(arrays, starts, strict=True)
        ]
        if isinstance(values, list):
            yield Reading(machine, at_ms, row)
        else:
            yield Reading(machine, at_ms, dict(zip(values, row, strict=True)))


def _all(values: dict[str, Any] | list[Any]) -> list[Any]:
    return values if isinstance(values, list) else list(values.values())
