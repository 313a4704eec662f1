"""Parquet files: the wanted columns as plain values, with times of any unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agents.replay.tables.description import Table
from agents.replay.tables.files.rows import Row, find_columns
from agents.replay.tables.problems import Place
from pipeline.errors import DataError
from pipeline.files.parquet import UNREADABLE, bounded_batches, one_line, open_parquet

_BATCH_ROWS = 8_192
_EPOCH = datetime(1970, 1, 1)


def read_parquet(path: Path, table: Table, wanted: Sequence[str]) -> Iterator[Row]:
    """The rows of a file with the wanted columns; raises DataError."""
    if table.columns is not None:
        raise DataError(f"{path} has names of columns of its own; leave columns: out")
    try:
        with open_parquet(path) as file:
            header = file.schema_arrow.names
            names = [header[at] for at in find_columns(path, header, wanted)]
            first = 1
            for batch in bounded_batches(file, path, names, _BATCH_ROWS):
                columns = [_values(batch.column(batch.schema.get_field_index(name))) for name in names]
                for row, cells in enumerate(
                    zip(*columns, strict=True) if names else [()] * batch.num_rows, start=first
                ):
                    yield Row(Place(path, "row", row), dict(zip(wanted, cells, strict=True)))
                first += batch.num_rows
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read as parquet: {one_line(error)}") from error


def _values(column: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    arrow_type = column.type
    if pa.types.is_timestamp(arrow_type):
        zone = None if arrow_type.tz is None else UTC
        return [_moment(ms, zone) for ms in _in_ms(column)]
    if pa.types.is_time64(arrow_type):
        column = pc.cast(column, pa.time64("us"), safe=False)
    if pa.types.is_duration(arrow_type):
        column = pc.cast(column, pa.duration("us"), safe=False)
    return list(column.to_pylist())


def _in_ms(column: pa.Array) -> list[int | None]:
    """Whole milliseconds, rounded down; nanoseconds do not fit into Python's times."""
    counts: list[int | None] = column.cast(pa.int64()).to_pylist()
    factor, divisor = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}[column.type.unit]
    return [None if count is None else count * factor // divisor for count in counts]


def _moment(time_ms: int | None, zone: Any) -> datetime | str | None:
    if time_ms is None:
        return None
    try:
        return (_EPOCH + timedelta(milliseconds=time_ms)).replace(tzinfo=zone)
    except OverflowError:
        return f"{time_ms} ms since 1970"
