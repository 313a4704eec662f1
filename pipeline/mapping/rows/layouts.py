"""Layouts of JSON: what stays the same from record to record, and in between the scalars, read in compiled code.

A producer writes the same names in the same order again and again. A record that has a known layout is that layout's
JSON with other scalars, so it is valid; any other is left to others, and so is a scalar that needs a closer look.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numba
import numpy as np

from pipeline.arrays import Bools, Ints, Matrix
from pipeline.compiled import CompiledFunction, kernel
from pipeline.wire import reading_json
from pipeline.wire.json import memory
from pipeline.wire.json.memory import address_of, ends_of, load_byte, load_word
from pipeline.wire.reading_json import NOT_PLAIN, read_number, read_whole

SKIPPED: Final = -1
MACHINE: Final = -2
TIME: Final = -3
_WHOLE_MACHINE: Final = -4
_WHOLE_TIME: Final = -5
"""Kinds of scalars; values are the numbers of their columns. A machine or time is a text unless it is whole."""

_QUOTE, _BACKSLASH, _SPACE, _DELETE = b'"\\ \x7f'
_NULL, _TRUE, _FALSE = (np.uint64(int.from_bytes(word, "little")) for word in (b"null", b"true", b"fals"))
_FOUR_BYTES: Final = np.uint64(2**32 - 1)
_LETTER_E: Final = ord("e")
_PADDING: Final = b" " * 16
_TOKEN: Final = re.compile(rb'[ \t\r\n]*(?:([{}\[\],:])|("(?:[^"\\]|\\.)*"|[^ \t\r\n{}\[\],:"]+))', re.DOTALL)
_WHOLE: Final = re.compile(rb"0|[1-9][0-9]{0,17}")

Steps = tuple[str | int, ...]
"""Names and indexes from the body down to a scalar."""


class LayoutRows(NamedTuple):
    """What was read of some texts; of those that do not fit nothing is meant."""

    fits: Bools  # (n,)
    values: Matrix  # (n, V)
    machines: list[bytes] | None
    """As they are in the texts, those of texts without their quotes; None if no machine stands there."""
    times: list[int] | list[bytes] | None
    """As the machines; whole numbers as such."""


class Layout:
    """The layout of one record, by which others are read."""

    def __init__(self, text: bytes, kind_of: Callable[[Steps], int], width: int) -> None:
        """`kind_of` gives the kind of the scalar at a path; raises ValueError if such records are not to be read so."""
        kinds: list[int] = []
        literals: list[bytes] = []
        begin = 0
        seen: set[Steps] = set()
        for path, start, end in _scalars(text):
            if path in seen:
                raise ValueError("a name stands there twice")
            seen.add(path)
            kind = kind_of(path)
            is_whole = _WHOLE.fullmatch(text[start:end]) is not None
            if kind in (MACHINE, TIME) and not is_whole and text[start] != _QUOTE:
                raise ValueError("a machine or time that is neither a text nor a whole number")
            if is_whole and kind in (MACHINE, TIME):
                kind = _WHOLE_MACHINE if kind == MACHINE else _WHOLE_TIME
            kinds.append(kind)
            literals.append(text[begin:start])
            begin = end
        literals.append(text[begin:])
        self._width = width
        self._kinds = np.array(kinds, np.int64)
        self._literals = b"".join([*literals, _PADDING])
        self._literal_ends = ends_of(literals)

    def read(self, function: Any, texts: Sequence[bytes]) -> LayoutRows:
        """Read texts by this layout; `function` is the compiled READ_BY_LAYOUT."""
        count = len(texts)
        values, spans = np.full((count, self._width), np.nan), np.zeros((count, 4), np.int64)
        fits = np.empty(count, np.bool_)
        text, ends = b"".join([*texts, _PADDING]), ends_of(texts)
        literals = address_of(self._literals)
        function(address_of(text), ends, literals, self._literal_ends, self._kinds, values, spans, fits)
        kinds = set(self._kinds.tolist())
        machines = _slices(text, spans[:, :2]) if kinds & {MACHINE, _WHOLE_MACHINE} else None
        times: Any = None
        if _WHOLE_TIME in kinds:
            times = spans[:, 2].tolist()
        elif TIME in kinds:
            times = _slices(text, spans[:, 2:])
        return LayoutRows(fits, values, machines, times)


def _slices(text: bytes, spans: Ints) -> list[bytes]:
    return [text[begin:end] for begin, end in spans.tolist()]


def _scalars(text: bytes) -> Iterator[tuple[Steps, int, int]]:
    """Path, begin and end of each scalar of a valid JSON text, in their order."""
    path: list[str | int] = []
    is_name = False
    for token in _TOKEN.finditer(text):
        sign = token[1]
        if sign == b"{":
            path.append("")
            is_name = True
        elif sign == b"[":
            path.append(0)
            is_name = False
        elif sign in (b"}", b"]"):
            path.pop()
        elif sign == b",":
            last = path[-1]
            is_name = isinstance(last, str)
            path[-1] = last if isinstance(last, str) else last + 1
        elif sign == b":":
            is_name = False
        elif is_name:
            path[-1] = json.loads(token[2])
        else:
            yield tuple(path), *token.span(2)


@kernel
def _behind(at: int, end: int, literal: int, size: int) -> int:
    """The place behind a literal, or NOT_PLAIN if something else stands there."""
    if at + size > end:
        return NOT_PLAIN
    place = 0
    while place + 8 <= size:
        if load_word(at + place) != load_word(literal + place):
            return NOT_PLAIN
        place += 8
    while place < size:
        if load_byte(at + place) != load_byte(literal + place):
            return NOT_PLAIN
        place += 1
    return at + size


@kernel
def _behind_text(at: int, end: int, is_ascii: bool) -> int:
    """The place behind a text without escapes, or NOT_PLAIN."""
    if load_byte(at) != _QUOTE:
        return NOT_PLAIN
    at += 1
    while at < end:
        letter = load_byte(at)
        if letter == _QUOTE:
            return at + 1
        if letter == _BACKSLASH or letter < _SPACE or (is_ascii and letter > _DELETE):
            return NOT_PLAIN
        at += 1
    return NOT_PLAIN


@kernel
def _behind_scalar(at: int, end: int) -> int:
    """The place behind any scalar, or NOT_PLAIN."""
    if load_byte(at) == _QUOTE:
        return _behind_text(at, end, True)
    word = load_word(at) & _FOUR_BYTES
    if word in (_NULL, _TRUE):
        return at + 4
    if word == _FALSE:
        return at + 5 if load_byte(at + 4) == _LETTER_E else NOT_PLAIN
    _, at = read_number(at)
    return at


@kernel
def _read_value(at: int) -> tuple[float, int]:
    """A number, NaN for null, and the place behind it or NOT_PLAIN."""
    if load_word(at) & _FOUR_BYTES == _NULL:
        return np.nan, at + 4
    return read_number(at)


def read_by_layout(
    text: int, ends: Ints, literals: int, literal_ends: Ints, kinds: Ints, values: Matrix, spans: Ints, fits: Bools
) -> None:
    last = len(kinds)
    for r in range(len(fits)):
        at, end = text + ends[r], text + ends[r + 1]
        for h in range(last):
            at = _behind(at, end, literals + literal_ends[h], literal_ends[h + 1] - literal_ends[h])
            if at == NOT_PLAIN:
                break
            # Arrays are not handed to other functions here: that costs more than all else.
            kind, begin = kinds[h], at - text
            if kind >= 0:
                number, at = _read_value(at)
                values[r, kind] = number
            elif kind == SKIPPED:
                at = _behind_scalar(at, end)
            elif kind in (MACHINE, TIME):
                at = _behind_text(at, end, False)
                column = 0 if kind == MACHINE else 2
                spans[r, column], spans[r, column + 1] = begin + 1, at - text - 1
            elif kind == _WHOLE_TIME:
                spans[r, 2], at = read_whole(at)
            else:
                _, at = read_whole(at)
                spans[r, 0], spans[r, 1] = begin, at - text
            if at == NOT_PLAIN or at > end:
                at = NOT_PLAIN
                break
        if at != NOT_PLAIN:
            at = _behind(at, end, literals + literal_ends[last], literal_ends[last + 1] - literal_ends[last])
        fits[r] = at == end


_address_type, _ints = numba.int64, numba.types.Array(numba.int64, 1, "C")
READ_BY_LAYOUT: Final = CompiledFunction(
    read_by_layout,
    numba.void(
        *(_address_type, _ints, _address_type, _ints, _ints),
        *(numba.types.Array(numba.float64, 2, "C"), numba.types.Array(numba.int64, 2, "C")),
        numba.types.Array(numba.boolean, 1, "C"),
    ),
    [Path(__file__), Path(reading_json.__file__), Path(memory.__file__)],
    what="the reader of foreign readings",
)
