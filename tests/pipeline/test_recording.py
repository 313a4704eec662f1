"""Recordings: written and read back unchanged, and refused with file, column and row where they are broken."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RecordingError
from pipeline.wire.recording import SCHEMA, RecordingWriter, count_records, read_recording
from pipeline.wire.records import Record

RECORDS = [
    Record("sensors", 0, 0, 5, b"p1", b"{}", ()),
    Record("events", 3, 0, 6, None, None, (("a", b"1"), ("a", b"2"))),
    Record("sensors", 0, 1, 6, b"\xff", b"\x00\x01", ()),
]


def write(path: Path, **columns: list[object]) -> Path:
    full = {
        "topic": ["sensors"], "partition": [0], "offset": [0], "timestamp_ms": [5], "key": [b"p"], "value": [b"{}"]
    } | columns  # fmt: skip
    pq.write_table(pa.table({name: column for name, column in full.items() if column}), path)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    with RecordingWriter(path) as writer:
        writer.write(RECORDS * 10_000)
    assert list(read_recording(path)) == RECORDS * 10_000
    assert count_records(path) == 30_000
    assert pq.read_schema(path).equals(SCHEMA)


def test_other_writers_types_are_understood(tmp_path: Path) -> None:
    path = write(tmp_path / "r.parquet", key=["p"], value=["{}"], headers=[[("a", b"1")]], note=["extra column"])
    assert list(read_recording(path)) == [Record("sensors", 0, 0, 5, b"p", b"{}", (("a", b"1"),))]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"value": []}, "lacks the column value"),
        ({"partition": ["zero"]}, "column partition holds string"),
        ({"timestamp_ms": [None]}, "column timestamp_ms holds null"),
        ({"topic": ["sensors", None], "partition": [0, 0], "offset": [0, 1], "timestamp_ms": [5, 6],
          "key": [b"p", b"p"], "value": [b"", b""]}, "row 1"),
        ({"partition": [-1]}, "partition -1"),
    ],
)  # fmt: skip
def test_broken_recordings_are_refused(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    path = write(tmp_path / "r.parquet", **columns)
    with pytest.raises(RecordingError, match=message):
        list(read_recording(path))


def test_files_that_are_no_recordings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="does not exist"):
        list(read_recording(tmp_path / "nowhere.parquet"))
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(RecordingError, match="not a parquet file"):
        list(read_recording(tmp_path / "text.parquet"))
    whole = tmp_path / "whole.parquet"
    with RecordingWriter(whole) as writer:
        writer.write(RECORDS * 1000)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:500])
    with pytest.raises(RecordingError):
        list(read_recording(cut))
