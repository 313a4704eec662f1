"""CSV files: their lines, header and rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agents.replay.tables.description import Table
from agents.replay.tables.files.contents import open_content, read_head
from agents.replay.tables.files.encodings import encoding_of, encoding_with, undecodable
from agents.replay.tables.files.rows import Row, find_columns, normalized
from agents.replay.tables.problems import CellError, Place
from pipeline.errors import DataError

_DELIMITERS = (",", ";", "\t", "|")
_MAX_LINE = 1 << 20
"""Characters; a longer line is no line of a table, and is not read into memory."""


class _Lines:
    """The lines of a file, counted, without NUL bytes, which damaged files have."""

    def __init__(self, file: io.TextIOWrapper, path: Path) -> None:
        self._file, self._path = file, path
        self.encoding = file.encoding
        self.number = 0
        self.damaged: set[int] = set()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(_MAX_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == _MAX_LINE:
            raise DataError(
                f"{self._path}, line {self.number} has more than {_MAX_LINE:,} characters; is this a table?"
            )
        if "\0" in line:
            self.damaged.add(self.number)
            return line.replace("\0", "")
        return line


def read_csv(path: Path, table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    """The rows of a file with the wanted columns; raises DataError with the line."""
    encoding = encoding_of(path, table.encoding)
    try:
        with io.TextIOWrapper(open_content(path), encoding=encoding, newline="") as file:
            yield from _rows(_Lines(file, path), path, table, wanted)
    except UnicodeError:
        raise undecodable(path, encoding, wanted) from None


def _rows(lines: _Lines, path: Path, table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    delimiter = table.delimiter
    for _ in range(table.skip_rows):
        next(lines, None)
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        raise DataError(f"{path} has no row")
    if lines.number == 1 and first.lower().startswith("sep=") and len(first.rstrip("\r\n")) == 5:  # Excel writes it
        delimiter, first = delimiter or first[4], next((line for line in lines if line.strip()), "")
    delimiter = delimiter or _detected(first, table, wanted)
    before = lines.number - 1
    reader = _reader(_chained(first, lines), delimiter, table, strict=True)
    start = before + 1
    try:
        header = next(reader) if table.columns is None else table.columns
        _skip(reader, table.skip_rows_after_header)
        at = find_columns(path, header, wanted, lambda: _advice(path, table, lines.encoding, first, wanted))
        width = max((number for number, name in enumerate(header, 1) if name.strip()), default=0)
        start = before + reader.line_num + 1
        for cells in reader:
            row, start = start, before + reader.line_num + 1
            damaged = bool(lines.damaged) and not lines.damaged.isdisjoint(range(row, start))
            if damaged or any(cell.strip() for cell in cells):
                yield _row(Place(path, "line", row), cells, wanted, at, width, damaged)
    except csv.Error as error:
        advice = (
            f"; a quote ({table.quote}) may not be closed, or is part of a text: set quote: '' if cells are not quoted"
            if table.quote
            else ""
        )
        raise DataError(f"{path}, line {start}: {error}{advice}") from None


def _row(place: Place, cells: list[str], wanted: Sequence[str], at: list[int], width: int, damaged: bool) -> Row:
    problem = None
    if damaged:
        problem = CellError("NUL bytes", "the line holds NUL bytes, so the file is damaged there")
    elif len(cells) < width:
        problem = CellError("too few cells", f"the row has {len(cells)} of {width} cells; is the file cut off?")
    elif any(cell.strip() for cell in cells[width:]):
        problem = CellError(
            "too many cells",
            f"the row has {len(cells)} cells for {width} columns; a delimiter in a cell needs quotes around the cell",
        )
    found: dict[str, Any] = {} if problem else {name: cells[place] for name, place in zip(wanted, at, strict=True)}
    return Row(place, found, problem)


def _chained(first: str, lines: _Lines) -> Iterator[str]:
    yield first
    yield from lines


def _skip(reader: Iterator[list[str]], rows: int) -> None:
    while rows and (cells := next(reader, None)) is not None:
        rows -= bool(cells)


def _reader(lines: Iterable[str], delimiter: str, table: Table, *, strict: bool) -> Any:
    return csv.reader(
        lines,
        delimiter=delimiter,
        quotechar=table.quote or None,
        quoting=csv.QUOTE_MINIMAL if table.quote else csv.QUOTE_NONE,
        skipinitialspace=True,
        strict=strict,
    )


def _split(line: str, delimiter: str, table: Table) -> list[str]:
    try:
        return list(next(_reader([line], delimiter, table, strict=False), []))
    except csv.Error:
        return []


def _has_columns(line: str, delimiter: str, table: Table, wanted: Sequence[str]) -> bool:
    return set(map(normalized, wanted)) <= set(map(normalized, _split(line, delimiter, table)))


def _detected(line: str, table: Table, wanted: Sequence[str]) -> str:
    """The first delimiter with which the header has the wanted columns, else the one that makes the most columns."""
    if table.columns is not None:
        width = len(table.columns)
        return next((mark for mark in _DELIMITERS if len(_split(line, mark, table)) == width), ",")
    for mark in _DELIMITERS:
        if _has_columns(line, mark, table, wanted):
            return mark
    return max(_DELIMITERS, key=lambda mark: len(_split(line, mark, table)))


def _advice(path: Path, table: Table, encoding: str, line: str, wanted: Sequence[str]) -> str:
    """What to try where the header lacks wanted columns."""
    if all(name in line for name in wanted):
        other = _detected(line, table, wanted)
        if other != table.delimiter and _has_columns(line, other, table, wanted):
            return f"it has them with delimiter: {other!r}"
        return ""
    if table.columns is None:
        for number, other_line in enumerate(read_head(path).decode(encoding, "ignore").split("\n")):
            if any(_has_columns(other_line, mark, table, wanted) for mark in _DELIMITERS):
                return f"line {number + 1} has them: set skip_rows: {number}"
    other_encoding = encoding_with(path, wanted)
    if other_encoding is None or encoding.startswith(other_encoding):
        return ""
    return f"it has them with encoding: {other_encoding}"
