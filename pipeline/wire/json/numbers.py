"""Parts of JSON, written by compiled code: each function writes from an address on and returns where it ended.

Numbers have the digits and the form that msgspec gives them.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from pipeline.compiled import kernel
from pipeline.wire.json.memory import copy_bytes, load_byte, store_byte

_SIGNIFICANT: Final = 7
"""Digits of a variable's value: what a float32 has."""
_TEN_TO_SIGNIFICANT: Final = 10**_SIGNIFICANT
_MAX_PLAIN: Final = 1e16
_MIN_PLAIN: Final = 1e-5
"""Values outside of these are written with an exponent, which is left to `messages.encode`."""
_MIN_BEFORE, _MAX_BEFORE = -4, 16
_BOUNDS: Final = np.array([float(f"1e{before - 1}") for before in range(_MIN_BEFORE, _MAX_BEFORE + 1)])
"""The smallest value with so many digits before the point."""
_POWERS_OF_10: Final = np.array([10**n for n in range(18)], np.int64)
_POWERS_OF_5: Final = np.array([5**n for n in range(18)], np.int64)
_ZERO, _MINUS, _POINT = b"0-."


# Numbers to divide are unsigned: signed ones cost a test of their sign. Mixed with signed ones they would become
# floats, so they do not leave the function that makes them.

_signed: Any = np.int64
"""To 64 bits with a sign, which in compiled code are what Python calls an int."""


@kernel
def copy(at: int, begin: int, end: int) -> int:
    """The bytes from one address up to another."""
    copy_bytes(at, begin, end - begin)
    return at + end - begin


@kernel
def write_letter(at: int, letter: int) -> int:
    store_byte(at, letter)
    return at + 1


@kernel
def _digits(at: int, number: int, count: int) -> int:
    """The last `count` digits of a number, with leading zeros."""
    whole, ten = np.uint64(number), np.uint64(10)
    for place in range(at + count - 1, at - 1, -1):
        rest = whole // ten
        store_byte(place, _ZERO + _signed(whole - ten * rest))
        whole = rest
    return at + count


@kernel
def write_whole_number(at: int, number: int) -> int:
    if number < 0:
        at, number = write_letter(at, _MINUS), -number
    count = 1
    while count < 18 and number >= _POWERS_OF_10[count]:
        count += 1
    return _digits(at, number, count)


@kernel
def write_units(at: int, units: int) -> int:
    """As `write_decimal` with five decimals, in half the time."""
    whole = np.uint64(units)
    before = whole // np.uint64(100_000)
    if before > np.uint64(9):
        return write_decimal(at, units, 5)
    whole -= before * np.uint64(100_000)
    ten = np.uint64(10)
    store_byte(at, _ZERO + _signed(before))
    store_byte(at + 1, _POINT)
    store_byte(at + 2, _ZERO + _signed(whole // np.uint64(10_000)))
    store_byte(at + 3, _ZERO + _signed(whole // np.uint64(1_000) % ten))
    store_byte(at + 4, _ZERO + _signed(whole // np.uint64(100) % ten))
    store_byte(at + 5, _ZERO + _signed(whole // ten % ten))
    store_byte(at + 6, _ZERO + _signed(whole % ten))
    return _without_zeros(at + 7, at + 3)


@kernel
def _without_zeros(at: int, minimum: int) -> int:
    while at > minimum and load_byte(at - 1) == _ZERO:
        at -= 1
    return at


@kernel
def write_decimal(at: int, number: int, decimals: int) -> int:
    """A number of units of the last of so many decimals; zeros at the end are left out, but for the first decimal."""
    power = _POWERS_OF_10[decimals]
    before = _signed(np.uint64(number) // np.uint64(power))
    at = write_letter(at, _ZERO + before) if before < 10 else write_whole_number(at, before)
    at = write_letter(at, _POINT)
    at = _digits(at, number - before * power, decimals)
    return _without_zeros(at, at - decimals + 1)


@kernel
def write_float32(at: int, value: float) -> int:
    """A float32 of a plain size, to seven significant digits; halves go to the even digit."""
    bits = np.float32(value).view(np.int32)
    if bits < 0:
        at = write_letter(at, _MINUS)
    magnitude = np.int64(bits & 0x7FFFFFFF)
    if magnitude == 0:
        return write_decimal(at, 0, 1)
    # value = mantissa * 2^exponent, exactly; a value of plain size is no subnormal number
    mantissa = np.int64((magnitude & 0x7FFFFF) | 0x800000)
    exponent = np.int64(magnitude >> 23) - 150
    size = abs(np.float64(np.float32(value)))
    before = 0  # digits before the point, less the zeros behind it; a float32 never is between a bound and its float64
    while before < _MAX_BEFORE and size >= _BOUNDS[before - _MIN_BEFORE + 1]:
        before += 1
    while size < _BOUNDS[before - _MIN_BEFORE]:
        before -= 1
    scale = _SIGNIFICANT - before  # the digits are value * 10^scale
    if scale >= 0:
        product = mantissa * _POWERS_OF_5[scale]
        shift = exponent + scale
        if shift >= 0:
            digits, rest, half = product << shift, np.int64(0), np.int64(1)
        else:
            digits = product >> -shift
            rest, half = product - (digits << -shift), np.int64(1) << (-shift - 1)
        odd = digits & 1
        if rest > half or (rest == half and odd == 1):
            digits += 1
    else:
        product, power = mantissa << exponent, _POWERS_OF_10[-scale]
        digits = product // power
        rest = 2 * (product - digits * power)
        if rest > power or (rest == power and (digits & 1) == 1):
            digits += 1
    if digits == _TEN_TO_SIGNIFICANT:
        digits //= 10
        before += 1
        scale -= 1
    if scale <= 0:
        at = write_whole_number(at, digits)
        at = _digits(at, 0, -scale)
        at = write_letter(at, _POINT)
        return write_letter(at, _ZERO)
    return write_decimal(at, digits, scale)


@kernel
def is_plain(value: float) -> bool:
    size = abs(value)
    return size == 0.0 or (_MIN_PLAIN <= size < _MAX_PLAIN * (1 - 1e-7))
