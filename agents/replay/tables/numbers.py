"""Numbers in cells: decimal comma, separated thousands, and what stands for "no value"."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from agents.replay.tables.problems import CellError

NULL_MARKERS = (
    "#N/A", "#N/A N/A", "#NA", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "nan", "-nan", "nan(ind)", "-nan(ind)",
    "N/A", "NA", "NULL",
)  # fmt: skip
"""Texts that stand for "no value" in every table, in small or large letters; so does an empty cell."""

_LARGEST = 3.4028235677973366e38
"""From here on a value is infinite as a 32-bit float, which is what models calculate with."""

_SPACES = dict.fromkeys(map(ord, "\u00a0\u2007\u2009\u202f"), " ") | {ord("’"): "'", ord("−"): "-"}
_OTHER_FORMS = ((".", None), (",", None), (",", "."), (",", " "), (".", ","), (".", " "), (".", "'"))


class Numbers:
    """Reads the cells of a table as numbers."""

    def __init__(self, decimal: str, thousands: str | None, null_markers: Iterable[str | float]) -> None:
        markers = [*NULL_MARKERS, *null_markers]
        self._plain = decimal == "." and thousands is None
        self._decimal, self._thousands = decimal, thousands
        self._null_texts = {str(marker).strip().casefold() for marker in markers}
        self._null_numbers: set[float] = set()
        for marker in markers:
            number = marker if not isinstance(marker, str) else _parsed(marker, decimal, thousands)
            if number is not None and not math.isnan(number):
                self._null_numbers.add(float(number))

    def is_null(self, text: str) -> bool:
        """Whether a text stands for "no value"."""
        text = text.strip()
        return not text or text.casefold() in self._null_texts

    def value(self, cell: Any) -> float | None:
        """The cell's number, None if it has none; raises CellError if it holds something else."""
        if cell is None:
            return None
        number = self._from_text(cell) if isinstance(cell, str) else self._from_number(cell)
        if number is None or math.isnan(number) or number in self._null_numbers:
            return None
        if not -_LARGEST < number < _LARGEST:
            raise CellError("not finite", f"is infinite as a 32-bit float; {_ADVICE}")
        return number

    def normalized(self, text: str) -> str:
        """A number's text with a decimal point and no thousands separators, for readers that need it exact."""
        return text if self._plain else _with_point(text, self._decimal, self._thousands) or text

    def _from_number(self, cell: Any) -> float:
        if isinstance(cell, int | float | Decimal) and not isinstance(cell, bool):
            try:
                return float(cell)
            except OverflowError:
                return math.inf
        raise CellError("not a number", f"({type(cell).__name__}) is not a number; {_ADVICE}")

    def _from_text(self, cell: str) -> float | None:
        if self._plain:
            try:
                number = float(cell)
            except ValueError:
                pass
            else:
                if "_" not in cell:
                    return number
        if self.is_null(cell):
            return None
        parsed = _parsed(cell, self._decimal, self._thousands)
        if parsed is None:
            raise _not_a_number(cell)
        return parsed


def _not_a_number(cell: str) -> CellError:
    """The error of a text, which may be a number in another form than that of its table."""
    forms = {
        f"decimal: {decimal!r}" + (f" and thousands: {thousands!r}" if thousands else ""): number
        for decimal, thousands in _OTHER_FORMS
        if (thousands is None or thousands in cell.translate(_SPACES).strip())
        and (number := _parsed(cell, decimal, thousands)) is not None
    }
    if not forms:
        return CellError("not a number", f"is not a number; {_ADVICE}")
    shown = ", or ".join(f"{number:.10g} with {form}" for form, number in forms.items())
    return CellError(f"a number with {next(iter(forms))}", f"is not a number; it would be {shown}")


_ADVICE = "add it to null_markers if it means that there is no value, or set bad_values: unknown"


def _parsed(text: str, decimal: str, thousands: str | None) -> float | None:
    point = _with_point(text, decimal, thousands)
    if point is None:
        return None
    try:
        return float(point)
    except ValueError:
        return None


def _with_point(text: str, decimal: str, thousands: str | None) -> str | None:
    """The number with a decimal point and without separators; None if the text does not follow these rules."""
    text = text.translate(_SPACES).strip()
    if "_" in text:  # for Python a separator
        return None
    if thousands is not None:
        whole, mark, fraction = text.partition(decimal)
        if thousands in fraction:
            return None
        first, *groups = whole.split(thousands)
        if groups:
            *inner, last = groups
            digits = [first.lstrip("+-"), *groups]
            if len(last) != 3 or not all(len(group) in (2, 3) for group in inner):
                return None
            if not 1 <= len(digits[0]) <= 3 or not all(group.isdigit() for group in digits):
                return None
        text = first + "".join(groups) + mark + fraction
    if decimal == ".":
        return text
    return None if "." in text else text.replace(decimal, ".")
