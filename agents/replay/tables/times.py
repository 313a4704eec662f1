"""Times in cells: ISO 8601, other formats, numbers with a unit and Excel's dates, in the zone of their plant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, NamedTuple

from agents.replay.tables.description import Table
from agents.replay.tables.numbers import Numbers
from agents.replay.tables.problems import CellError
from pipeline.wire.messages import is_time_ms


class Ambiguous(NamedTuple):
    """A time of the hour that is repeated when summer time ends: the two moments that it can be."""

    earlier: int
    later: int


_EPOCH = datetime(1970, 1, 1)
_PER_MS = {"s": Decimal(1000), "ms": Decimal(1), "us": Decimal("0.001"), "ns": Decimal("0.000001")}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_EXCEL_1970 = {"excel": 25_569, "excel_1904": 24_107}
_DAY_MS = 86_400_000
_LIKELY_MS = (datetime(1990, 1, 1) - _EPOCH).days * _DAY_MS, (datetime(2070, 1, 1) - _EPOCH).days * _DAY_MS
"""Between these a number is taken for a time in messages about it."""

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?")
_ADJACENT = re.compile(r"%[ymdHMS]%[ymdHMS]")
_LONG_FRACTION = re.compile(r"(\d[.,]\d{6})\d+")
_ZONE_WORD = re.compile(r" ?(?<![A-Z])([A-Z]{3,5})$")
_COMMON_FORMATS = (
    "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d/%m/%Y %H:%M:%S", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M", "%d/%m/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M:%S %p", "%m/%d/%Y %I:%M %p", "%d-%m-%Y %H:%M:%S",
    "%d-%m-%Y %H:%M", "%d.%m.%y %H:%M:%S", "%d.%m.%y %H:%M", "%d-%b-%y %H:%M:%S", "%d-%b-%Y %H:%M:%S",
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d %H.%M.%S",
    "%Y-%m-%d-%H:%M:%S", "%d.%m.%Y %H:%M:%S.%f", "%d.%m.%Y %H:%M:%S,%f", "%d/%m/%Y %H:%M:%S.%f", "%m/%d/%Y %H:%M:%S.%f",
    "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y",
)  # fmt: skip
_DIGIT_FORMATS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}


class Clock:
    """Reads the time of rows; of one file, because its first number shows whether the unit fits."""

    def __init__(self, table: Table, numbers: Numbers) -> None:
        self._unit = table.time_unit
        self._step_ms = table.time_step
        self._start_ms = table.time_start
        self._format = table.time_format
        self._zone = table.time_zone
        self._fixed = table.time_zone.utcoffset(None) is not None or str(table.time_zone) == "UTC"
        self._zone_words = _zone_words(table.time_zone)
        self._ambiguous = table.ambiguous
        self._numbers = numbers
        self._checked = False

    def moment(self, cells: Sequence[Any]) -> int | Ambiguous:
        """Milliseconds UTC; the cells are a time, or a date and a time of day. Raises CellError."""
        if any(cell is None or (isinstance(cell, str) and self._numbers.is_null(cell)) for cell in cells):
            raise CellError("holds no time", "holds no time; bad_rows: skip leaves such rows out")
        cell = cells[0] if len(cells) == 1 else _joined(cells[0], cells[1])
        try:
            moment = self._read(cell)
        except (OverflowError, InvalidOperation):
            raise CellError("is not a time", "is not a time between 1970 and 2109") from None
        if not (is_time_ms(moment) if isinstance(moment, int) else is_time_ms(moment.earlier)):
            raise CellError("is not a time", "is not a time between 1970 and 2109")
        return moment

    def _read(self, cell: Any) -> int | Ambiguous:
        if isinstance(cell, datetime):
            return self._utc_ms(cell)
        if isinstance(cell, date):
            return self._utc_ms(datetime(cell.year, cell.month, cell.day))
        if isinstance(cell, str):
            return self._from_text(cell.strip())
        if isinstance(cell, int | float | Decimal) and not isinstance(cell, bool):
            return self._from_text(str(cell)) if self._format is not None else self._from_number(Decimal(str(cell)))
        raise CellError("is not a time", f"({type(cell).__name__}) is not a time")

    def _from_text(self, text: str) -> int | Ambiguous:
        text, zone = self._without_zone(text)
        if self._format is not None:
            try:
                return self._utc_ms(_parsed(text, self._format), zone)
            except ValueError:
                raise CellError(
                    "is not a time", f"does not fit time_format: {self._format!r}{_suggested(text)}"
                ) from None
        number = self._numbers.normalized(text)
        if _NUMBER.fullmatch(number):
            mantissa, _, exponent = number.lower().partition("e")
            if exponent and sum(map(str.isdigit, mantissa)) <= int(exponent):
                raise CellError("is not a time", "is a time of which digits are lost; export the column in full")
            return self._from_number(Decimal(number))
        try:
            return self._utc_ms(datetime.fromisoformat(text), zone)
        except ValueError:
            raise CellError("is not a time", f"is not an ISO 8601 time{_suggested(text)}") from None

    def _without_zone(self, text: str) -> tuple[str, tzinfo | None]:
        """A time, and the zone that a name at its end stands for: UTC, or the plant's in summer or winter."""
        found = _ZONE_WORD.search(text)
        if found is None or (zone := self._zone_words.get(found[1])) is None:
            return text, None
        return text[: found.start()], zone

    def _from_number(self, number: Decimal) -> int | Ambiguous:
        if not number.is_finite() or number.adjusted() > 20:
            raise CellError("is not a time", "is not a time")
        if self._step_ms is not None:
            return self._start_ms + int((number * self._step_ms).to_integral_value("ROUND_FLOOR"))
        if self._unit is None:
            raise CellError("is a number without unit", f"is a number without a unit; {_what_it_looks_like(number)}")
        if self._unit in _EXCEL_1970:
            return self._utc_ms(_EPOCH + timedelta(milliseconds=_excel_ms(number, self._unit)))
        time_ms = _in_ms(number, self._unit)
        if not self._checked:
            self._checked = True
            if not is_time_ms(time_ms) or time_ms < _LIKELY_MS[0]:
                _refuse_other_unit(number, self._unit)
        return time_ms

    def _utc_ms(self, moment: datetime, zone: tzinfo | None = None) -> int | Ambiguous:
        if moment.tzinfo is None and zone is not None:
            moment = moment.replace(tzinfo=zone)
        if moment.tzinfo is not None:
            return _since_1970(moment.replace(tzinfo=None)) - _offset_ms(moment)
        local = _since_1970(moment)
        aware = moment.replace(tzinfo=self._zone)
        earlier = local - _offset_ms(aware)
        if self._fixed:
            return earlier
        later = local - _offset_ms(aware.replace(fold=1))
        if later == earlier:
            return earlier
        if later < earlier:
            raise CellError(
                "does not exist",
                f"does not exist in {self._zone}, where clocks go forward; if this clock is not changed in summer, "
                "give time_zone as an offset such as +01:00",
            )
        if self._ambiguous == "refuse":
            raise CellError(
                "is ambiguous",
                f"is two times in {self._zone}, where clocks go back; set ambiguous: earlier, later or in_order, or if "
                "this clock is not changed in summer, give time_zone as an offset such as +01:00",
            )
        if self._ambiguous == "in_order":
            return Ambiguous(earlier, later)
        return earlier if self._ambiguous == "earlier" else later


def _zone_words(zone: tzinfo) -> dict[str, tzinfo]:
    """The names that a zone has in winter and in summer, such as CET and CEST, and what they stand for."""
    words: dict[str, tzinfo] = {"UTC": UTC, "GMT": UTC}
    for month in (1, 7):
        moment = datetime(2025, month, 1, tzinfo=zone)
        words.setdefault(moment.tzname() or "", timezone(moment.utcoffset() or timedelta()))
    return words


def _joined(day: Any, hour: Any) -> Any:
    """A date and a time of day as one time."""
    if isinstance(day, datetime) and isinstance(hour, datetime):
        hour = hour.time()  # a time of day that a spreadsheet shows with a date
    if isinstance(day, date) and isinstance(hour, time):
        return datetime(day.year, day.month, day.day, tzinfo=getattr(day, "tzinfo", None)).replace(
            hour=hour.hour, minute=hour.minute, second=hour.second, microsecond=hour.microsecond
        )
    if isinstance(day, date) and isinstance(hour, timedelta):
        return datetime(day.year, day.month, day.day) + hour
    if isinstance(day, int | float) and isinstance(hour, int | float):
        return Decimal(str(day)) + Decimal(str(hour))
    if isinstance(day, datetime):
        day = day.date()
    return f"{str(day).strip()} {str(hour).strip()}"


def _parsed(text: str, form: str) -> datetime:
    """As strptime, but strict where numbers follow each other, and with more than six digits of a second, cut off."""
    if "%f" in form:
        text = _LONG_FRACTION.sub(r"\1", text)
    moment = datetime.strptime(text, form)
    if _ADJACENT.search(form) and "%f" not in form and len(text) != len(moment.strftime(form)):
        raise ValueError("leading zeros are missing")  # strptime takes 5320 for 05:32:00
    return moment


def _suggested(text: str) -> str:
    fitting = []
    for form in _COMMON_FORMATS:
        try:
            _parsed(text, form)
        except ValueError:
            continue
        fitting.append(repr(form))
    if fitting:
        return f"; it fits time_format: {' or '.join(fitting[:2])}"
    return "; say with time_format how it is written, such as '%d.%m.%Y %H:%M:%S'"


def _in_ms(number: Decimal, unit: str) -> int:
    return int((number * _PER_MS[unit]).to_integral_value("ROUND_FLOOR"))


def _excel_ms(number: Decimal, system: str) -> int:
    return int(((number - _EXCEL_1970[system]) * _DAY_MS).to_integral_value(ROUND_HALF_UP))


def _likely_units(number: Decimal) -> list[str]:
    return [unit for unit in _PER_MS if _LIKELY_MS[0] <= _in_ms(number, unit) < _LIKELY_MS[1]]


def _what_it_looks_like(number: Decimal) -> str:
    digits = str(number)
    if digits.isdigit() and (form := _DIGIT_FORMATS.get(len(digits))) is not None:
        try:
            if 1990 <= _parsed(digits, form).year < 2070:
                return f"it looks like a date: set time_format: '{form}'"
        except ValueError:
            pass
    for unit in _likely_units(number):
        return f"it looks like {_UNIT_NAMES[unit]} ({_shown(_in_ms(number, unit))}): set time_unit: {unit}"
    days_ms = _excel_ms(number, "excel")
    if _LIKELY_MS[0] <= days_ms < _LIKELY_MS[1]:
        return f"it looks like a date of Excel ({_shown(days_ms, zone='')}): set time_unit: excel"
    return (
        "set time_unit to s, ms, us, ns or excel; if it counts samples or cycles, set time_step to the time between two"
    )


def _refuse_other_unit(number: Decimal, unit: str) -> None:
    for other in _likely_units(number):
        time_ms = _in_ms(number, unit)
        read = f"is {_shown(time_ms)}" if is_time_ms(time_ms) else "is no time before 2109"
        raise CellError(
            "has another unit",
            f"{read} in {_UNIT_NAMES[unit]}, and {_shown(_in_ms(number, other))} in {_UNIT_NAMES[other]}: "
            f"set time_unit: {other}",
        )


def _shown(time_ms: int, zone: str = " UTC") -> str:
    return f"{datetime.fromtimestamp(time_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}{zone}"


def _since_1970(moment: datetime) -> int:
    delta = moment - _EPOCH
    return delta.days * _DAY_MS + delta.seconds * 1_000 + delta.microseconds // 1_000


def _offset_ms(moment: datetime) -> int:
    offset = moment.utcoffset()
    assert offset is not None
    return (offset.days * 86_400 + offset.seconds) * 1_000
