"""Tables in parquet or CSV files: reading them, and their columns as numbers, times and keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from pipeline.arrays import Ints
from pipeline.errors import DataError


def read_table(path: Path) -> pa.Table:
    """A parquet or CSV file as a table; raises DataError if it cannot be read."""
    try:
        if path.suffix == ".csv":
            return pyarrow.csv.read_csv(path)
        return pyarrow.parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: {error}; give a parquet or CSV file") from error


def require_columns(table: pa.Table, names: Iterable[str], path: Path) -> None:
    """Raise DataError listing the columns that a file lacks."""
    if missing := [name for name in names if name not in table.column_names]:
        raise DataError(f"{path} lacks column {', '.join(missing)}; it has {', '.join(table.column_names[:8])} …")


def rows_by_key(table: pa.Table, names: Sequence[str]) -> dict[str, Ints]:
    """Rows of each distinct key, ordered by the key's text; a key is the values of the named columns."""
    codes = np.zeros(len(table), np.int64)
    for name in names:
        column = table[name].to_numpy(zero_copy_only=False)
        _, code = np.unique(column, return_inverse=True)
        codes = codes * (int(code.max()) + 1) + code
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rows = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    keyed = {key_text(table, names, int(row)): part for row, part in zip(first, rows, strict=True)}
    return dict(sorted(keyed.items()))


def key_text(table: pa.Table, names: Sequence[str], row: int) -> str:
    """The key of one row, as it appears in names of runs."""
    return " ".join(f"{name}={table[name][row].as_py()}" for name in names)


def number_column(table: pa.Table, name: str, path: Path) -> NDArray[np.float64]:
    """A column as float64; raises DataError naming file and column."""
    try:
        return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise DataError(f"{path}: column {name} does not hold numbers: {error}") from error


def column_ms(column: Any, path: Path) -> NDArray[np.float64]:
    """Times as milliseconds since the epoch, from integers or time stamps."""
    try:
        if pa.types.is_integer(column.type):
            return np.asarray(column.cast(pa.float64()).to_numpy(), dtype=np.float64)
        return np.asarray(column.cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy(), dtype=np.float64)
    except pa.ArrowException as error:
        raise DataError(f"{path}: column time holds neither time stamps nor integer milliseconds: {error}") from error
