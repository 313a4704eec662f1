"""Reads readings of the usual form from their JSON in compiled code, many at once; others are left to msgspec.

The usual form is an object of the machine's id, an integer time and a list of numbers and nulls. What is taken here is
taken as msgspec takes it, bit for bit; so a number whose nearest float64 is not certain at once is left as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np

from pipeline.arrays import Bools, Ints, Matrix
from pipeline.compiled import CompiledFunction, kernel
from pipeline.wire.json import memory
from pipeline.wire.json.memory import address_of, ends_of, load_byte, load_word

_SPACE, _TAB, _LINE_FEED, _RETURN = b" \t\n\r"
_QUOTE, _COMMA, _COLON, _OBJECT, _END_OBJECT, _LIST, _END_LIST = b'",:{}[]'
_MINUS, _PLUS, _POINT, _ZERO, _EXPONENT = b"-+.0e"
NOT_PLAIN: Final = -1

# The first eight bytes of words, as `load_word` has them.
_MACHINE, _TIME, _VALUES, _NULL = (
    np.uint64(int.from_bytes(word, "little")) for word in (b'"machine', b'"time"', b'"values"', b"null")
)
_TIME_BYTES, _NULL_BYTES = np.uint64(2**48 - 1), np.uint64(2**32 - 1)

_NONE, _ONE, _THREE, _SEVEN, _EIGHT, _SIXTEEN, _HALF, _LAST_BYTE = map(np.uint64, (0, 1, 3, 7, 8, 16, 32, 56))
_ZEROS: Final = np.uint64(0x3030303030303030)
_TO_HIGH_BIT: Final = np.uint64(0x7676767676767676)
"""Added to bytes from 0 to 0x7f it sets the highest bit of those that are more than 9."""
_HIGH_BITS: Final = np.uint64(0x8080808080808080)
_PLACES: Final = np.uint64(0x0001020304050607)
"""Times the lowest bit of a byte it has the number of that byte in its own highest byte."""
_JOIN_DIGITS, _JOIN_PAIRS, _JOIN_FOURS = (np.uint64(n * 2**bits + 1) for n, bits in ((10, 8), (100, 16), (10_000, 32)))
_PAIRS: Final = np.uint64(0x00FF00FF00FF00FF)
_FOURS: Final = np.uint64(0x0000FFFF0000FFFF)
_SHIFTS: Final = np.array([10**n for n in range(9)], np.uint64)

_signed: Any = np.int64
"""To 64 bits with a sign, which in compiled code are what Python calls an int."""

_PADDING: Final = b" " * 16
"""Behind the last text: eight bytes are read at a time."""
_MAX_DIGITS: Final = 18
"""Numbers of so many digits fit into 64 bits with a sign."""
_EXACT: Final = 2**53
"""Whole numbers up to here are float64 exactly."""
_POWERS: Final = np.array([float(10**n) for n in range(23)])
"""The powers of ten that are float64 exactly."""
_SPLITTER: Final = float(2**27 + 1)
_DOUBT: Final = 2.0**-93
"""What is half a unit in the last place (2^-53) from a float64, give or take so much, has no certain nearest one."""


def read_readings(
    function: Any, texts: Sequence[bytes], names: Sequence[bytes], length: int
) -> tuple[Ints, Matrix, Bools]:
    """Times (n,) and values (n, length) of readings, NaN for null, and which of them were of the usual form (n,).

    `names` are the machines' as they are written between quotes; a reading of another machine is not usual.
    """
    count = len(texts)
    times, values, plain = np.empty(count, np.int64), np.empty((count, length)), np.empty(count, np.bool_)
    text, name = _joined(texts), _joined(names)
    function(address_of(text), ends_of(texts), address_of(name), ends_of(names), times, values, plain)
    return times, values, plain


def _joined(texts: Sequence[bytes]) -> bytes:
    return b"".join([*texts, _PADDING])


@kernel
def _skip(at: int, end: int) -> int:
    """The next place that is not blank."""
    while at < end:
        letter = load_byte(at)
        if letter not in (_SPACE, _RETURN) and not _TAB <= letter <= _LINE_FEED:
            break
        at += 1
    return at


@kernel
def _after(at: int, end: int, letter: int) -> int:
    """The place behind this letter and the blanks around it, or NOT_PLAIN."""
    at = _skip(at, end)
    if at >= end or load_byte(at) != letter:
        return NOT_PLAIN
    return _skip(at + 1, end)


@kernel
def _digits_at(at: int) -> tuple[np.uint64, np.uint64]:
    """How many of the next eight bytes are digits up to the first that is none, and the number that these make."""
    word = load_word(at) ^ _ZEROS  # digits are now 0 to 9
    others = ((word + _TO_HIGH_BIT) | word) & _HIGH_BITS  # right up to the first byte that is no digit
    first = (others & (~others + _ONE)) >> _SEVEN
    count = _EIGHT if others == _NONE else (first * _PLACES) >> _LAST_BYTE
    # The digits go to the word's end, zeros come before them. Then neighbours are joined: 8 digits, 4 pairs, 2 fours.
    word = _NONE if count == _NONE else word << (_EIGHT * (_EIGHT - count))
    word = (word * _JOIN_DIGITS) >> _EIGHT & _PAIRS
    word = (word * _JOIN_PAIRS) >> _SIXTEEN & _FOURS
    return count, (word * _JOIN_FOURS) >> _HALF


@kernel
def _quotient(digits: int, power: float) -> float:
    """digits / power to the nearest float64, of digits beyond 2^53; NaN if it is too close between two."""
    high = np.float64(digits)
    low = np.float64(digits - _signed(high))
    quotient = high / power
    # The remainder by the exact product (Dekker 1971), with which the quotient gets twice as many digits.
    product = quotient * power
    split: float = _SPLITTER * quotient
    a = split - (split - quotient)
    split = _SPLITTER * power
    b = split - (split - power)
    rounding = ((a * b - product) + a * (power - b) + (quotient - a) * b) + (quotient - a) * (power - b)
    correction = (((high - product) - rounding) + low) / power
    nearest = quotient + correction
    rest = abs(correction - (nearest - quotient))
    power_of_2 = _signed((np.float64(nearest).view(np.int64) >> 52) << 52).view(np.float64)
    is_doubtful = rest > power_of_2 * (2.0**-53 - _DOUBT) or nearest == power_of_2
    return np.nan if is_doubtful else nearest


@kernel
def _decimal(digits: int, exponent: int) -> float:
    """digits * 10^exponent to the nearest float64; NaN if that is not certain."""
    if exponent < -22 or exponent > 22:
        return 0.0 if digits == 0 else np.nan
    if digits <= _EXACT:
        exact: float = digits / _POWERS[-exponent] if exponent <= 0 else digits * _POWERS[exponent]
        return exact
    quotient: float = _quotient(digits, _POWERS[-exponent]) if exponent <= 0 else np.nan
    return quotient


@kernel
def _read_exponent(at: int) -> tuple[int, int]:
    """An exponent of up to three digits, and the place behind it or NOT_PLAIN."""
    letter = load_byte(at)
    sign = -1 if letter == _MINUS else 1
    if letter in (_MINUS, _PLUS):
        at += 1
    count, digits = _digits_at(at)
    if count == _NONE or count > _THREE:
        return 0, NOT_PLAIN
    return sign * _signed(digits), at + _signed(count)


@kernel
def read_number(at: int) -> tuple[float, int]:
    """A number, and the place behind it or NOT_PLAIN."""
    is_negative = _signed(load_byte(at) == _MINUS)
    begin = at + is_negative
    place, whole, more = begin, _NONE, _EIGHT
    while more == _EIGHT:
        more, next_ = _digits_at(place)
        whole = whole * _SHIFTS[more] + next_
        place += _signed(more)
    count = place - begin
    if count == 0 or (count > 1 and load_byte(begin) == _ZERO):
        return 0.0, NOT_PLAIN
    exponent = 0
    if load_byte(place) == _POINT:
        point = place = place + 1
        more = _EIGHT
        while more == _EIGHT:
            more, next_ = _digits_at(place)
            whole = whole * _SHIFTS[more] + next_
            place += _signed(more)
        exponent = point - place
        count -= exponent
        if exponent == 0:
            return 0.0, NOT_PLAIN
    elif is_negative == 1 and whole == _NONE:
        return 0.0, NOT_PLAIN
    if count > _MAX_DIGITS:
        at = begin
        while load_byte(at) == _ZERO or load_byte(at) == _POINT:
            at += 1
        if count - (at - begin) >= _MAX_DIGITS:  # zeros in front do not count; the point is not counted
            return 0.0, NOT_PLAIN
    at = place
    if load_byte(at) | 32 == _EXPONENT:
        shift, at = _read_exponent(at + 1)
        exponent += shift
    number = _decimal(_signed(whole), exponent)
    if at == NOT_PLAIN or np.isnan(number):
        return 0.0, NOT_PLAIN
    return number * (1 - 2 * is_negative), at


@kernel
def _read_values(at: int, end: int, row: Matrix) -> int:
    """Read a list of as many numbers or nulls as the row is long; the place behind it, or NOT_PLAIN."""
    at = _after(at, end, _LIST)
    if at == NOT_PLAIN:
        return NOT_PLAIN
    for column in range(len(row)):
        if column > 0:
            if at < end and load_byte(at) == _COMMA:
                at += 1
                if at < end and load_byte(at) <= _SPACE:
                    at = _skip(at, end)
            else:
                at = _after(at, end, _COMMA)
                if at == NOT_PLAIN:
                    return NOT_PLAIN
        if load_word(at) & _NULL_BYTES == _NULL:
            row[column] = np.nan
            at += 4
            continue
        number, at = read_number(at)
        if at == NOT_PLAIN:
            return NOT_PLAIN
        row[column] = number
    return _after(at, end, _END_LIST)


@kernel
def read_whole(at: int) -> tuple[int, int]:
    """A whole number, and the place behind it or NOT_PLAIN."""
    time, begin, more = _NONE, at, _EIGHT
    while more == _EIGHT:
        more, next_ = _digits_at(at)
        time = time * _SHIFTS[more] + next_
        at += _signed(more)
    if at == begin or at - begin > _MAX_DIGITS or (at - begin > 1 and load_byte(begin) == _ZERO):
        return 0, NOT_PLAIN
    return _signed(time), at


@kernel
def _read_name(at: int, name: int, size: int) -> int:
    """The place behind this name between quotes."""
    if load_byte(at) != _QUOTE or load_byte(at + size + 1) != _QUOTE:
        return NOT_PLAIN
    for place in range(size):
        if load_byte(at + 1 + place) != load_byte(name + place):
            return NOT_PLAIN
    return at + size + 2


@kernel
def _read_key(at: int, end: int) -> tuple[int, int]:
    """Which member of a reading begins here (1, 2, 4; 0 for none), and the place of its value."""
    word = load_word(at)
    key, size = 0, 0
    if word == _MACHINE and load_byte(at + 8) == _QUOTE:
        key, size = 1, 9
    elif word & _TIME_BYTES == _TIME:
        key, size = 2, 6
    elif word == _VALUES:
        key, size = 4, 8
    return key, _after(at + size, end, _COLON)


def read_all(text: int, ends: Ints, names: int, name_ends: Ints, times: Ints, values: Matrix, plain: Bools) -> None:
    for r in range(len(times)):
        end, name, size = text + ends[r + 1], names + name_ends[r], name_ends[r + 1] - name_ends[r]
        at = _after(text + ends[r], end, _OBJECT)
        keys = 0
        plain[r] = False
        while at != NOT_PLAIN:
            key, at = _read_key(at, end)
            if key == 0 or at == NOT_PLAIN or keys & key != 0:
                break
            keys |= key
            if key == 1:
                at = _read_name(at, name, size) if at + size + 2 < end else NOT_PLAIN
            elif key == 2:
                times[r], at = read_whole(at)
            else:
                at = _read_values(at, end, values[r])
            if at == NOT_PLAIN:
                break
            at = _skip(at, end)
            if at < end and load_byte(at) == _END_OBJECT:
                plain[r] = keys == 7 and _skip(at + 1, end) == end
                break
            at = _after(at, end, _COMMA)


_address_type, _ints = numba.int64, numba.types.Array(numba.int64, 1, "C")
READ_ALL: Final = CompiledFunction(
    read_all,
    numba.void(
        *(_address_type, _ints, _address_type, _ints, _ints),
        *(numba.types.Array(numba.float64, 2, "C"), numba.types.Array(numba.boolean, 1, "C")),
    ),
    [Path(__file__), Path(memory.__file__)],
    what="the reader of readings",
)
