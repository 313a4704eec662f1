"""Reading a table: the wanted rows of a file with their machines and times, in the order of time."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from agents.replay.tables.description import Table
from agents.replay.tables.files.contents import kind_of
from agents.replay.tables.files.csv_rows import read_csv
from agents.replay.tables.files.excel_rows import read_excel
from agents.replay.tables.files.parquet_rows import read_parquet
from agents.replay.tables.files.rows import Row
from agents.replay.tables.numbers import Numbers
from agents.replay.tables.problems import CellError, Place, Unused
from agents.replay.tables.summer_time import decided_by_order
from agents.replay.tables.templates import OF_PATH
from agents.replay.tables.times import Ambiguous, Clock
from pipeline.errors import DataError
from pipeline.wire.messages import MAX_NAME
from pipeline.wire.records import OnProgress

_SHOW_EVERY = 2_000
_READERS = {"csv": read_csv, "parquet": read_parquet, "excel": read_excel}

Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class TimedRow(Generic[Content]):
    """A row's machine and time, and what was taken from it."""

    machine: str
    time_ms: int
    content: Content


@dataclass(frozen=True, slots=True)
class _Pending(Generic[Content]):
    place: Place
    times: list[Any]
    machine: str
    moment: int | Ambiguous
    content: Content


class RowCount:
    """Counts the rows of all tables of a conversion."""

    def __init__(self, on_read: OnProgress = lambda *_: None) -> None:
        self.taken = 0
        """Rows that the description wants, of the tables that are read to their end."""
        self._read = 0
        self._on_read = on_read

    def add(self) -> None:
        """One more row was read."""
        self._read += 1
        if self._read % _SHOW_EVERY == 0:
            self._on_read(self._read, None)


class TableReader:
    """Reads the files of one table of a description."""

    def __init__(
        self, table: Table, machines: Sequence[str] | None, unused: Unused, count: RowCount | None = None
    ) -> None:
        self._table = table
        self._count = count or RowCount()
        self._machines = None if machines is None else frozenset(machines)
        self._unused = unused
        self.numbers = Numbers(table.decimal, table.thousands, table.null_markers)

    def rows(self, path: Path, columns: Sequence[str], take: Callable[[Row], Content]) -> list[TimedRow[Content]]:
        """The wanted rows of a file in the order of their times; `take` gives a row's content, or raises CellError.

        Raises DataError with file, row and column.
        """
        table = self._table
        wanted = list(dict.fromkeys([*columns, *table.machine.columns, *table.time, *table.where]))
        clock = Clock(table, self.numbers)
        pending = []
        for row in self._read(path, [name for name in wanted if name not in OF_PATH]):
            self._count.add()
            try:
                found = self._pending(row, clock, take)
            except CellError as error:
                self._skip(row.place, error)
                continue
            if found is not None:
                pending.append(found)
        self._count.taken += len(pending)
        return sorted(self._timed(pending), key=lambda timed: timed.time_ms)

    def value(self, row: Row, column: str) -> float | None:
        """A cell as a number; None if there is none. Raises DataError, unless bad values are taken as unknown."""
        cell = row.cells[column]
        try:
            return self.numbers.value(cell)
        except CellError as error:
            error.of(column, cell)
            if self._table.bad_values == "refuse":
                raise error.located(row.place) from None
            self._unused.add_cell(row.place, error)
            return None

    def _read(self, path: Path, wanted: Sequence[str]) -> Iterator[Row]:
        try:
            for row in _READERS[kind_of(path)](path, self._table, wanted):
                row.cells.update(file=_stem(path), folder=path.parent.name)
                yield row
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{path} cannot be unpacked: {error}; it may be cut off") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or ' '.join(str(error).split())}") from error

    def _pending(self, row: Row, clock: Clock, take: Callable[[Row], Content]) -> _Pending[Content] | None:
        table = self._table
        if row.problem is not None:
            raise row.problem
        if any(not _says(row.cells[name], text) for name, text in table.where.items()):
            return None
        machine = self._machine(row)
        if self._machines is not None and machine not in self._machines:
            return None
        times = [row.cells[name] for name in table.time]
        try:
            moment = clock.moment(times)
        except CellError as error:
            raise error.of(" and ".join(table.time), _shown_together(times)) from None
        return _Pending(row.place, times, machine, moment, take(row))

    def _machine(self, row: Row) -> str:
        template = self._table.machine
        cells = [row.cells[name] for name in template.columns]
        column = ", ".join(template.columns) or "machine"
        if not template.is_filled(row.cells):
            raise CellError("holds no machine", "holds no machine; bad_rows: skip leaves such rows out").of(
                column, None
            )
        machine = template.fill(row.cells)
        if not machine.isprintable() or not 0 < len(machine) <= MAX_NAME:
            detail = f"gives no machine id of 1 to {MAX_NAME} printable characters"
            raise CellError("gives no machine id", detail).of(column, _shown_together(cells))
        return machine

    def _timed(self, pending: list[_Pending[Content]]) -> Iterator[TimedRow[Content]]:
        if self._table.ambiguous != "in_order":
            for row in pending:
                assert isinstance(row.moment, int)
                yield TimedRow(row.machine, row.moment, row.content)
            return
        by_machine: dict[str, list[_Pending[Content]]] = {}
        for row in pending:
            by_machine.setdefault(row.machine, []).append(row)
        for rows in by_machine.values():
            for row, time in zip(rows, decided_by_order([row.moment for row in rows]), strict=True):
                if isinstance(time, int):
                    yield TimedRow(row.machine, time, row.content)
                else:
                    self._skip(row.place, time.of(" and ".join(self._table.time), _shown_together(row.times)))

    def _skip(self, place: Place, error: CellError) -> None:
        """Count a row that is left out; raises DataError if bad rows are refused."""
        if self._table.bad_rows == "refuse":
            raise error.located(place) from None
        self._unused.add_row(place, error)


def _says(cell: Any, text: str) -> bool:
    """Whether a cell has this text, or a number that is written so."""
    found = str(cell).strip()
    if found == text.strip():
        return True
    try:
        return float(found) == float(text)
    except ValueError:
        return False


def _shown_together(cells: Sequence[Any]) -> Any:
    return cells[0] if len(cells) == 1 else " ".join("" if cell is None else str(cell).strip() for cell in cells)


def _stem(path: Path) -> str:
    """A file's name without its ending, also where it is compressed."""
    return Path(path.stem).stem if path.suffix.lower() in (".gz", ".bz2", ".xz") else path.stem
