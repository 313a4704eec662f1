"""Reads parquet files of others in parts whose size is bounded by what the file states before a page is unpacked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files.thrift import ThriftReader

MAX_RATIO: Final = 500
"""How many times its size a part of a file may unpack to, once that is more than FREE_BYTES."""

FREE_BYTES: Final = 64 * 2**20
MAX_ENTRIES: Final = 1_000_000
"""Entries of the lists in one part, if they are more than 64 for each row."""

_BATCH_BYTES: Final = 32 * 2**20
_HEADER_BYTES: Final = 32
_I32: Final = 0x15
"""How a field of Thrift's compact protocol begins that follows the one before it and is a whole number."""

# The numbers of fields in parquet's Thrift definition.
_ROW_GROUPS, _COLUMNS, _ROWS, _COLUMN_DATA = 4, 1, 3, 3
_NAMES, _ENTRIES, _UNPACKED, _PACKED, _DATA_PAGE, _DICTIONARY_PAGE = 3, 5, 6, 7, 9, 11
_MAGIC: Final = b"PAR1"
_TAIL_BYTES: Final = 8
"""The footer's length and PAR1."""

UNREADABLE: Final = (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, KeyError)
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
        for chunk in _chunks(path):
            _check_chunk(chunk, size)
    except BaseException:
        file.close()
        raise
    return file


def is_parquet(path: Path) -> bool:
    """Whether a file is named as one, or begins as one."""
    if path.suffix == ".parquet":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def bounded_batches(
    file: pq.ParquetFile, path: Path, columns: Sequence[str] | None = None, max_rows: int = 8_192
) -> Iterator[pa.RecordBatch]:
    """The rows of a file from `open_parquet`, fewer at once where values are large; raises one of UNREADABLE."""
    rows = max(1, min(max_rows, _BATCH_BYTES // max(1, _longest_value(path))))
    yield from file.iter_batches(batch_size=rows, columns=None if columns is None else list(columns))


class _Chunk(NamedTuple):
    """What the footer states of one column of one row group."""

    column: str
    rows: int
    entries: int
    unpacked: int
    packed: int
    data_page: int
    dictionary_page: int | None


def _chunks(path: Path) -> list[_Chunk]:
    """All of a file. They are read here because Arrow's own access to some damaged ones ends the process."""
    with path.open("rb") as file:
        file.seek(-_TAIL_BYTES, 2)
        end = file.tell()
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, end - length))
        footer = ThriftReader(file.read(end - file.tell())).struct()
    found = []
    for group in footer.get(_ROW_GROUPS, []):
        for column in group[_COLUMNS]:
            data = column[_COLUMN_DATA]
            name = b".".join(data[_NAMES]).decode(errors="replace")
            sizes = data[_ENTRIES], data[_UNPACKED], data[_PACKED]
            found.append(_Chunk(name, group[_ROWS], *sizes, data[_DATA_PAGE], data.get(_DICTIONARY_PAGE)))
    return found


def _check_chunk(chunk: _Chunk, file_bytes: int) -> None:
    packed = min(chunk.packed, file_bytes)
    if chunk.unpacked > max(FREE_BYTES, MAX_RATIO * packed):
        raise OversizedError(
            f"its column {chunk.column} unpacks from {packed:,} to {chunk.unpacked:,} bytes, which no data of a plant "
            "does"
        )
    if chunk.entries > max(MAX_ENTRIES, 64 * chunk.rows):
        raise OversizedError(f"its column {chunk.column} has {chunk.entries:,} entries in {chunk.rows:,} rows")


def _longest_value(path: Path) -> int:
    """Bytes that no value has more of which rows may repeat: those of the largest dictionary.

    A value in a dictionary is stored once and unpacked for each of its rows, however many these are.
    """
    longest = 0
    with path.open("rb") as raw:
        for chunk in _chunks(path):
            for offset in (chunk.dictionary_page, chunk.data_page):
                if offset is None:
                    continue
                raw.seek(max(0, offset))
                page = _page_size(raw.read(_HEADER_BYTES))
                if page > max(FREE_BYTES, chunk.unpacked):
                    raise OversizedError(f"a page of its column {chunk.column} unpacks to {page:,} bytes")
                if offset == chunk.dictionary_page:
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
