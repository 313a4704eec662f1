"""Times of foreign forms: units, formats, zones, and what a time that is refused looks like."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.form import TimePlace
from pipeline.config.hints import describe_time
from pipeline.mapping.times import TimeReader
from pipeline.wire.messages import Reason, RejectedError
from tests.support.forms import T, read_lines

BERLIN = {"zone": "Europe/Berlin"}


def read(value: Any, stamp_ms: int = T, **place: Any) -> int:
    return TimeReader(TimePlace.model_validate({"path": "t"} | place)).read(value, stamp_ms)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("value", "place", "expected"),
    [
        (T, {}, T),
        (str(T), {}, T),
        (float(T), {}, T),
        (T // 1000, {"unit": "s"}, T),
        (T / 1000 + 0.123, {"unit": "s"}, T + 123),
        ("1763600000.123", {"unit": "s"}, T + 123),
        ("1763600000,5", {"unit": "s"}, T + 500),
        (" 1763600000 ", {"unit": "s"}, T),
        (T * 1000 + 999, {"unit": "us"}, T),
        (T * 1_000_000 + 999_999, {"unit": "ns"}, T),
        (str(T * 1_000_000 + 1), {"unit": "ns"}, T),
        ((T + 11_644_473_600_000) * 10_000, {"unit": "filetime"}, T),
        ((T + 62_135_596_800_000) * 10_000, {"unit": "ticks"}, T),
        (45981.5, {"unit": "excel"}, ms("2025-11-20T12:00:00+00:00")),
        (45981.5, {"unit": "excel"} | BERLIN, ms("2025-11-20T11:00:00+00:00")),
        ("2025-11-20T00:53:20Z", {}, T),
        ("2025-11-20T01:53:20+01:00", {"unit": "s"}, T),
        ("2025-11-20 00:53:20.123456789Z", {}, T + 123),
        ("2025-11-20 01:53:20 +0100", {}, T),
        ("2025-11-20T01:53:20+01:00[Europe/Berlin]", {}, T),
        ("20251120T005320Z", {}, T),
        ("2025-11-20T01:53:20", BERLIN, T),
        ("2025-11-20T00:53:20Z", BERLIN, T),
        ("20.11.2025 01:53:20", {"format": "%d.%m.%Y %H:%M:%S"} | BERLIN, T),
        ("Thu, 20 Nov 2025 01:53:20 +0100", {"format": "%a, %d %b %Y %H:%M:%S %z"}, T),
        ("20/11/25 00:53:20.123456789", {"format": "%d/%m/%y %H:%M:%S.%f", "zone": "UTC"}, T + 123),
        (20251120005320, {"format": "%Y%m%d%H%M%S", "zone": "UTC"}, T),
        ("20251120005320", {"format": "%Y%m%d%H%M%S", "zone": "UTC"}, T),
        (T // 1000, {"format": "%Y-%m-%d", "unit": "s"}, T),
        (datetime(2025, 11, 20, 0, 53, 20, tzinfo=UTC), {}, T),
        (datetime(2025, 11, 20, 1, 53, 20), BERLIN, T),
    ],
)
def test_times(value: Any, place: dict[str, Any], expected: int) -> None:
    assert read(value, **place) == expected


@pytest.mark.parametrize(
    ("local", "stamp", "expected"),
    [
        # Clocks went back from 3:00 to 2:00 on 26 October 2025: what the record's own time stamp is nearer to.
        ("2025-10-26T02:30:00", "2025-10-26T00:30:05+00:00", "2025-10-26T00:30:00+00:00"),
        ("2025-10-26T02:30:00", "2025-10-26T01:30:05+00:00", "2025-10-26T01:30:00+00:00"),
        ("2025-10-26T02:30:00", "2026-01-01T00:00:00+00:00", "2025-10-26T01:30:00+00:00"),
        ("2025-10-26T02:30:00", "1969-12-31T23:59:59+00:00", "2025-10-26T00:30:00+00:00"),
        # They went forward from 2:00 to 3:00 on 30 March 2025: a clock that is not set yet, or too early.
        ("2025-03-30T02:30:00", "2025-03-30T01:30:05+00:00", "2025-03-30T01:30:00+00:00"),
        ("2025-03-30T02:30:00", "2025-03-30T00:30:05+00:00", "2025-03-30T00:30:00+00:00"),
    ],
)
def test_local_hours_that_come_twice_or_never(local: str, stamp: str, expected: str) -> None:
    assert read(local, ms(stamp), **BERLIN) == ms(expected)


@pytest.mark.parametrize(
    ("value", "place", "message"),
    [
        (T // 1000, {}, "looks like seconds since 1970: 2025-11-20T00:53:20Z; declare `time: {path: t, unit: s}`"),
        (str(T // 1000), {}, "unit: s}`"),
        (T * 1000, {}, "looks like microseconds since 1970: 2025-11-20T00:53:20Z; declare `time: {path: t, unit: us}`"),
        (T * 1_000_000, {}, "unit: ns}`"),
        (T, {"unit": "s"}, "looks like milliseconds since 1970: 2025-11-20T00:53:20Z"),
        (T // 60_000, {}, "looks like minutes since 1970: 2025-11-20T00:53:00Z"),
        (T / 1000, {}, "unit: s}`"),
        (
            45981.037,
            {},
            "looks like days of a spreadsheet: 2025-11-20T00:53:16Z; declare `time: {path: t, unit: excel}`",
        ),
        ((T + 11_644_473_600_000) * 10_000, {}, "looks like Windows' FILETIME: 2025-11-20T00:53:20Z"),
        ((T + 62_135_596_800_000) * 10_000, {}, "looks like .NET's ticks: 2025-11-20T00:53:20Z"),
        ("2025-11-20T00:53:20", {}, "declare its zone, such as `time: {path: t, zone: Europe/Berlin}`"),
        ("20.11.2025", {}, "is not an ISO 8601 time; declare its format"),
        ("20.11.2025", {"format": "%d/%m/%Y"}, "is not of format %d/%m/%Y"),
        ("1999-12-31T23:59:59Z", {}, "is not a time between 2000 and 2109"),
        ("9999-12-31T23:59:59-12:00", {}, "is not a time between 2000 and 2109"),
        ("0001-01-01T00:00:00+12:00", {}, "is not a time between 2000 and 2109"),
        (-5, {}, "is not a time between 2000 and 2109"),
        (10**400, {}, "is not a time between 2000 and 2109"),
        (float("nan"), {}, "is not a time"),
        (1e308, {"unit": "s"}, "is not a time"),
        (True, {}, "is not a time"),
        ([T], {}, "is not a time"),
        ("", {}, "is not an ISO 8601 time"),
        ("x" * 5000, {}, "is not a time"),
        ("9" * 5000, {}, "is not a time"),
    ],
)
def test_a_time_that_is_refused_says_what_it_looks_like(value: Any, place: dict[str, Any], message: str) -> None:
    with pytest.raises(RejectedError) as caught:
        read(value, **place)
    assert caught.value.reason == Reason.BAD_TIME
    assert message in caught.value.detail
    assert len(caught.value.detail) < 250


def test_seconds_are_refused_or_taken_as_declared() -> None:
    """Case 6."""
    value = {"machine": "te-01", "time": T // 1000, "values": {"a": 1}}
    assert read_lines({}, value)[0].startswith("refused: bad_time: time 1763600000 looks like seconds since 1970")
    assert read_lines({"time": {"path": "time", "unit": "s"}}, value) == ["te-01  2025-11-20T00:53:20.000Z  a 1.0"]


def test_old_times_are_taken_from_old_records() -> None:
    assert read(12_345, stamp_ms=12_400) == 12_345


@pytest.mark.parametrize("value", [T, "yesterday", None, True, 7, 0, -1, 10**30, float("inf"), "2025-11-20T00:53:20Z"])
def test_what_looks_like_nothing_is_not_described(value: object) -> None:
    found = describe_time(value, T)
    assert found is None or (value == T and "milliseconds" in found)


@given(st.integers(946_684_800_000, 2**42 - 1), st.sampled_from(["s", "ms", "us", "ns", "filetime", "ticks"]))
def test_whole_units_come_back_exactly(time_ms: int, unit: str) -> None:
    written = {
        "s": time_ms // 1000,
        "ms": time_ms,
        "us": time_ms * 1000,
        "ns": time_ms * 1_000_000,
        "filetime": (time_ms + 11_644_473_600_000) * 10_000,
        "ticks": (time_ms + 62_135_596_800_000) * 10_000,
    }[unit]
    expected = time_ms // 1000 * 1000 if unit == "s" else time_ms
    assert read(written, unit=unit) == read(str(written), unit=unit) == expected


@given(st.datetimes(datetime(2000, 1, 2), datetime(2100, 1, 1), timezones=st.timezones()))
def test_local_times_with_an_offset_come_back_exactly(moment: datetime) -> None:
    expected = (moment.replace(tzinfo=None) - (moment.utcoffset() or 0 * (moment - moment))) - datetime(1970, 1, 1)
    assert (
        read(moment.isoformat()) == expected.days * 86_400_000 + expected.seconds * 1000 + expected.microseconds // 1000
    )
