"""Files of a plant's tables: encodings, compression, damage, parquet and Excel."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook
from openpyxl.utils.datetime import CALENDAR_MAC_1904

from pipeline.wire.messages import decode_event
from pipeline.wire.recording import read_recording
from tests.support.commands import assert_one_line, faultline
from tests.support.tables import converted, run_convert

T = 1_763_600_000_000  # 2025-11-20T00:53:20Z
MOMENT = datetime(2025, 11, 20, 0, 53, 20)
CSV = "at,id,Flow\n2025-11-20 00:53:20,1,1.5\n2025-11-20 00:53:21,1,2.5\n"
GERMAN = "at;id;Kühlwasser [°C]\n2025-11-20 00:53:20;1;1.5\n"
COOLING = "values: {flow: 'Kühlwasser [°C]'}"


# -- encodings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-8-sig", "\nencoding: utf-8"),
        ("utf-16", ""),
        ("utf-16", "\nencoding: utf-16-le"),
        ("utf-16-le", "\nencoding: utf-16-le"),
        ("utf-16-be", "\nencoding: UTF-16BE"),
        ("utf-32", ""),
        ("latin-1", "\nencoding: latin-1"),
        ("cp1252", "\nencoding: windows-1252"),
        ("cp437", "\nencoding: cp437"),
    ],
)
def test_a_file_is_read_in_its_encoding(tmp_path: Path, encoding: str, options: str) -> None:
    assert converted(tmp_path, GERMAN.encode(encoding), COOLING + options).flows == [1.5]


@pytest.mark.parametrize(
    ("encoding", "options", "message"),
    [
        ("latin-1", "", "line 1: the text is not utf-8 (byte 0xfc); set encoding to that of the program that wrote it"),
        ("latin-1", "", "such as cp1252 or latin-1"),
        ("cp1252", "\nencoding: ascii", "the text is not ascii"),
        ("utf-8", "\nencoding: cp1252", "is in UTF-8, and cp1252 would give wrong letters; leave encoding out"),
        ("utf-8", "\nencoding: iso8859-15", "is in UTF-8"),
        ("utf-8-sig", "\nencoding: cp1252", "begins with the byte order mark of UTF-8, so encoding: cp1252 cannot be"),
        ("utf-16", "\nencoding: utf-8", "begins with the byte order mark of UTF-16, so encoding: utf-8 cannot be"),
        ("utf-16-le", "", "as UTF-16 has: set encoding: utf-16-le"),
        ("utf-8", "\nencoding: utf-16", "utf-8"),
        (
            "cp437",
            "\nencoding: cp1252",
            "the text is not cp1252 (byte 0x81); set encoding to that of the program that wrote it, such as cp437",
        ),
    ],
)
def test_a_wrong_encoding_is_one_line_that_says_which_to_try(
    tmp_path: Path, encoding: str, options: str, message: str
) -> None:
    assert_one_line(run_convert(tmp_path, GERMAN.encode(encoding), COOLING + options), message)


def test_utf_16_without_a_mark_in_plain_letters_is_told(tmp_path: Path) -> None:
    done = run_convert(tmp_path, CSV.encode("utf-16-le"))
    assert_one_line(done, "as UTF-16 has: set encoding: utf-16-le")
    done = run_convert(tmp_path, CSV.encode("utf-16-be"))
    assert_one_line(done, "as UTF-16 has: set encoding: utf-16-be")


def test_the_line_of_a_wrong_byte_is_counted(tmp_path: Path) -> None:
    content = b"at,id,Flow\n" + b"2025-11-20,1,5\n" * 20_000 + b"2025-11-20,\xff,5\n"
    assert_one_line(run_convert(tmp_path, content), "line 20002: the text is not utf-8 (byte 0xff)")


def test_letters_may_be_composed_and_blanks_written_in_two_ways(tmp_path: Path) -> None:
    decomposed = GERMAN.replace("ü", "u\u0308").replace("r [", "r\u00a0[")
    assert converted(tmp_path, decomposed, COOLING).flows == [1.5]


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compress", "ending"), [(gzip.compress, "gz"), (bz2.compress, "bz2"), (lzma.compress, "xz")])
def test_compressed_tables_are_read(tmp_path: Path, compress: Callable[[bytes], bytes], ending: str) -> None:
    packed = compress(CSV.encode())
    found = converted(tmp_path, packed, 'machine: "{file}"', name=f"line.csv.{ending}")
    assert found.readings[0] == ("line", T, {"flow": 1.5})
    cut = run_convert(tmp_path, packed[:-9], name=f"line.csv.{ending}")
    assert_one_line(cut, f"line.csv.{ending}")
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    assert_one_line(run_convert(tmp_path, bytes(damaged), name=f"line.csv.{ending}"), f"line.csv.{ending}")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "readings.csv", "readings.csv is empty"),
        (b"\n \n\r\n", "readings.csv", "has no row"),
        (b"\0" * 100, "readings.csv", "has no row"),
        (b"at,id,Flow\n", "readings.csv", "have no row that the description wants"),
        (gzip.compress(b"", mtime=0), "readings.csv.gz", "has no row"),
        (b"at,id,Flow,Flow\n2025-11-20,1,2,3\n", "readings.csv", "column Flow more than once (columns 3 and 4)"),
        (b"at,id,flow\n2025-11-20,1,2\n", "readings.csv", "has no column Flow; did you mean flow?"),
        (b"Export\n\nat;id;Flow\n2025-11-20;1;2\n", "readings.csv", "line 3 has them: set skip_rows: 2"),
        (b"at,id,F\x0blow\n2025-11-20,1,2\n", "readings.csv", "has no column Flow; it has at, id, F\\x0blow"),
        (b"at,id,x\n2025-11-20,1,2\n", "readings.csv", "has no column Flow; it has at, id, x"),
        (b'at,id,Flow\n2025-11-20,1,"2\n' + b"2025-11-20,1,2\n" * 9, "readings.csv", "line 2: unexpected end of data"),
        (b'at,id,Flow\n2025-11-20,1,"2"3\n', "readings.csv", "line 2: ',' expected after '\"'; a quote"),
        (b'at,id,Flow\n2025-11-20,1,"' + b"x\n" * 99_999, "readings.csv", "line 2: field larger than field limit"),
        (b"x" * (2 << 20), "readings.csv", "line 1 has more than 1,048,576 characters"),
        (gzip.compress(b"\0" * (64 << 20), mtime=0), "readings.csv.gz", "line 1 has more than 1,048,576 characters"),
        (b"PAR1 and then nothing", "readings.parquet", "readings.parquet cannot be read as parquet"),
        (b"no parquet", "readings.parquet", "readings.parquet cannot be read as parquet"),
        (b"PK\x03\x04 and then nothing", "readings.xlsx", "cannot be read as an Excel file"),
        (b"a;b\n", "readings.xlsx", "is not an Excel file, whatever its name says"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "readings.xls", "save it as .xlsx"),
        (b"PK\x03\x04", "readings.zip", "is a zip archive; unpack it"),
        (b"\x28\xb5\x2f\xfd....", "readings.csv.zst", "is compressed with zstd"),
        (b"SQLite format 3\0", "plant.db", "is a database of SQLite"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_named(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    done = run_convert(tmp_path, content, name=name)
    assert_one_line(done, message)
    assert str(tmp_path) in done.stderr


def test_folders_and_what_cannot_be_opened_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert_one_line(run_convert(tmp_path, CSV, "files: folder"), "folder is a folder; let files: match the files in it")
    (tmp_path / "dangling.csv").symlink_to("nowhere")
    assert_one_line(run_convert(tmp_path, CSV, "files: dangling.csv"), "dangling.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert_one_line(run_convert(tmp_path, CSV, "files: pipe.csv"), "pipe.csv is not a regular file")
    assert_one_line(run_convert(tmp_path, CSV, "delimiter: ';'"), "it has them with delimiter: ','")
    without_quotes = 'at,id,Flow,note\n2025-11-20,1,5,"3/4 inch\n'
    assert_one_line(run_convert(tmp_path, without_quotes), "set quote: '' if cells are not quoted")
    assert converted(tmp_path, without_quotes, "quote: ''").flows == [5.0]
    assert converted(tmp_path, CSV.replace("Flow", "Flow,Flow").replace(",1.5", ",8,1.5").replace(",2.5", ",8,2.5"),
                     "skip_rows: 1\ncolumns: [at, id, other, Flow]").flows == [1.5, 2.5]  # fmt: skip


def test_an_existing_recording_is_only_replaced_with_force_and_never_half(tmp_path: Path) -> None:
    assert converted(tmp_path, CSV).flows == [1.5, 2.5]
    out = tmp_path / "out.parquet"
    before = out.read_bytes()
    arguments = ("convert", tmp_path / "tables.yaml", "--data", tmp_path, "--out", out)
    assert_one_line(faultline(*arguments), "exists; name another file, or replace it with --force")
    assert_one_line(run_convert(tmp_path, CSV + "2025-11-20 00:53:22,1,bad\n"), "'bad' is not a number")
    assert out.read_bytes() == before
    assert not list(tmp_path.glob("*.part"))


# -- parquet -------------------------------------------------------------------------------------------------------


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("at", "options", "time_ms"),
    [
        (pa.array([T * 1_000_000 + 123_456_789], pa.timestamp("ns")), "", T + 123),
        (pa.array([T * 1_000_000 + 123_456_789], pa.timestamp("ns", "Europe/Berlin")), "", T + 123),
        (pa.array([T * 1_000], pa.timestamp("us", "UTC")), "time_zone: Europe/Berlin", T),
        (pa.array([T // 1_000], pa.timestamp("s")), "time_zone: Europe/Berlin", T - 3_600_000),
        (pa.array([MOMENT.date()], pa.date32()), "", 1_763_596_800_000),
        (pa.array([T], pa.int64()), "time_unit: ms", T),
        (pa.array([T * 1_000_000], pa.uint64()), "time_unit: ns", T),
        (pa.array([1_763_600_000.123], pa.float64()), "time_unit: s", T + 123),
        (pa.array([Decimal("1763600000.123")], pa.decimal128(20, 3)), "time_unit: s", T + 123),
        (pa.array(["2025-11-20T00:53:20Z"]).dictionary_encode(), "", T),
        (pa.array(["2025-11-20T00:53:20Z"], pa.large_string()), "", T),
        (pa.array([20251120]), "time_format: '%Y%m%d'", 1_763_596_800_000),
    ],
)  # fmt: skip
def test_times_in_parquet(tmp_path: Path, at: Any, options: str, time_ms: int) -> None:
    content = parquet(at=at, id=[1], Flow=[1.5])
    assert converted(tmp_path, content, options, name="r.parquet").readings == [("p1", time_ms, {"flow": 1.5})]


@pytest.mark.parametrize(
    ("flow", "value"),
    [
        (pa.array([7], pa.int8()), 7.0),
        (pa.array([1.5], pa.float32()), 1.5),
        (pa.array([1.5], pa.float16()), 1.5),
        (pa.array([Decimal("1.5")], pa.decimal128(10, 2)), 1.5),
        (pa.array([None], pa.float64()), None),
        (pa.array([float("nan")]), None),
        (pa.array(["1.5"]).dictionary_encode(), 1.5),
        (pa.array([1.5]).dictionary_encode(), 1.5),
        (pa.nulls(1), None),
    ],
)  # fmt: skip
def test_values_in_parquet(tmp_path: Path, flow: Any, value: float | None) -> None:
    content = parquet(at=pa.array([MOMENT]), id=pa.array(["a"]).dictionary_encode(), Flow=flow)
    assert converted(tmp_path, content, name="r.parquet").readings == [("pa", T, {"flow": value})]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Flow": ["1.5", "x"]}, "row 2, column Flow: 'x' is not a number"),
        ({"Flow": [[1.5], [2.5]]}, "row 1, column Flow: [1.5] (list) is not a number"),
        ({"Flow": [True, False]}, "row 1, column Flow: True (bool) is not a number"),
        ({"Flow": pa.array([b"\xff", b""])}, "column Flow: b'\\xff' (bytes) is not a number"),
        ({"Flow": [1.0, float("inf")]}, "row 2, column Flow: inf is infinite"),
        ({"at": pa.array([2**62, 0], pa.timestamp("ms"))}, "row 1, column at"),
        ({"at": pa.array([5, None], pa.timestamp("s"))}, "row 2, column at: the empty cell holds no time"),
        ({"at": [T, T]}, "row 1, column at: 1763600000000 is a number without a unit; it looks like milliseconds"),
        ({"at": pa.array([time(1), time(2)])}, "(time) is not a time"),
        ({"id": pa.array([None, "1"])}, "row 1, column id: the empty cell holds no machine"),
    ],
)
def test_cells_of_parquet_that_cannot_be_used_are_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    content = parquet(**({"at": [MOMENT, MOMENT], "id": ["1", "1"], "Flow": [1.5, 2.5]} | columns))
    assert_one_line(run_convert(tmp_path, content, name="r.parquet"), message)


# -- Excel ---------------------------------------------------------------------------------------------------------


def excel(*rows: list[Any], epoch: datetime | None = None, sheets: tuple[str, ...] = ("Sheet",)) -> bytes:
    book = Workbook()
    book.active.title = sheets[0]
    for name in sheets[1:]:
        book.create_sheet(name)
    if epoch is not None:
        book.epoch = epoch
    for row in rows:
        book.active.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


HEADER = ["at", "id", "Flow"]


@pytest.mark.parametrize("epoch", [None, CALENDAR_MAC_1904])
def test_dates_of_excel_in_both_systems(tmp_path: Path, epoch: datetime | None) -> None:
    content = excel(["Export"], [], HEADER, [MOMENT, 1, 1.5], [], [MOMENT.replace(second=21), 1, "#N/A"], epoch=epoch)
    found = converted(tmp_path, content, "skip_rows: 1", name="r.xlsx")
    assert found.readings == [("p1", T, {"flow": 1.5}), ("p1", T + 1000, {"flow": None})]


def test_times_in_excel_may_be_texts_numbers_or_two_columns(tmp_path: Path) -> None:
    texts = excel(HEADER, ["20.11.2025 00:53:20", 1, "1,5"])
    options = "time_format: '%d.%m.%Y %H:%M:%S'\ndecimal: ','"
    assert converted(tmp_path, texts, options, name="r.xlsx").readings == [("p1", T, {"flow": 1.5})]
    serial = excel(HEADER, [45981.037037037036, 1, 1.5])
    assert_one_line(run_convert(tmp_path, serial, name="r.xlsx"), "set time_unit: excel")
    assert converted(tmp_path, serial, "time_unit: excel", name="r.xlsx").times == [T]
    assert converted(tmp_path, serial, "time_unit: excel", name="r.csv").times == [T]  # whatever its name
    two = excel(["date", "hour", "id", "Flow"], [date(2025, 11, 20), time(0, 53, 20), 1, 1.5])
    assert converted(tmp_path, two, "time: [date, hour]", name="r.xlsx").times == [T]
    assert converted(tmp_path, serial, "time_unit: excel\ncolumns: [at, id, Flow]\nskip_rows: 1", name="r.xlsx").times


def test_a_cell_of_excel_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    content = excel(HEADER, [MOMENT, 1, 1.5], [], [MOMENT, 1, "Bad Input"])
    assert_one_line(run_convert(tmp_path, content, name="r.xlsx"), "r.xlsx, row 4, column Flow: 'Bad Input' is not a")
    content = excel(HEADER, [MOMENT, 1, MOMENT])
    assert_one_line(run_convert(tmp_path, content, name="r.xlsx"), "row 2, column Flow: 2025-11-20 00:53:20 (datetime)")
    content = excel(HEADER, [MOMENT, 1, 1.5, "more"])
    assert_one_line(run_convert(tmp_path, content, name="r.xlsx"), "row 2: the row has cells beyond the 3 columns")
    several = excel(HEADER, [MOMENT, 1, 1.5], sheets=("Data", "Notes"))
    assert_one_line(
        run_convert(tmp_path, several, name="r.xlsx"), "several sheets; set sheet to one of 'Data', 'Notes'"
    )
    assert_one_line(run_convert(tmp_path, several, "sheet: data", name="r.xlsx"), "has no sheet 'data'")
    assert_one_line(run_convert(tmp_path, several, "sheet: Notes", name="r.xlsx"), "has no row")
    assert converted(tmp_path, several, "sheet: Data", name="r.xlsx").flows == [1.5]


def test_a_damaged_excel_file_is_named(tmp_path: Path) -> None:
    whole = excel(HEADER, [MOMENT, 1, 1.5])
    assert_one_line(run_convert(tmp_path, whole[:-50], name="r.xlsx"), "r.xlsx cannot be read as an Excel file")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readings.csv", CSV)
    assert_one_line(run_convert(tmp_path, file.getvalue(), name="r.xlsx"), "is a zip archive and no Excel file")
    for part, text in {"xl/workbook.xml": "<no", "xl/worksheets/sheet1.xml": "<row r='x'"}.items():
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as archive:
            for entry in old.namelist():
                archive.writestr(entry, text if entry == part else old.read(entry))
        assert_one_line(run_convert(tmp_path, file.getvalue(), name="r.xlsx"), "r.xlsx cannot be read as an Excel file")


def test_excel_files_need_an_extra_that_is_named(tmp_path: Path) -> None:
    with mock.patch.dict("sys.modules", {"openpyxl": None}):
        done = run_convert(tmp_path, excel(HEADER, [MOMENT, 1, 1.5]), name="r.xlsx")
    assert_one_line(done, "r.xlsx needs openpyxl: run  pip install 'faultline[excel]'")


# -- texts and labels ----------------------------------------------------------------------------------------------


def test_rows_without_text_are_refused_or_counted_and_labels_end_where_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "readings.csv").write_text(CSV)
    (tmp_path / "log.csv").write_text('at,id,note,state\n2025-11-20,1,"leak, ""big""",leak\n2025-11-21,1,,\n')
    description, out = tmp_path / "tables.yaml", tmp_path / "out.parquet"
    text = """
readings: [{files: readings.csv, machine: "p{id}", time: at, values: {flow: Flow}}]
events: [{files: log.csv, machine: "p{id}", time: at, text: "{note}"}]
labels: [{files: log.csv, machine: "p{id}", time: at, fault: "{state}", runs: true}]
"""
    description.write_text(text)
    done = faultline("convert", description, "--data", tmp_path, "--out", out)
    assert_one_line(done, "log.csv, line 3, column note: the empty cell holds no text")
    description.write_text(text.replace('"{note}"', '"{note}", bad_rows: skip'))
    done = faultline("convert", description, "--data", tmp_path, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "rows skipped: 1 (column note holds no text)" in done.stdout
    records = list(read_recording(tmp_path / "out.parquet"))
    assert [decode_event(r.value or b"").text for r in records if r.topic == "events"] == ['leak, "big"']
    (label,) = [r.value for r in records if r.topic == "labels"]
    start = int(datetime(2025, 11, 20, tzinfo=UTC).timestamp()) * 1000
    assert label == b'{"machine":"p1","start":%d,"fault":"leak","end":%d}' % (start, start + 86_400_000)
