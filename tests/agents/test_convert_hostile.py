"""Files that are no tables, or damaged ones: converted, or refused with one line, and never a traceback."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openpyxl import Workbook

from pipeline.wire.messages import is_time_ms
from pipeline.wire.recording import read_recording
from tests.support.commands import assert_one_line
from tests.support.tables import run_convert

START = datetime(2025, 10, 26, 1)
ROWS = [(START + timedelta(minutes=10 * at), f"{at % 3}", at / 4) for at in range(24)]

OPTIONS = st.lists(
    st.sampled_from(
        [
            "bad_values: unknown",
            "bad_rows: skip",
            "time_zone: Europe/Berlin",
            "ambiguous: in_order",
            "ambiguous: later",
            "time_unit: s",
            "time_unit: ns",
            "time_unit: excel",
            "decimal: ','",
            "thousands: '.'",
            "thousands: ' '",
            "delimiter: ';'",
            "delimiter: tab",
            "delimiter: ' '",
            "quote: ''",
            "encoding: latin-1",
            "encoding: utf-16",
            "encoding: utf-7",
            "encoding: shift_jis",
            "skip_rows: 1",
            "skip_rows_after_header: 2",
            "columns: [at, id, Flow]",
            "time: [at, Flow]",
            "null_markers: [x, 0, 1.5]",
            "where: {id: '1'}",
            "values: {flow: at}",
            'machine: "{Flow:5.1f}{file}"',
        ]
    ),
    max_size=5,
    unique_by=lambda option: option.partition(":")[0],
).map("\n".join)

WORDS = [
    b"", b"\0", b"\n", b"\r", b";", b",", b'"', b'""', b"'", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe4", b"\xc3\xa4", b"-",
    b"--", b"n/a", b"1e999", b"-inf", b"nan", b"1_0", b"1.234,5", b"\xc2\xa0", b"9" * 400, b"2025-10-26 02:30:00",
    b"sep=;\n", b"9999-12-31T23:59:59-12:00", b"0001-01-01", b"1763600000", b"{id}", b"\xd8\x00", b"\x1f\x8b",
    b"PK\x03\x04", b"PAR1",
]  # fmt: skip


def csv_bytes() -> bytes:
    return b"at,id,Flow\n" + b"".join(f"{at:%Y-%m-%d %H:%M:%S},{name},{flow}\n".encode() for at, name, flow in ROWS)


def parquet_bytes() -> bytes:
    at, names, flows = zip(*ROWS, strict=True)
    file = io.BytesIO()
    pq.write_table(pa.table({"at": at, "id": pa.array(names).dictionary_encode(), "Flow": flows}), file)
    return file.getvalue()


def excel_bytes() -> bytes:
    book = Workbook()
    for row in [("at", "id", "Flow"), *ROWS]:
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


@st.composite
def changed(draw: st.DrawFn, original: bytes) -> bytes:
    """A file with some pieces replaced, inserted or left out."""
    content = bytearray(original)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        left_out = draw(st.sampled_from([0, 1, 4, 40]))
        content[at : at + left_out] = draw(st.sampled_from(WORDS) | st.binary(max_size=4))
    return bytes(content[: draw(st.sampled_from([len(content)] * 3 + [len(content) // 2]))])


def check(content: bytes, options: str, name: str) -> None:
    with TemporaryDirectory() as folder:
        done = run_convert(Path(folder), content, options, name=name)
        out = Path(folder) / "out.parquet"
        if done.returncode:
            assert_one_line(done, "error: ")
            assert not out.exists()
        else:
            for record in read_recording(out):
                reading = json.loads(record.value or b"")
                assert record.key == reading["machine"].encode()
                assert isinstance(reading["time"], int)
                assert is_time_ms(reading["time"])
                assert isinstance(reading["values"]["flow"], float | None)
        assert not list(Path(folder).glob("*.part"))


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=200).map(str.encode), options=OPTIONS,
       name=st.sampled_from(["r.csv", "r.csv.gz", "r.parquet", "r.xlsx"]))  # fmt: skip
def test_any_bytes_are_converted_or_refused_in_one_line(content: bytes, options: str, name: str) -> None:
    check(content, options, name)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(content=changed(csv_bytes()), options=OPTIONS, name=st.sampled_from(["r.csv", "r.txt"]))
def test_damaged_csv_files_are_converted_or_refused_in_one_line(content: bytes, options: str, name: str) -> None:
    check(content, options, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("original", "name"),
    [(parquet_bytes(), "r.parquet"), (excel_bytes(), "r.xlsx"), (gzip.compress(csv_bytes()), "r.csv.gz")],
    ids=["parquet", "excel", "gzip"],
)
def test_damaged_binary_files_are_converted_or_refused_in_one_line(original: bytes, name: str) -> None:
    @settings(max_examples=40, deadline=None)
    @given(content=changed(original), options=OPTIONS)
    def run(content: bytes, options: str) -> None:
        check(content, options, name)

    run()


@pytest.mark.parametrize("make", [csv_bytes, parquet_bytes, excel_bytes])
def test_the_files_that_are_damaged_here_are_read_when_they_are_whole(
    make: Callable[[], bytes], tmp_path: Path
) -> None:
    name = {"csv_bytes": "r.csv", "parquet_bytes": "r.parquet", "excel_bytes": "r.xlsx"}[make.__name__]
    done = run_convert(tmp_path, make(), name=name)
    assert done.stdout == f"24 records written to {tmp_path / 'out.parquet'}\n", done.stderr
