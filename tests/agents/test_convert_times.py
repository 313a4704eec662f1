"""Times in a plant's tables: formats, units, Excel's dates, zones, and the hours that summer time repeats and skips."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.commands import assert_one_line
from tests.support.tables import converted, run_convert

T = 1_763_600_000_000  # 2025-11-20T00:53:20Z
BERLIN = "time_zone: Europe/Berlin"


def table(*times: str, machine: str = "1") -> str:
    return "at;id;Flow\n" + "".join(f"{time};{machine};{at}\n" for at, time in enumerate(times))


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000


@pytest.mark.parametrize(
    ("cell", "options", "time_ms"),
    [
        ("2025-11-20 00:53:20", "", T),
        ("2025-11-20T00:53:20Z", "", T),
        ("2025-11-20T01:53:20+01:00", BERLIN, T),
        ("2025-11-20 01:53:20 +0100", "", T),
        ("2025-11-20 00:53:20 UTC", BERLIN, T),
        ("2025-11-20 00:53:20.123456789", "", T + 123),
        ("2025-11-20 01:53:20 CET", BERLIN, T),
        ("2025-07-20 02:53:20 CEST", BERLIN, ms("2025-07-20 00:53:20")),
        ("2025-07-20 01:53:20CET", BERLIN, ms("2025-07-20 00:53:20")),
        ("20.11.2025 00:53:20 UTC", f"time_format: '%d.%m.%Y %H:%M:%S'\n{BERLIN}", T),
        ("2025-11-20 00:53:20,123", "decimal: ','", T + 123),
        ("2025-11-20 01:53:20", BERLIN, T),
        ("2025-07-20 02:53:20", BERLIN, ms("2025-07-20 00:53:20")),
        ("2025-07-20 01:53:20", "time_zone: '+01:00'", ms("2025-07-20 00:53:20")),
        ("2025-11-19 19:23:20", "time_zone: '-05:30'", T),
        ("20.11.2025 00:53:20", "time_format: '%d.%m.%Y %H:%M:%S'", T),
        ("20/11/2025 12:53:20 AM", "time_format: '%d/%m/%Y %I:%M:%S %p'", T),
        ("20-Nov-25 01:53:20", f"time_format: '%d-%b-%y %H:%M:%S'\n{BERLIN}", T),
        ("20.11.2025 01:53:20 +0100", "time_format: '%d.%m.%Y %H:%M:%S %z'", T),
        ("2025-11-20 00:53:20.1230000", "time_format: '%Y-%m-%d %H:%M:%S.%f'", T + 123),
        ("20251120005320", "time_format: '%Y%m%d%H%M%S'", T),
        ("20251120 005320", "time_format: '%Y%m%d %H%M%S'", T),
        ("1763600000", "time_unit: s", T),
        ("1763600000.123", "time_unit: s", T + 123),
        ("1763600000,123", "time_unit: s\ndecimal: ','", T + 123),
        ("1.763600000123e9", "time_unit: s", T + 123),
        ("1763600000123", "time_unit: ms", T + 123),
        ("1763600000123999", "time_unit: us", T + 123),
        ("1763600000123999999", "time_unit: ns", T + 123),
        ("12", "time_step: 1h", ms("2020-01-01 12:00:00")),
        ("0.5", "time_step: 10s\ntime_start: 2025-11-20T00:53:15Z", T),
        ("-1", "time_step: 1m\ntime_start: '2025-11-20T01:54:20+01:00'", T),
        ("12", "time_unit: s", 12_000),  # a table that counts from its beginning
        ("45981.0370370370", "time_unit: excel", T),
        ("45981,0787037037", f"time_unit: excel\ndecimal: ','\n{BERLIN}", T),
        ("44519.0370370370", "time_unit: excel_1904", T),
    ],
)  # fmt: skip
def test_times_as_plants_write_them(tmp_path: Path, cell: str, options: str, time_ms: int) -> None:
    assert converted(tmp_path, table(cell), options).times == [time_ms]


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("1763600000", "", "without a unit; it looks like seconds (2025-11-20 00:53:20 UTC): set time_unit: s"),
        ("1763600000000", "", "it looks like milliseconds (2025-11-20 00:53:20 UTC): set time_unit: ms"),
        ("1763600000000000", "", "it looks like microseconds (2025-11-20 00:53:20 UTC): set time_unit: us"),
        ("1763600000000000000", "", "it looks like nanoseconds (2025-11-20 00:53:20 UTC): set time_unit: ns"),
        ("45981.037037037", "", "it looks like a date of Excel (2025-11-20 00:53:20): set time_unit: excel"),
        ("20251120", "", "it looks like a date: set time_format: '%Y%m%d'"),
        ("20251120005320", "", "it looks like a date: set time_format: '%Y%m%d%H%M%S'"),
        ("7", "", "set time_unit to s, ms, us, ns or excel"),
        ("1763600000", "time_unit: ms", "is 1970-01-21 09:53:20 UTC in milliseconds, and 2025-11-20 00:53:20 UTC in"),
        ("1763600000000", "time_unit: s", "is no time before 2109 in seconds, and 2025-11-20 00:53:20 UTC in milli"),
        ("1763600000000000000", "time_unit: us", "set time_unit: ns"),
        ("1.7636E+09", "time_unit: s", "digits are lost"),
        ("1e999", "time_unit: s", "digits are lost"),
        ("-5", "time_unit: s", "is not a time between 1970 and 2109"),
        ("9" * 6000, "time_unit: ns", "is not a time"),
        ("0.5", "time_unit: excel", "is not a time between 1970 and 2109"),
        ("1969-12-31 23:59:59", "", "is not a time between 1970 and 2109"),
        ("0001-01-01 00:00:00", "time_zone: '+14:00'", "is not a time between 1970 and 2109"),
        ("9999-12-31 23:59:59", "time_zone: '-12:00'", "is not a time between 1970 and 2109"),
        ("20.11.2025 00:53", "", "is not an ISO 8601 time; it fits time_format: '%d.%m.%Y %H:%M'"),
        ("03/04/2026 10:00", "", "it fits time_format: '%d/%m/%Y %H:%M' or '%m/%d/%Y %H:%M'"),
        ("2026-3-1 7:05", "", "it fits time_format: '%Y-%m-%d %H:%M'"),
        ("2025-11-20 01:53:20 CET", "", "is not an ISO 8601 time"),
        ("yesterday", "", "say with time_format how it is written"),
        ("2025-02-30 00:00:00", "", "is not an ISO 8601 time"),
        ("20251120 5320", "time_format: '%Y%m%d %H%M%S'", "does not fit time_format: '%Y%m%d %H%M%S'"),  # not 05:32:00
        ("2025-11-20 00:53", "time_format: '%d.%m.%Y %H:%M'", "does not fit time_format: '%d.%m.%Y %H:%M'; it fits"),
    ],
)  # fmt: skip
def test_a_time_that_cannot_be_meant_is_refused_with_what_it_looks_like(
    tmp_path: Path, cell: str, options: str, message: str
) -> None:
    done = run_convert(tmp_path, table(cell), options)
    assert_one_line(done, f"line 2, column at: '{cell[:30]}")
    assert_one_line(done, message)


def test_date_and_time_of_day_may_have_columns_of_their_own(tmp_path: Path) -> None:
    content = "date,time,id,Flow\n20.11.2025,00:53:20,1,5\n"
    options = "time: [date, time]\ntime_format: '%d.%m.%Y %H:%M:%S'"
    assert converted(tmp_path, content, options).times == [T]
    assert converted(tmp_path, content.replace("20.11.2025", "2025-11-20"), "time: [date, time]").times == [T]
    days = "date,time,id,Flow\n45981,0.037037037037,1,5\n"
    assert_one_line(run_convert(tmp_path, days, "time: [date, time]"), "column date and time: '45981 0.037")
    no_time = run_convert(tmp_path, content.replace("00:53:20", ""), options)
    assert_one_line(no_time, "column date and time: '20.11.2025 ' holds no time")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("time_zone: Mars/Base", "time_zone: unknown zone 'Mars/Base'"),
        ("time_zone: Europe", "time_zone: unknown zone 'Europe'"),
        ("time_zone: '+99:00'", "time_zone: unknown zone"),
        ("time_zone: ../../etc/passwd", "time_zone: unknown zone"),
        ("time_unit: minutes", "time_unit: Input should be 's', 'ms'"),
        ("time_format: '%H:%M'", "has no year"),
        ("time_format: '%Y-%Q'", "cannot be used"),
        ("time_format: '%Y-%m-%d %H:%M %Z'", "cannot read names of zones"),
        ("null_markers: [No, Off]", "put quotes around them"),
        ("null_markers: [null]", "put quotes around them"),
        ("time_format: '%Y'\ntime_unit: s", "give one of them"),
        ("time: [a, b, c]", "at most 2 items"),
        ("ambiguous: guess", "ambiguous: Input should be"),
        ("decimal: ','\nthousands: ','", "decimal and thousands are both ','"),
        ("delimiter: ';;'", "delimiter: must be one character, or tab"),
        ("encoding: utf-9", "encoding: is unknown"),
        ("encoding: base64", "encoding: is unknown"),
        ("machine: 'p{}'", "machine: template 'p{}'"),
        ("machine: 'p{id'", "machine: "),
        ("machine: 5", "machine: must be a text"),
        ("skip_rows: -1", "skip_rows: Input should be greater"),
        ("columns: []", "columns: List should have at least 1 item"),
        ("bad_values: ignore", "bad_values: Input should be 'refuse' or 'unknown'"),
        ("files: /etc/*", "is no pattern of files"),
        ("files: ''", "is no pattern of files"),
    ],
)  # fmt: skip
def test_a_description_that_cannot_be_meant_is_refused_with_its_field(
    tmp_path: Path, options: str, message: str
) -> None:
    assert_one_line(run_convert(tmp_path, table("2025-11-20"), options), message)


# -- summer time ---------------------------------------------------------------------------------------------------

# In Berlin clocks go from 03:00 back to 02:00 on 2025-10-26, and from 02:00 to 03:00 on 2026-03-29.
AUTUMN = ("01:40", "02:00", "02:20", "02:40", "02:00", "02:20", "02:40", "03:00")
IN_ORDER = [ms("2025-10-25 23:40") + at * 1_200_000 for at in range(8)]


def autumn(*hours: str, machine: str = "1") -> str:
    return table(*(f"2025-10-26 {hour}:00" for hour in hours), machine=machine)


def test_the_repeated_hour_is_refused_until_the_description_decides(tmp_path: Path) -> None:
    done = run_convert(tmp_path, autumn(*AUTUMN), BERLIN)
    assert_one_line(done, "line 3, column at: '2025-10-26 02:00:00' is two times in Europe/Berlin")
    assert_one_line(done, "set ambiguous: earlier, later or in_order")
    first, second = ms("2025-10-26 00:00"), ms("2025-10-26 01:00")
    content = autumn("02:00")
    assert converted(tmp_path, content, f"{BERLIN}\nambiguous: earlier").times == [first]
    assert converted(tmp_path, content, f"{BERLIN}\nambiguous: later").times == [second]
    assert converted(tmp_path, content, "time_zone: '+01:00'").times == [second]
    with_offset = table("2025-10-26T02:00:00+02:00", "2025-10-26T02:00:00+01:00")
    assert converted(tmp_path, with_offset, BERLIN).times == [first, second]
    with_names = table("2025-10-26 02:00:00 CEST", "2025-10-26 02:00:00 CET")
    assert converted(tmp_path, with_names, BERLIN).times == [first, second]
    skipped = converted(tmp_path, autumn(*AUTUMN), f"{BERLIN}\nbad_rows: skip")
    assert skipped.times == [IN_ORDER[0], IN_ORDER[-1]]
    assert "rows skipped: 6 (column at is ambiguous), first '2025-10-26 02:00:00' in" in skipped.said


def test_the_order_of_rows_decides_the_repeated_hour(tmp_path: Path) -> None:
    options = f"{BERLIN}\nambiguous: in_order"
    assert converted(tmp_path, autumn(*AUTUMN), options).times == IN_ORDER
    newest_first = converted(tmp_path, autumn(*reversed(AUTUMN)), options)
    assert newest_first.times == IN_ORDER
    assert newest_first.flows == [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    # Hourly rows, tables that begin or end within the hour, and one without its first pass.
    assert converted(tmp_path, autumn("01:00", "02:00", "02:00", "03:00"), options).times == [
        ms(f"2025-10-{hour}") for hour in ("25 23:00", "26 00:00", "26 01:00", "26 02:00")
    ]
    assert converted(tmp_path, autumn(*AUTUMN[:3]), options).times == IN_ORDER[:3]
    assert converted(tmp_path, autumn(*AUTUMN[-3:]), options).times == IN_ORDER[-3:]
    assert converted(tmp_path, autumn("01:00", "02:40", "03:00"), options).times[1] == IN_ORDER[6]


def test_each_machine_has_its_own_order(tmp_path: Path) -> None:
    first, second = (autumn(*AUTUMN, machine=name).splitlines()[1:] for name in "12")
    rows = [line for pair in zip(first, second, strict=True) for line in pair]
    found = converted(tmp_path, "at;id;Flow\n" + "\n".join(rows), f"{BERLIN}\nambiguous: in_order")
    for machine in ("p1", "p2"):
        assert [time for name, time, _ in found.readings if name == machine] == IN_ORDER


def test_an_order_that_does_not_decide_is_refused_with_the_row(tmp_path: Path) -> None:
    options = f"{BERLIN}\nambiguous: in_order"
    thrice = autumn("01:40", "02:20", "02:10", "02:00", "02:20", "03:00")
    done = run_convert(tmp_path, thrice, options)
    assert_one_line(done, "line 3, column at: '2025-10-26 02:20:00' comes after rows that go back a second time")
    alone = run_convert(tmp_path, autumn("02:00"), options)
    assert_one_line(alone, "line 2, column at: '2025-10-26 02:00:00' is as near")
    between = run_convert(tmp_path, autumn("01:30", "02:30", "03:30"), options)
    assert_one_line(between, "line 3")
    skipped = converted(tmp_path, thrice, f"{options}\nbad_rows: skip")
    assert skipped.times == [ms("2025-10-25 23:40"), ms("2025-10-26 02:00")]
    assert "rows skipped: 4 (column at is ambiguous)" in skipped.said


def test_an_hour_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    content = table("2026-03-29 01:59:59", "2026-03-29 02:30:00", "2026-03-29 03:00:00")
    for ambiguous in ("refuse", "earlier", "later", "in_order"):
        done = run_convert(tmp_path, content, f"{BERLIN}\nambiguous: {ambiguous}")
        assert_one_line(done, "line 3, column at: '2026-03-29 02:30:00' does not exist in Europe/Berlin")
        assert_one_line(done, "give time_zone as an offset such as +01:00")
    skipped = converted(tmp_path, content, f"{BERLIN}\nbad_rows: skip")
    assert skipped.times == [ms("2026-03-29 00:59:59"), ms("2026-03-29 01:00:00")]
    assert "rows skipped: 1 (column at does not exist)" in skipped.said
    assert len(converted(tmp_path, content, "time_zone: '+01:00'").times) == 3
