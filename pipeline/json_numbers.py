"""Parts of JSON, written into a buffer by compiled code: each function writes from `at` on and returns where it ended.

Numbers have the digits and the form that msgspec gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numba
import numpy as np
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from pipeline.compiled import kernel

Bytes = NDArray[np.uint8]

_SIGNIFICANT: Final = 7
"""Digits of a variable's value: what a float32 has."""
_TEN_TO_SIGNIFICANT: Final = 10**_SIGNIFICANT
_MAX_PLAIN: Final = 1e16
_MIN_PLAIN: Final = 1e-5
"""Values outside of these are written with an exponent, which is left to `messages.encode`."""
_MIN_BEFORE, _MAX_BEFORE = -4, 16
_BOUNDS: Final = np.array([float(f"1e{before - 1}") for before in range(_MIN_BEFORE, _MAX_BEFORE + 1)])
"""The least value with so many digits before the point."""
_POWERS_OF_10: Final = np.array([10**n for n in range(18)], np.int64)
_POWERS_OF_5: Final = np.array([5**n for n in range(18)], np.int64)
_ZERO, _MINUS, _POINT = b"0-."


# Indices and numbers to divide are unsigned: signed ones cost a test of their sign at every use. Mixed with signed
# ones they would become floats, so they do not leave the expression that makes them.


@intrinsic
def _copy_memory(_: Any, out: Any, at: Any, source: Any, begin: Any, count: Any) -> Any:
    """Bytes from one array to another by LLVM's own copy; a loop over a few bytes costs several times as much."""

    def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        to, from_ = (
            builder.gep(cgutils.create_struct_proxy(kind)(context, builder, array).data, [place])
            for kind, array, place in ((signature.args[0], *values[:2]), (signature.args[2], *values[2:4]))
        )
        cgutils.raw_memcpy(builder, to, from_, values[4], 1)
        return context.get_dummy_value()

    return numba.types.void(out, at, source, begin, count), generate


@kernel
def copy(out: Bytes, at: int, source: Bytes, begin: int, end: int) -> int:
    _copy_memory(out, np.int64(at), source, np.int64(begin), np.int64(end - begin))
    return at + end - begin


@kernel
def write_letter(out: Bytes, at: int, letter: int) -> int:
    out[np.uint64(at)] = letter
    return at + 1


@kernel
def _digits(out: Bytes, at: int, number: int, count: int) -> int:
    """The last `count` digits of a number, with leading zeros."""
    whole, ten, zero = np.uint64(number), np.uint64(10), np.uint64(_ZERO)
    for place in range(at + count - 1, at - 1, -1):
        rest = whole // ten
        out[np.uint64(place)] = zero + whole - ten * rest
        whole = rest
    return at + count


@kernel
def write_whole_number(out: Bytes, at: int, number: int) -> int:
    if number < 0:
        at, number = write_letter(out, at, _MINUS), -number
    count = 1
    while count < 18 and number >= _POWERS_OF_10[count]:
        count += 1
    return _digits(out, at, number, count)


@kernel
def write_units(out: Bytes, at: int, units: int) -> int:
    """As `write_decimal` with five decimals, in half the time."""
    whole, zero = np.uint64(units), np.uint64(_ZERO)
    before = whole // np.uint64(100_000)
    if before > np.uint64(9):
        return write_decimal(out, at, units, 5)
    whole -= before * np.uint64(100_000)
    first, ten = np.uint64(at), np.uint64(10)
    out[first], out[first + np.uint64(1)] = zero + before, _POINT
    out[first + np.uint64(2)] = zero + whole // np.uint64(10_000)
    out[first + np.uint64(3)] = zero + whole // np.uint64(1_000) % ten
    out[first + np.uint64(4)] = zero + whole // np.uint64(100) % ten
    out[first + np.uint64(5)] = zero + whole // ten % ten
    out[first + np.uint64(6)] = zero + whole % ten
    return _without_zeros(out, at + 7, at + 3)


@kernel
def _without_zeros(out: Bytes, at: int, least: int) -> int:
    while at > least and out[np.uint64(at - 1)] == _ZERO:
        at -= 1
    return at


@kernel
def write_decimal(out: Bytes, at: int, number: int, decimals: int) -> int:
    """A number of units of the last of so many decimals; zeros at the end are left out, but for the first decimal."""
    power = _POWERS_OF_10[decimals]
    before: Any = np.int64(np.uint64(number) // np.uint64(power))
    at = write_letter(out, at, _ZERO + before) if before < 10 else write_whole_number(out, at, before)
    at = write_letter(out, at, _POINT)
    at = _digits(out, at, number - before * power, decimals)
    return _without_zeros(out, at, at - decimals + 1)


@kernel
def write_float32(out: Bytes, at: int, value: float) -> int:
    """A float32 of a plain size, to seven significant digits; halves go to the even digit."""
    bits = np.float32(value).view(np.int32)
    if bits < 0:
        at = write_letter(out, at, _MINUS)
    magnitude = np.int64(bits & 0x7FFFFFFF)
    if magnitude == 0:
        return write_decimal(out, at, 0, 1)
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
        at = write_whole_number(out, at, digits)
        at = _digits(out, at, 0, -scale)
        at = write_letter(out, at, _POINT)
        return write_letter(out, at, _ZERO)
    return write_decimal(out, at, digits, scale)


@kernel
def is_plain(value: float) -> bool:
    size = abs(value)
    return size == 0.0 or (_MIN_PLAIN <= size < _MAX_PLAIN * (1 - 1e-7))
