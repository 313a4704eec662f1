"""Templates: texts with `{column}` in them, filled from a row."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Mapping
from typing import Any

from agents.replay.tables.problems import CellError

OF_PATH = ("file", "folder")
"""Names that templates may use beside columns: the file's name without its ending, and its folder."""


class Template:
    """`{column}` is a row's cell; `{id:03d}` formats it, as Python does."""

    def __init__(self, text: str) -> None:
        """Raises ValueError if braces do not match, or name no column."""
        self.text = text
        self._parts = list(string.Formatter().parse(text))
        for _, name, spec, _ in self._parts:
            if name is not None and (not name or "{" in (spec or "")):
                raise ValueError(f"template {text!r}: braces hold the name of a column; write a brace itself twice")
        self.names = list(dict.fromkeys(name for _, name, _, _ in self._parts if name))

    @property
    def columns(self) -> list[str]:
        """The columns that it needs."""
        return [name for name in self.names if name not in OF_PATH]

    def is_filled(self, cells: Mapping[str, Any]) -> bool:
        """Whether all its cells have content."""
        return all(_has_content(cells[name]) for name in self.names)

    def is_empty(self, cells: Mapping[str, Any]) -> bool:
        """Whether it has cells, and none of them has content."""
        return bool(self.names) and not any(_has_content(cells[name]) for name in self.names)

    def fill(self, cells: Mapping[str, Any]) -> str:
        """The text for a row; an empty cell gives nothing. Raises CellError if a format does not suit its cell."""
        return "".join(
            literal if name is None else literal + self._formatted(name, cells[name], spec or "", conversion)
            for literal, name, spec, conversion in self._parts
        )

    def _formatted(self, name: str, cell: Any, spec: str, conversion: str | None) -> str:
        if not _has_content(cell):
            return ""
        content = cell
        if isinstance(cell, bytes):
            cell = cell.decode("utf-8", "replace")
        if isinstance(cell, str):
            cell = cell.strip()
        if conversion is not None:
            cell = repr(cell) if conversion == "r" else ascii(cell) if conversion == "a" else str(cell)
        elif spec and isinstance(cell, str):
            cell = _number(cell)
        try:
            return format(cell, spec)
        except (ValueError, TypeError, OverflowError):
            error = CellError("does not fit its template", f"does not fit the format {spec!r} of {self.text!r}")
            raise error.of(name, content) from None


def _has_content(cell: Any) -> bool:
    return cell is not None and (not isinstance(cell, str) or bool(cell.strip()))


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text
