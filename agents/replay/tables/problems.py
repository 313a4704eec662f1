"""What in tables could not be used: errors that name the cell, and counts where the description allows to go on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

_SHOWN_CHARACTERS = 40


class CellError(DataError):
    """A cell that cannot be used: the reason in a few words, and after the cell's content what is wrong, what to do."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.column = ""
        """Empty where a whole row is wrong."""
        self.cell: Any = None

    def of(self, column: str, cell: Any) -> CellError:
        """This error, as that of a column's cell."""
        self.column, self.cell = column, cell
        return self

    def located(self, place: Place) -> DataError:
        """The error with file, row, column and content."""
        where = f"{place}, column {self.column}: {shown(self.cell)}" if self.column else f"{place}:"
        return DataError(f"{where} {self}")


class Place:
    """A row of a file, as an editor or a spreadsheet counts it."""

    __slots__ = ("_path", "_row", "_word")

    def __init__(self, path: Path, word: str, row: int) -> None:
        """`word` is "line" or "row"."""
        self._path, self._word, self._row = path, word, row

    def __str__(self) -> str:
        return f"{self._path}, {self._word} {self._row}"


@dataclass(slots=True)
class _Tally:
    first: str
    count: int = 0


class Unused:
    """Counts what was not used, by column and reason, with the first case of each."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str], _Tally] = {}
        self._rows: dict[tuple[str, str], _Tally] = {}

    def add_cell(self, place: Place, error: CellError) -> None:
        """A cell was taken as unknown."""
        self._add(self._cells, place, error)

    def add_row(self, place: Place, error: CellError) -> None:
        """A row was skipped."""
        self._add(self._rows, place, error)

    @staticmethod
    def _add(tallies: dict[tuple[str, str], _Tally], place: Place, error: CellError) -> None:
        tally = tallies.get((error.column, error.reason))
        if tally is None:
            first = f"{shown(error.cell)} in {place}" if error.column else str(place)
            tally = tallies[error.column, error.reason] = _Tally(first)
        tally.count += 1

    def lines(self) -> Iterator[str]:
        """A sentence for each column and reason."""
        for (column, reason), tally in self._cells.items():
            yield f"values taken as unknown: {tally.count:,} of column {column} ({reason}), first {tally.first}"
        for (column, reason), tally in self._rows.items():
            where = f"column {column} {reason}" if column else reason
            yield f"rows skipped: {tally.count:,} ({where}), first {tally.first}"


def shown(cell: Any) -> str:
    """A cell's content as errors have it."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return "the empty cell"
    text = repr(cell) if isinstance(cell, str | bytes) else str(cell)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
