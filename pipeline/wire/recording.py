"""Recordings: parquet files of records in arrival order, written here or elsewhere, always checked before use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import RecordingError
from pipeline.files.atomic_file import replacing
from pipeline.files.parquet import UNREADABLE, OversizedError, bounded_batches, one_line, open_parquet
from pipeline.wire.records import OnProgress, Record

_HEADER = pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())])
SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp_ms", pa.int64(), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", pa.list_(_HEADER)),
    ]
)
_WRITE_ROWS = 16_384


def read_recording(
    path: str | Path, *, batch_rows: int = 8_192, on_progress: OnProgress | None = None
) -> Iterator[Record]:
    """The records of a file in its order; raises RecordingError naming file, column and row."""
    path = Path(path)
    with _open(path) as file:
        for row, batch in _batches(file, path, None, batch_rows):
            try:
                records = list(_records(batch, path, row))
            except UNREADABLE as error:  # a text that is not UTF-8
                raise _broken(path, row, error) from error
            yield from records
            if on_progress is not None:
                on_progress(row + len(records), file.metadata.num_rows)


def count_records(path: str | Path) -> int:
    """How many records a recording holds, without reading them."""
    with _open(Path(path)) as file:
        return int(file.metadata.num_rows)


def has_topic(path: str | Path, topic: str) -> bool:
    """Whether any record of a recording is in this topic."""
    path = Path(path)
    with _open(path) as file:
        return any(topic in _topics(batch, path, row) for row, batch in _batches(file, path, ["topic"], 8_192))


def holds_only(path: str | Path, answers: Sequence[str], inputs: Sequence[str]) -> bool:
    """Whether a recording has records of any topic of the answers, and none of the inputs that they could be had of."""
    return any(has_topic(path, topic) for topic in answers) and not any(has_topic(path, topic) for topic in inputs)


def _topics(batch: pa.RecordBatch, path: Path, row: int) -> list[str | None]:
    try:
        return list(batch.column(0).to_pylist())
    except UNREADABLE as error:
        raise _broken(path, row, error) from error


def _batches(
    file: pq.ParquetFile, path: Path, columns: Sequence[str] | None, rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Parts of a file, each with its first row; raises RecordingError."""
    row = 0
    try:
        for batch in bounded_batches(file, path, columns, rows):
            yield row, batch
            row += batch.num_rows
    except UNREADABLE as error:
        raise _broken(path, row, error) from error


def _broken(path: Path, row: int, error: Exception) -> RecordingError:
    return RecordingError(f"recording {path} breaks off near row {row}: {one_line(error)}; record it again")


def _open(path: Path) -> pq.ParquetFile:
    if not path.is_file():
        raise RecordingError(f"recording {path} does not exist, or is not a file")
    try:
        file = open_parquet(path)
    except OversizedError as error:
        raise RecordingError(f"recording {path} is refused: {error}; record it again") from error
    except UNREADABLE as error:
        raise RecordingError(f"{path} is not a parquet file ({one_line(error, 120)}); a recording is one") from error
    try:
        _check_schema(file.schema_arrow, path)
    except UNREADABLE as error:
        raise RecordingError(f"the columns of recording {path} cannot be read: {one_line(error)}") from error
    return file


def _check_schema(schema: pa.Schema, path: Path) -> None:
    names = set(schema.names)
    if twice := [name for name in SCHEMA.names if schema.names.count(name) > 1]:
        raise RecordingError(f"recording {path} has the column {', '.join(twice)} more than once")
    missing = [field.name for field in SCHEMA if field.name not in names and field.name != "headers"]
    if missing:
        raise RecordingError(
            f"recording {path} lacks the column {', '.join(missing)}; a recording has {', '.join(SCHEMA.names)}"
        )
    for name, fits, what in (
        ("topic", _is_text, "text"),
        ("partition", pa.types.is_integer, "whole numbers"),
        ("offset", pa.types.is_integer, "whole numbers"),
        ("timestamp_ms", pa.types.is_integer, "whole numbers"),
        ("key", _is_bytes, "bytes"),
        ("value", _is_bytes, "bytes"),
    ):
        arrow_type = schema.field(name).type
        if not fits(arrow_type):
            raise RecordingError(f"recording {path}: column {name} holds {arrow_type}, but must hold {what}")


def _is_text(arrow_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return bool(pa.types.is_string(arrow_type) or pa.types.is_large_string(arrow_type))


def _is_bytes(arrow_type: pa.DataType) -> bool:
    if pa.types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    return bool(
        pa.types.is_binary(arrow_type)
        or pa.types.is_large_binary(arrow_type)
        or pa.types.is_string(arrow_type)  # tools that know no bytes write text; its UTF-8 bytes are meant
        or pa.types.is_large_string(arrow_type)
        or pa.types.is_null(arrow_type)
    )


def _records(batch: pa.RecordBatch, path: Path, row: int) -> Iterator[Record]:
    columns = {name: batch.column(name).to_pylist() for name in batch.schema.names if name in SCHEMA.names}
    headers = columns.get("headers") or [None] * batch.num_rows
    names = ("topic", "partition", "offset", "timestamp_ms", "key", "value")
    for at, (topic, partition, offset, stamp, key, value, head) in enumerate(
        zip(*(columns[name] for name in names), headers, strict=True), start=row
    ):
        if topic is None or partition is None or offset is None or stamp is None:
            raise RecordingError(f"recording {path}, row {at}: topic, partition, offset or timestamp_ms is null")
        if not 0 <= partition < 2**31 or not 0 <= offset < 2**63 or not -(2**63) <= stamp < 2**63:
            raise RecordingError(
                f"recording {path}, row {at}: partition {partition}, offset {offset} or timestamp_ms {stamp} is out of "
                "range"
            )
        yield Record(topic, partition, offset, stamp, _as_bytes(key), _as_bytes(value), _as_headers(head, path, at))


def _as_bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _as_headers(head: object, path: Path, row: int) -> tuple[tuple[str, bytes], ...]:
    if not head:
        return ()
    pairs: list[tuple[str, bytes]] = []
    for entry in head if isinstance(head, list) else [head]:
        if isinstance(entry, dict) and set(entry) >= {"key", "value"}:
            entry = entry["key"], entry["value"]
        if not (
            isinstance(entry, tuple | list)
            and len(entry) == 2
            and isinstance(entry[0], str)
            and (entry[1] is None or isinstance(entry[1], bytes | str))
        ):
            raise RecordingError(f"recording {path}, row {row}: headers are not pairs of a name and bytes")
        pairs.append((entry[0], _as_bytes(entry[1]) or b""))
    return tuple(pairs)


class RecordingWriter:
    """Writes records to a file as they come; the file is only complete after `close`."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._file = pq.ParquetWriter(self._path, SCHEMA, compression="zstd", compression_level=9)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._rows: list[Record] = []
        self.count = 0

    def write(self, records: Iterable[Record]) -> None:
        """Append records."""
        for record in records:
            self._rows.append(record)
            if len(self._rows) >= _WRITE_ROWS:
                self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        columns = list(zip(*self._rows, strict=True))
        columns[6] = tuple([{"key": key, "value": value} for key, value in head] for head in columns[6])
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        try:
            self._file.write_table(pa.table(arrays, schema=SCHEMA))
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self.count += len(self._rows)
        self._rows.clear()

    def __bool__(self) -> bool:
        """Whether it has been given any record."""
        return bool(self.count or self._rows)

    def close(self) -> None:
        """Write what is left and finish the file."""
        try:
            self._flush()
        finally:
            try:
                self._file.close()
            except OSError as error:
                raise _unwritable(self._path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


@contextmanager
def new_recording(path: Path, *, keep_on_error: bool = False) -> Iterator[RecordingWriter]:
    """Writes a recording that appears, complete, when the block ends without an error; else `path` stays as it was.

    With `keep_on_error` it appears then too, if anything has been written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise RecordingError(f"cannot write recording {path}: it is a folder")
    except OSError as error:
        raise _unwritable(path, error) from error
    failure: BaseException | None = None
    try:
        with replacing(path) as part, RecordingWriter(part) as writer:
            try:
                yield writer
            except BaseException as error:
                if not keep_on_error or not writer:
                    raise
                failure = error
    except OSError as error:
        raise _unwritable(path, error) from error
    if failure is not None:
        raise failure


def _unwritable(path: str | Path, error: OSError) -> RecordingError:
    return RecordingError(f"cannot write recording {path}: {error}")
