"""Times as foreign producers write them: numbers of several units, ISO 8601, and other texts with a time zone."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from pipeline.config.form import TimePlace, TimeUnit
from pipeline.config.hints import describe_time
from pipeline.wire.messages import MAX_TIME_MS, Reason, RejectedError
from pipeline.wire.readings import shown

YEAR_2000_MS: Final = 946_684_800_000
_DAY_MS: Final = 86_400_000
_EPOCH: Final = datetime(1970, 1, 1)
_UNITS: Final[dict[TimeUnit, tuple[int, int, int]]] = {
    # A number times the first, divided by the second, less the third, is milliseconds since 1970.
    "s": (1_000, 1, 0),
    "ms": (1, 1, 0),
    "us": (1, 1_000, 0),
    "ns": (1, 1_000_000, 0),
    "filetime": (1, 10_000, 11_644_473_600_000),
    "ticks": (1, 10_000, 62_135_596_800_000),
    "excel": (_DAY_MS, 1, 25_569 * _DAY_MS),
}
_DIGITS: Final = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_DECIMAL: Final = re.compile(r"[+-]?\d{1,30}[.,]\d{1,30}", re.ASCII)
_MAX_TEXT: Final = 100
_FRACTION: Final = re.compile(r"([.,]\d{6})\d+", re.ASCII)
_ZONE_NAME: Final = re.compile(r"\[[^\]]*\]$")
_UNLIKELY: Final = "is not a time between 2000 and 2109"
_NOT_ISO: Final = "is not an ISO 8601 time; declare its format, such as %d.%m.%Y %H:%M:%S"


class TimeReader:
    """Reads the times of one place as milliseconds since 1970; all methods raise RejectedError."""

    def __init__(self, place: TimePlace) -> None:
        self._place = place
        self._factor, self._divisor, self._begin = _UNITS[place.unit or "ms"]
        self._zone = None if place.zone is None else ZoneInfo(place.zone)
        self._has_digits = place.format is not None and place.unit is None
        self.is_milliseconds = place.unit in (None, "ms") and not self._has_digits
        """Whether a plausible integer is the time already."""

    def read(self, value: Any, stamp_ms: int) -> int:
        """`stamp_ms` is the record's own time stamp, which says what times mean that can be read in two ways."""
        if self.is_milliseconds and type(value) is int and YEAR_2000_MS <= value < MAX_TIME_MS:
            return value
        time_ms = self._read(value, stamp_ms)
        if not 0 <= time_ms < MAX_TIME_MS or (time_ms < YEAR_2000_MS <= stamp_ms):
            raise self._refused(value, stamp_ms, _UNLIKELY)
        return time_ms

    def _read(self, value: Any, stamp_ms: int) -> int:
        if self._has_digits and type(value) is int:
            value = str(value)
        if isinstance(value, str):
            text = value.strip()
            if len(text) > _MAX_TEXT:
                raise self._refused(value, stamp_ms, "is not a time")
            if self._has_digits or not _is_number(text):
                return self._of_text(text, stamp_ms)
            value = int(text) if _DIGITS.fullmatch(text) else float(text.replace(",", "."))
        if isinstance(value, datetime):
            return self._of_moment(value, stamp_ms)
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise self._refused(value, stamp_ms, "is not a time")
        return self._of_number(value, stamp_ms)

    def _of_number(self, value: float | Decimal, stamp_ms: int) -> int:
        """Whole numbers are exact, and parts of a millisecond are cut off; other numbers are rounded."""
        if isinstance(value, int):
            time_ms = value * self._factor // self._divisor - self._begin
        else:
            scaled = _float(value) * self._factor / self._divisor
            if not math.isfinite(scaled):
                raise self._refused(value, stamp_ms, "is not a time")
            time_ms = round(scaled) - self._begin
        if self._place.unit != "excel" or self._zone is None or not 0 <= time_ms < MAX_TIME_MS:
            return time_ms
        return self._of_moment(_EPOCH + timedelta(milliseconds=time_ms), stamp_ms)

    def _of_text(self, text: str, stamp_ms: int) -> int:
        given_format = self._place.format
        try:
            if given_format is not None:
                moment = datetime.strptime(_FRACTION.sub(r"\1", text), given_format)
            else:
                moment = datetime.fromisoformat(_ZONE_NAME.sub("", text).replace(" +", "+").replace(" Z", "Z"))
        except ValueError:
            problem = f"is not of format {given_format}" if given_format is not None else _NOT_ISO
            raise self._refused(text, stamp_ms, problem) from None
        return self._of_moment(moment, stamp_ms)

    def _of_moment(self, moment: datetime, stamp_ms: int) -> int:
        if moment.tzinfo is not None:
            return self._milliseconds(moment, stamp_ms)
        if self._zone is None:
            raise self._refused(moment.isoformat(), stamp_ms, "has no UTC offset")
        # When clocks go back an hour comes twice, and when they go forward one is missing: both readings of such a
        # time are possible, and the record's own time stamp says which is meant.
        early = self._milliseconds(moment.replace(tzinfo=self._zone, fold=0), stamp_ms)
        late = self._milliseconds(moment.replace(tzinfo=self._zone, fold=1), stamp_ms)
        return late if abs(late - stamp_ms) < abs(early - stamp_ms) else early

    def _milliseconds(self, moment: datetime, stamp_ms: int) -> int:
        try:
            delta = moment.replace(tzinfo=None) - (moment.utcoffset() or timedelta(0)) - _EPOCH
        except OverflowError:
            raise self._refused(moment.isoformat(), stamp_ms, _UNLIKELY) from None
        return delta.days * _DAY_MS + delta.seconds * 1_000 + delta.microseconds // 1_000

    def _refused(self, value: Any, stamp_ms: int, problem: str) -> RejectedError:
        place = self._place
        where = f"path: {place.path}" if place.path is not None else f"header: {place.header}"
        hint = describe_time(value, stamp_ms, where)
        return RejectedError(Reason.BAD_TIME, f"time {shown(value)} {hint or problem}")


def _float(value: float | Decimal) -> float:
    try:
        return float(value)
    except (OverflowError, ValueError):
        return math.nan


def _is_number(text: str) -> bool:
    return _DIGITS.fullmatch(text) is not None or _DECIMAL.fullmatch(text) is not None
