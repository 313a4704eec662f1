"""Values in a plant's tables: decimal comma, thousands, what stands for "no value", and cells that are no numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import assert_one_line
from tests.support.tables import converted, run_convert


def table(*cells: str) -> str:
    return "at;id;Flow\n" + "".join(f"2026-03-01 00:00:{at:02};1;{cell}\n" for at, cell in enumerate(cells))


@pytest.mark.parametrize(
    ("cell", "options", "value"),
    [
        ("120.4", "", 120.4),
        (" +3 ", "", 3.0),
        ("1e5", "", 1e5),
        ("−7.5", "", -7.5),  # a real minus sign
        (".5", "", 0.5),
        ("1.", "", 1.0),
        ("120,4", "decimal: ','", 120.4),
        ("-0,5", "decimal: ','", -0.5),
        ("1,5E-3", "decimal: ','", 0.0015),
        ("3", "decimal: ','", 3.0),
        ("1.234,5", "decimal: ','\nthousands: '.'", 1234.5),
        ("-1.234.567", "decimal: ','\nthousands: '.'", -1_234_567.0),
        ("1\u00a0234,5", "decimal: ','\nthousands: ' '", 1234.5),
        ("1\u202f234,5", "decimal: ','\nthousands: ' '", 1234.5),
        ("1 234,5", "decimal: ','\nthousands: ' '", 1234.5),
        ("1,234.5", "thousands: ','", 1234.5),
        ("1,23,456.5", "thousands: ','", 123_456.5),
        ("1'234.5", "thousands: \"'\"", 1234.5),
        ("1’234.5", "thousands: \"'\"", 1234.5),
        ("", "", None),
        ("   ", "", None),
        ("n/a", "", None),
        ("#N/A", "", None),
        ("NaN", "", None),
        ("1.#QNAN", "", None),
        ("1,#QNAN", "decimal: ','\nnull_markers: ['1,#QNAN']", None),
        ("Bad Input", "null_markers: [Bad Input]", None),
        ("BAD INPUT ", "null_markers: [bad input]", None),
        ("--", "null_markers: ['-', '--']", None),
        ("-9999.00", "null_markers: [-9999]", None),
        ("6553,5", "decimal: ','\nnull_markers: ['6553,5']", None),
    ],
)  # fmt: skip
def test_numbers_as_plants_write_them(tmp_path: Path, cell: str, options: str, value: float | None) -> None:
    assert converted(tmp_path, table(cell, "0"), options).flows == [value, 0.0]


@pytest.mark.parametrize(
    ("cell", "options", "advice"),
    [
        ("Bad Input", "", "add it to null_markers"),
        ("--", "", "add it to null_markers"),
        ("1_000", "", "is not a number"),
        ("23.5 °C", "", "is not a number"),
        ("0x1F", "", "is not a number"),
        ("true", "", "is not a number"),
        ("120,4", "", "it would be 120.4 with decimal: ','"),
        ("1.234,5", "", "it would be 1234.5 with decimal: ',' and thousands: '.'"),
        ("1,234", "", "it would be 1.234 with decimal: ',', or 1234 with decimal: '.' and thousands: ','"),
        ("1 234,5", "", "it would be 1234.5 with decimal: ',' and thousands: ' '"),
        ("120.4", "decimal: ','", "it would be 120.4 with decimal: '.'"),
        ("1.5", "decimal: ','\nthousands: '.'", "it would be 1.5 with decimal: '.'"),  # not fifteen
        ("1.2345,6", "decimal: ','\nthousands: '.'", "is not a number"),
        ("inf", "", "infinite"),
        ("1e39", "", "infinite"),
        ("1.#INF", "", "is not a number"),
        ("x" * 500, "", "'xxx"),
    ],
)  # fmt: skip
def test_a_cell_that_is_no_number_is_named_with_file_line_column_and_content(
    tmp_path: Path, cell: str, options: str, advice: str
) -> None:
    done = run_convert(tmp_path, table("1", "2", cell), options)
    assert_one_line(done, f"{tmp_path / 'readings.csv'}, line 4, column Flow: '{cell[:30]}")
    assert_one_line(done, advice)
    assert not (tmp_path / "out.parquet").exists()


def test_bad_values_can_be_taken_as_unknown_and_are_counted_by_column_and_reason(tmp_path: Path) -> None:
    content = (
        "at,id,Flow,Load\n"
        "2026-03-01 00:00:00,1,Bad Input,1\n"
        "2026-03-01 00:00:01,1,I/O Timeout,2\n"
        "2026-03-01 00:00:02,1,inf,3\n"
        "2026-03-01 00:00:03,1,4,--\n"
        "2026-03-01 00:00:04,1,n/a,5\n"
        '2026-03-01 00:00:05,1,"120,4",6\n'
    )
    done = converted(tmp_path, content, "bad_values: unknown\nvalues: {flow: Flow, load: Load}")
    assert [values for _, _, values in done.readings] == [
        {"flow": None, "load": 1.0},
        {"flow": None, "load": 2.0},
        {"flow": None, "load": 3.0},
        {"flow": 4.0, "load": None},
        {"flow": None, "load": 5.0},
        {"flow": None, "load": 6.0},
    ]
    where = f"{tmp_path / 'readings.csv'}, line"
    assert done.said.splitlines()[1:] == [
        f"values taken as unknown: 2 of column Flow (not a number), first 'Bad Input' in {where} 2",
        f"values taken as unknown: 1 of column Flow (not finite), first 'inf' in {where} 4",
        f"values taken as unknown: 1 of column Load (not a number), first '--' in {where} 5",
        f"values taken as unknown: 1 of column Flow (a number with decimal: ','), first '120,4' in {where} 7",
    ]


def test_rows_without_machine_or_time_or_with_other_cells_are_refused_or_skipped_and_counted(tmp_path: Path) -> None:
    good = "at,id,Flow\n2026-03-01 00:00:00,1,1.5\n"
    for row, message in {
        "2026-03-01 00:00:01,,2": "column id: the empty cell holds no machine",
        ",1,2": "column at: the empty cell holds no time",
        "n/a,1,2": "column at: 'n/a' holds no time",
        "Total,1,2": "column at: 'Total' is not an ISO 8601 time",
        "2026-03-01 00:00:01,1": "the row has 2 of 3 cells; is the file cut off?",
        "2026-03-01 00:00:01,1,2,5": "the row has 4 cells for 3 columns; a delimiter in a cell needs quotes",
        "2026-03-01 00:00:01,1,2\0": "the line holds NUL bytes",
        f"2026-03-01 00:00:01,{'m' * 250},2": "gives no machine id",
    }.items():
        done = run_convert(tmp_path, f"{good}{row}\n")
        assert_one_line(done, f"{tmp_path / 'readings.csv'}, line 3")
        assert_one_line(done, message)
        found = converted(tmp_path, f"{good}{row}\n2026-03-01 00:00:02,1,2.5\n", "bad_rows: skip")
        assert found.flows == [1.5, 2.5]
        assert "rows skipped: 1 (" in found.said
        assert f"{tmp_path / 'readings.csv'}, line 3\n" in found.said


def test_what_is_no_data_is_no_error(tmp_path: Path) -> None:
    content = (
        "sep=;\r\n"
        "\r\n"
        "at ; id; \"Flow\";;\r\n"
        "\r\n"
        "2026-03-01 00:00:00;1;1;;\r\n"
        ";;;;\r\n"
        "2026-03-01 00:00:01; 1; \"2\";;;;\r\n"
        "2026-03-01 00:00:02;1;3\r\n"
        "\r\n"
    )  # fmt: skip
    done = converted(tmp_path, content)
    assert done.flows == [1.0, 2.0, 3.0]
    assert {machine for machine, _, _ in done.readings} == {"p1"}


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    content = (
        'Export of 2026\nat,id,note,Flow\n(time),,,m3/h\n\n2026-03-01 00:00:00,1,"two\nlines",1\n2026-03-01,1,,x\n'
    )
    options = "skip_rows: 1\nskip_rows_after_header: 1"
    assert_one_line(run_convert(tmp_path, content, options), "line 7, column Flow: 'x'")
    assert converted(tmp_path, content.replace(",x", ",2"), options).flows == [1.0, 2.0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found_by_the_columns(tmp_path: Path, delimiter: str) -> None:
    content = "at;id;Flow;a,b,c,d,e\n2026-03-01;1;2;\n".replace(";", delimiter)
    assert converted(tmp_path, content.replace(",b,c,d,e", "") if delimiter == "," else content).flows == [2.0]
    named = f"sep={delimiter}\n{content}"
    assert converted(tmp_path, named.replace(",b,c,d,e", "") if delimiter == "," else named).flows == [2.0]
    without_header = f"2026-03-01{delimiter}1{delimiter}2\n"
    assert converted(tmp_path, without_header, "columns: [at, id, Flow]").flows == [2.0]


def test_cells_are_taken_as_they_are_written(tmp_path: Path) -> None:
    content = "at,id,Flow\n2026-03-01,007,1\n2026-03-02,8,2\n"
    assert [machine for machine, _, _ in converted(tmp_path, content).readings] == ["p007", "p8"]
    found = converted(tmp_path, content, 'machine: "pump-{id:03d}"')
    assert [machine for machine, _, _ in found.readings] == ["pump-007", "pump-008"]
    content = "at,id,Flow [m3/h],Reactor.Temp\n2026-03-01,a,1,5\n"
    found = converted(tmp_path, content, 'machine: "{Reactor.Temp}-{Flow [m3/h]}"\nvalues: {flow: Reactor.Temp}')
    assert found.readings == [("5-1", 1_772_323_200_000, {"flow": 5.0})]
    assert_one_line(
        run_convert(tmp_path, content, 'machine: "{id:03d}"\nvalues: {flow: Reactor.Temp}'),
        "column id: 'a' does not fit the format '03d'",
    )
