"""Recordings of others that unpack to gigabytes, or hold what no recording holds: one line each, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import RecordingError
from pipeline.wire.recording import SCHEMA, count_records, has_topic, new_recording, read_recording
from pipeline.wire.records import Record
from tests.support.bounded import MIB, assert_all_refused, assert_refused, run_bounded

READ = "from pipeline.wire.recording import read_recording, has_topic, count_records"


def columns(rows: int, **changed: pa.Array) -> pa.Table:
    one = {"topic": "sensors", "partition": 0, "offset": 0, "timestamp_ms": 5, "key": b"p", "value": b"{}"}
    table = {name: pa.array([value] * rows, SCHEMA.field(name).type) for name, value in one.items()}
    return pa.table(table | changed)


def repeated(value: bytes, rows: int) -> pa.Array:
    """Rows that all point to one value, in memory as in the file."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value], pa.binary()))


def test_zeros_that_unpack_to_more_than_the_memory_are_refused_before_a_page_is_read(tmp_path: Path) -> None:
    """The case from the field, in small: some kilobytes that unpacked to 8 GiB."""
    path = tmp_path / "bomb.parquet"
    # Zeros of the system, which nobody writes: to fill so much memory takes a busy machine minutes.
    ends = pa.array([0, 300 * MIB], pa.int32()).buffers()[1]
    value = pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(bytes(300 * MIB))])
    zeros = columns(1, value=value)
    pq.write_table(zeros, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < MIB
    name = repr(str(path))
    reads = (f"list(read_recording({name}))", f"has_topic({name}, 'x')", f"count_records({name})")
    done = run_bounded(READ, *reads, mib=256)
    said = (str(path), "is refused: its column value unpacks from", "to 314,", "record it again")
    assert_all_refused(done, "RecordingError", [said] * 3)


@pytest.mark.parametrize("as_arrow_dictionary", [True, False])
def test_one_value_that_a_thousand_rows_share_is_unpacked_for_a_few_at_once(
    tmp_path: Path, as_arrow_dictionary: bool
) -> None:
    """8 GB of values in 2 KB: legal, and read one after the other."""
    path, rows = tmp_path / "shared.parquet", 300
    table = columns(rows, value=repeated(bytes(8 * MIB), rows))
    if as_arrow_dictionary:
        pq.write_table(table, path, compression="zstd")
    else:
        pq.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10_000
    code = f"print(sum(len(record.value) for record in read_recording({str(path)!r})))"
    done = run_bounded(READ, code, mib=1024)
    assert (done.returncode, done.stdout) == (0, f"{rows * 8 * MIB}\n"), done


def test_a_row_with_millions_of_headers_is_refused(tmp_path: Path) -> None:
    path, count = tmp_path / "headers.parquet", 2_000_000
    entries = pa.StructArray.from_arrays(
        [pa.array(["k"] * count), pa.array([b""] * count, pa.binary())], ["key", "value"]
    )
    headers = pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), entries)
    pq.write_table(columns(1, headers=headers), path, compression="zstd")
    done = run_bounded(READ, f"list(read_recording({str(path)!r}))", mib=128)
    assert_refused(done, "RecordingError", "headers.list.element.key has 2,000,000 entries in 1 rows")


def test_an_ordinary_recording_of_large_values_is_read(tmp_path: Path) -> None:
    records = [Record("sensors", 0, n, n, b"p", os.urandom(MIB), ()) for n in range(60)]
    path = tmp_path / "large.parquet"
    with new_recording(path) as writer:
        writer.write(records)
    assert list(read_recording(path)) == records
    repeated_text = b'{"machine": "p", "time": 1763600000000, "values": [1.0, 2.0]}' * 20
    frozen = [Record("sensors", 0, n, n, b"p", repeated_text, ()) for n in range(100_000)]
    with new_recording(path) as writer:
        writer.write(frozen)
    assert sum(1 for _ in read_recording(path)) == len(frozen)


def hostile_tables() -> Iterator[tuple[str, pa.Table, str]]:
    twice = pa.table([*columns(1).columns, pa.array(["x"])], names=[*columns(1).column_names, "topic"])
    yield "column_twice", twice, "has the column topic more than once"
    large = pa.array([2**64 - 1], pa.uint64())
    yield "stamp", columns(1, timestamp_ms=large), "timestamp_ms 18446744073709551615 is out of range"
    yield "offset", columns(1, offset=large), "offset 18446744073709551615"
    yield "partition", columns(1, partition=large), "partition 18446744073709551615"
    not_utf8 = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    yield "topic_not_utf8", columns(1, topic=not_utf8), "near row 0"
    yield "key_not_utf8", columns(1, key=not_utf8), "near row 0"
    yield "headers", columns(1, headers=pa.array([5])), "headers are not pairs"
    yield "headers_of_pairs", columns(1, headers=pa.array([[["a"]]])), "headers are not pairs"
    yield "header_value", columns(1, headers=pa.array([[{"key": "a", "value": 5}]])), "headers are not pairs"


@pytest.mark.parametrize(("name", "table", "said"), [pytest.param(*one, id=one[0]) for one in hostile_tables()])
def test_what_no_recording_holds_is_refused_with_its_place(
    tmp_path: Path, name: str, table: pa.Table, said: str
) -> None:
    path = tmp_path / f"{name}.parquet"
    pq.write_table(table, path)
    with pytest.raises(RecordingError) as raised:
        list(read_recording(path))
    assert str(path) in str(raised.value) and said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / "a\0b"):
        for read in (count_records, lambda path: list(read_recording(path)), lambda path: has_topic(path, "x")):
            with pytest.raises(RecordingError, match="does not exist, or is not a file"):
                read(path)
