"""Reads parquet files of others in parts whose size is bounded by what the file states before a page is unpacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

MAX_RATIO: Final = 500
"""How many times its size a part of a file may unpack to, once that is more than FREE_BYTES."""

FREE_BYTES: Final = 64 * 2**20
MAX_ENTRIES: Final = 1_000_000
"""Entries of the lists in one part, if they are more than 64 for each row."""

_BATCH_BYTES: Final = 32 * 2**20
_HEADER_BYTES: Final = 32
_I32: Final = 0x15
"""How a field of Thrift's compact protocol begins that follows the one before it and is a whole number."""

UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, OverflowError, KeyError)
"""What reading a damaged file raises."""


class OversizedError(ValueError):
    """A file that would unpack to far more than its size."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """An error of a library as the end of a sentence."""
    return " ".join(str(error).split())[:limit]


def open_parquet(path: Path) -> pq.ParquetFile:
    """A file whose parts can all be read in bounded memory; raises one of UNREADABLE."""
    if not path.is_file():
        raise OSError("it does not exist, or is not a file")
    file = pq.ParquetFile(path)
    try:
        size = path.stat().st_size
        for chunk, rows in _chunks(file.metadata):
            _check_chunk(chunk, rows, size)
    except BaseException:
        file.close()
        raise
    return file


def bounded_batches(
    file: pq.ParquetFile, path: Path, columns: Sequence[str] | None = None, max_rows: int = 8_192
) -> Iterator[pa.RecordBatch]:
    """The rows of a file from `open_parquet`, fewer at once where values are large; raises one of UNREADABLE."""
    rows = max(1, min(max_rows, _BATCH_BYTES // max(1, _longest_value(file.metadata, path))))
    yield from file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns))


def _chunks(metadata: Any) -> Iterator[tuple[Any, int]]:
    """Each column of each row group, and the group's rows."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in range(group.num_columns):
            yield group.column(column), group.num_rows


def _check_chunk(chunk: Any, rows: int, file_bytes: int) -> None:
    unpacked, packed = chunk.total_uncompressed_size, min(chunk.total_compressed_size, file_bytes)
    if unpacked > max(FREE_BYTES, MAX_RATIO * packed):
        raise OversizedError(
            f"its column {chunk.path_in_schema} unpacks from {packed:,} to {unpacked:,} bytes, which no data of "
            "a plant does"
        )
    if chunk.num_values > max(MAX_ENTRIES, 64 * rows):
        raise OversizedError(f"its column {chunk.path_in_schema} has {chunk.num_values:,} entries in {rows:,} rows")


def _longest_value(metadata: Any, path: Path) -> int:
    """Bytes that no value has more of which rows may repeat: those of the largest dictionary.

    A value in a dictionary is stored once and unpacked for each of its rows, however many these are.
    """
    longest = 0
    with path.open("rb") as raw:
        for chunk, _ in _chunks(metadata):
            for offset in (chunk.dictionary_page_offset, chunk.data_page_offset):
                if offset is None:
                    continue
                raw.seek(max(0, offset))
                page = _page_size(raw.read(_HEADER_BYTES))
                if page > max(FREE_BYTES, chunk.total_uncompressed_size):
                    raise OversizedError(f"a page of its column {chunk.path_in_schema} unpacks to {page:,} bytes")
                if offset == chunk.dictionary_page_offset:
                    longest = max(longest, page)
    return longest


def _page_size(header: bytes) -> int:
    """The unpacked size that the beginning of a page's header states, behind the page's type; 0 if it is none."""
    content = iter(header)
    number = 0
    for _ in ("type", "uncompressed_page_size"):
        if next(content, None) != _I32:
            return 0
        number = shift = 0
        for byte in content:
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
    return number >> 1 if number % 2 == 0 else 0  # odd ones are negative
