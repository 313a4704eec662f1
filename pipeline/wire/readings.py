"""Readings as they were given: machine, time and values, some of which may be unusable for a reason of their own."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from pipeline.config.hints import describe_time
from pipeline.wire.messages import Reason, RejectedError, digits_of, refused


class ValueReason(StrEnum):
    """Why a value of a reading is not used, though the others are; the label of a counter."""

    NOT_A_NUMBER = "not_a_number"
    NOT_FINITE = "not_finite"
    BAD_QUALITY = "bad_quality"
    MISSING = "missing"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_VARIABLE = "unknown_variable"


class Unused(NamedTuple):
    """Stands where a value would: why it is none, and what was given."""

    reason: ValueReason
    given: str


Given = float | Unused | None
"""A value, none (not observed), or one that cannot be used."""


class UnusedValue(NamedTuple):
    """A value that was not used; a name that is no variable's is as it was given."""

    name: str
    reason: ValueReason


class Reading(NamedTuple):
    """One reading of a record, which may hold several."""

    machine: str
    time_ms: int
    values: list[Given] | dict[str, Given]
    """In the order of the source's variables, or by their names or tags."""


class GivenReading(NamedTuple):
    """A reading of Faultline's own form, its time as it was written."""

    machine: str
    time: int | str
    values: list[Given] | dict[str, Given]
    is_plain: bool
    """Whether every value is a finite number or null."""


class _Reading(msgspec.Struct, frozen=True, gc=False):
    """`values` by name, or all of the topic's variables in the profile's order; null = not observed."""

    machine: str
    time: int | str
    values: list[float | None] | dict[str, float | None]


_MAX_GIVEN = 40
_MAX_DIGITS = 400
"""Python refuses to read whole numbers of some thousand digits; no float is that large."""
_decode_plain = msgspec.json.Decoder(_Reading).decode


def decode_reading(value: bytes) -> GivenReading:
    """A reading's JSON bytes; raises RejectedError.

    Most are read by msgspec. What it refuses is read again as Python writes it, with NaN and Infinity, so that a value
    that is none costs only itself.
    """
    try:
        reading = _decode_plain(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _decode_leniently(value, error)
    return GivenReading(reading.machine, reading.time, reading.values, True)  # type: ignore[arg-type]


def _decode_leniently(value: bytes, error: Exception) -> GivenReading:
    try:
        body = json.loads(value.decode(), parse_int=_whole)
    except (ValueError, RecursionError):
        raise refused(error, value) from None
    if not isinstance(body, dict):
        raise refused(error, value)
    machine, time, values = body.get("machine"), body.get("time"), body.get("values")
    if type(machine) is int or (type(machine) is float and machine.is_integer()):
        machine = digits_of(machine)  # a numeric id is taken as its digits
    if not isinstance(machine, str) or not isinstance(values, list | dict) or not _is_unicode(machine):
        raise refused(error, value)
    if "time" in body and type(time) is not int and not isinstance(time, str):
        hint = describe_time(time, 0)
        text = f"{shown(time)} is neither whole milliseconds nor an ISO 8601 time"
        raise RejectedError(Reason.BAD_TIME, text if hint is None else f"{text}; it {hint}")
    if not isinstance(time, int | str):
        raise refused(error, value)
    if isinstance(values, list):
        return GivenReading(machine, time, [taken(one) for one in values], False)
    return GivenReading(machine, time, {name: taken(one) for name, one in values.items()}, False)


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which Python's json takes and nothing else does."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(digits: str) -> float:
    return int(digits) if len(digits) < _MAX_DIGITS else math.inf


def taken(value: Any) -> Given:
    """What a decoded JSON value is worth as a value of a reading."""
    if value is None or type(value) is float:
        return value if value is None or math.isfinite(value) else Unused(ValueReason.NOT_FINITE, str(value))
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            return Unused(ValueReason.NOT_FINITE, shown(value))
    return Unused(ValueReason.NOT_A_NUMBER, shown(value))


def shown(value: Any) -> str:
    """A value as it was given, cut."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):  # a number of thousands of digits, or nested too deeply
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _MAX_GIVEN else f"{text[:_MAX_GIVEN]}…"
