"""Excel files (.xlsx): the rows of a sheet."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from agents.replay.tables.description import Table
from agents.replay.tables.files.rows import Row, find_columns
from agents.replay.tables.problems import CellError, Place
from pipeline.errors import DataError
from pipeline.extras import require_modules

_MAX_ROWS = 1_048_576
_MAX_BYTES = 4 << 30
"""Of an unpacked file; larger ones than Excel writes are made to exhaust the memory."""


def read_excel(path: Path, table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    """The rows of a file's sheet with the wanted columns; raises DataError."""
    require_modules(f"reading {path}", "openpyxl")
    _check(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions, which hold no values
            yield from _rows(path, table, wanted)
    except (DataError, OSError):
        raise
    except Exception as error:  # whatever a broken workbook makes the library stumble over
        what = f"{type(error).__name__} {' '.join(str(error).split())[:120]}"
        raise DataError(f"{path} cannot be read as an Excel file: {what}") from error


def _check(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as an Excel file: {error}; it may be cut off") from error
    if not any(entry.filename.lower().startswith("xl/") for entry in entries):
        raise DataError(f"{path} is a zip archive and no Excel file (.xlsx); unpack it")
    if sum(entry.file_size for entry in entries) > _MAX_BYTES:
        raise DataError(f"{path} has more than {_MAX_BYTES >> 30} GiB when unpacked; export the table as CSV")


def _rows(path: Path, table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    import openpyxl

    with path.open("rb") as file, closing(openpyxl.load_workbook(file, read_only=True, data_only=True)) as workbook:
        sheet = _sheet(path, workbook, table.sheet)
        sheet.reset_dimensions()  # programs write wrong ones, and cells beyond them would be left out
        rows = enumerate(sheet.iter_rows(values_only=True), start=1)
        yield from _of_sheet(path, rows, table, wanted)


def _sheet(path: Path, workbook: Any, name: str | None) -> Any:
    names = [sheet.title for sheet in workbook.worksheets]
    if name is None and len(names) == 1:
        return workbook.worksheets[0]
    if name in names:
        return workbook.worksheets[names.index(name)]
    lacks = f"has no sheet {name!r}" if name is not None else "has several sheets"
    raise DataError(f"{path} {lacks}; set sheet to one of {', '.join(map(repr, names))}")


def _of_sheet(
    path: Path, rows: Iterator[tuple[int, tuple[Any, ...]]], table: Table, wanted: Sequence[str]
) -> Iterator[Row]:
    header: Sequence[str] | None = table.columns
    skipped_before, skipped_after = table.skip_rows, table.skip_rows_after_header
    at: list[int] | None = None
    width = 0
    for number, cells in rows:
        if number > _MAX_ROWS:
            raise DataError(f"{path} has more than {_MAX_ROWS:,} rows; is it damaged?")
        if number <= skipped_before or all(_is_blank(cell) for cell in cells):
            continue
        if at is None:
            is_header = header is None
            names = [_name(cell) for cell in cells] if header is None else header
            at = find_columns(path, names, wanted)
            width = max((place for place, name in enumerate(names, 1) if name.strip()), default=0)
            if is_header:
                continue
        if skipped_after:
            skipped_after -= 1
            continue
        problem = None
        if any(not _is_blank(cell) for cell in cells[width:]):
            problem = CellError("too many cells", f"the row has cells beyond the {width} columns")
        found = {name: cells[place] if place < len(cells) else None for name, place in zip(wanted, at, strict=True)}
        yield Row(Place(path, "row", number), found, problem)
    if at is None:
        raise DataError(f"{path} has no row")


def _is_blank(cell: Any) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _name(cell: Any) -> str:
    return "" if cell is None else str(cell)
