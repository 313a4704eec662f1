"""Files of tables: what kind each is by its first bytes, and its content without compression."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Literal, cast

from pipeline.errors import DataError

HEAD_BYTES = 1 << 16

_PARQUET_SUFFIXES = (".parquet", ".pq")
_OPENERS: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_FOREIGN = {
    b"\xd0\xcf\x11\xe0": "is an Excel file of the old kind, or one with a password; save it as .xlsx without",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it, or compress it with gzip",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"Rar!": "is a RAR archive; unpack it",
    b"SQLite format 3": "is a database of SQLite; export its tables as CSV",
    b"%PDF": "is a PDF document; export the table as CSV",
    b"ORC": "is an ORC file; save it as parquet",
    b"ARROW1": "is an Arrow file; save it as parquet",
}


def kind_of(path: Path) -> Literal["csv", "parquet", "excel"]:
    """The kind of a file; raises DataError if it is no table that can be read. `OSError` is left to the caller."""
    if path.is_dir():
        raise DataError(f"{path} is a folder; let files: match the files in it, such as {path.name}/*.csv")
    if not path.is_file():
        raise DataError(f"{path} is not a regular file")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise DataError(f"{path} is empty")
    if head.startswith(b"PAR1") or path.suffix.lower() in _PARQUET_SUFFIXES:
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        if path.suffix.lower() == ".zip":
            raise DataError(f"{path} is a zip archive; unpack it")
        return "excel"
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path} {what}")
    if path.suffix.lower() in (".xlsx", ".xlsm", ".xls"):
        raise DataError(f"{path} is not an Excel file, whatever its name says; name it .csv if it is one")
    return "csv"


def open_content(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked if it is compressed with gzip, bzip2 or xz."""
    with path.open("rb") as file:
        head = file.read(8)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return cast("IO[bytes]", opener(path))
    return path.open("rb")


def read_head(path: Path) -> bytes:
    """The first bytes of a file's content."""
    with open_content(path) as file:
        return file.read(HEAD_BYTES)
