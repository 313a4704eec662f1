"""A reading as it was given: machine, time and values, some of which may be unusable for a reason of their own."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


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


class Reading(NamedTuple):
    """One reading of a record, which may hold several."""

    machine: str
    time_ms: int
    values: list[Given] | dict[str, Given]
    """In the order of the source's variables, or by their names or tags."""
