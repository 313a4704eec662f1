"""The description of tables: which files, which columns are what, and how their cells are written."""

from __future__ import annotations

import codecs
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from agents.replay.tables.templates import Template
from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.errors import DataError
from pipeline.files.yaml_fields import field_problems
from pipeline.files.yaml_text import parse_yaml, read_text
from pipeline.wire.messages import RejectedError, parse_time_ms

_DELIMITERS = {"tab": "\t", "\\t": "\t", "space": " "}


def _template(value: object) -> Template:
    if not isinstance(value, str):
        raise ValueError('must be a text such as "{column}"')
    return Template(value)


def _time_columns(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _delimiter(value: object) -> object:
    value = _DELIMITERS.get(value, value) if isinstance(value, str) else value
    if value is not None and (not isinstance(value, str) or len(value) != 1 or value in '"\r\n\0'):
        raise ValueError("must be one character, or tab")
    return value


def _encoding(value: object) -> object:
    if isinstance(value, str):
        try:
            "a".encode(value)  # refuses what is a codec, but not of text
            return codecs.lookup(value).name
        except (LookupError, UnicodeError, ValueError):
            raise ValueError("is unknown; use for example utf-8, cp1252, latin-1 or utf-16") from None
    return value


def _null_markers(value: object) -> object:
    if isinstance(value, list) and any(marker is None or isinstance(marker, bool) for marker in value):
        raise ValueError('YAML reads words such as No, Off and null as something else; put quotes around them: "No"')
    return value


def _step(value: object) -> int | None:
    if value is None:
        return None
    step_ms = parse_duration_ms(value)
    if not step_ms:
        raise ValueError("must be longer than 0")
    return step_ms


def _moment_ms(value: object) -> int:
    text = value.isoformat() if isinstance(value, date) else value  # YAML reads dates itself
    try:
        return parse_time_ms(text) if isinstance(text, str) else parse_time_ms("")
    except RejectedError:
        raise ValueError(f"{value!r} is not a time with an offset, such as 2020-01-01T00:00:00Z") from None


def parse_zone(name: object) -> tzinfo:
    """A zone by its name, or a fixed offset such as +01:00; raises ValueError."""
    if isinstance(name, tzinfo):
        return name
    try:
        text = str(name)
        if text[:1] in ("+", "-"):
            hours, _, minutes = text[1:].partition(":")
            offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
            return timezone(-offset if text[0] == "-" else offset)
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError, OverflowError):  # a zone that is not found is a KeyError
        raise ValueError(
            f"unknown zone {name!r}; use a name such as UTC or Europe/Berlin, or a fixed offset such as +01:00"
        ) from None


Duration = Annotated[int, BeforeValidator(parse_duration_ms)]
_Template = Annotated[Template, BeforeValidator(_template)]


class Table(BaseModel):
    """Where rows come from, and how their cells are written."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    files: str
    """A path or glob pattern under the data folder."""
    machine: _Template
    """Template of the machine id: `{column}` is a row's value, `{file}` and `{folder}` the table's file and folder."""
    time: Annotated[list[str], BeforeValidator(_time_columns), Field(min_length=1, max_length=2)]
    """Column of the time, or the columns of date and time of day."""
    time_unit: Literal["s", "ms", "us", "ns", "excel", "excel_1904"] | None = None
    """What numbers count: time since 1970, or days as Excel does (in its 1904 system)."""
    time_step: Annotated[int | None, BeforeValidator(_step)] = None
    """How far apart the numbers of a column are that counts samples, cycles or hours instead of telling the time."""
    time_start: Annotated[int, BeforeValidator(_moment_ms)] = Field(
        default="2020-01-01T00:00:00Z", validate_default=True
    )
    """The time of number 0, with `time_step`."""
    time_format: str | None = None
    """How times are written, as in Python's strptime; without it, ISO 8601."""
    time_zone: Annotated[tzinfo, BeforeValidator(parse_zone)] = Field(default="UTC", validate_default=True)
    """Zone of times without one."""
    ambiguous: Literal["refuse", "earlier", "later", "in_order"] = "refuse"
    """Times in the hour that is repeated when summer time ends."""
    where: dict[str, str] = Field(default_factory=dict)
    """Only rows whose column has this text."""
    delimiter: Annotated[str | None, BeforeValidator(_delimiter)] = None
    """Without it, the one of comma, semicolon, tab and bar with which the header has the columns."""
    quote: Literal['"', "'", ""] = '"'
    decimal: Literal[".", ","] = "."
    thousands: Literal[".", ",", " ", "'"] | None = None
    encoding: Annotated[str | None, BeforeValidator(_encoding)] = None
    """Without it, what the file's byte order mark says, and else UTF-8."""
    skip_rows: int = Field(default=0, ge=0)
    """Rows before the header."""
    skip_rows_after_header: int = Field(default=0, ge=0)
    columns: list[str] | None = Field(default=None, min_length=1)
    """Names of all columns, for a table without header."""
    sheet: str | None = None
    """Of an Excel file with several sheets."""
    null_markers: Annotated[list[str | float], BeforeValidator(_null_markers)] = []
    """What else stands for "no value"."""
    bad_values: Literal["refuse", "unknown"] = "refuse"
    """Values that are no numbers: `unknown` takes them as not observed, and counts them."""
    bad_rows: Literal["refuse", "skip"] = "refuse"
    """Rows without machine or time, or with too many or too few cells: `skip` leaves them out, and counts them."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.thousands == self.decimal:
            raise ValueError(f"decimal and thousands are both {self.decimal!r}")
        if self.delimiter is not None and self.delimiter == self.quote:
            raise ValueError(f"delimiter and quote are both {self.quote!r}")
        if self.time_format is not None and self.time_unit is not None:
            raise ValueError("time_format is for texts and time_unit for numbers; give one of them")
        if self.time_step is not None and (self.time_unit is not None or self.time_format is not None):
            raise ValueError("time_step is for numbers that tell no time; leave out time_unit and time_format")
        if self.time_step is None and "time_start" in self.model_fields_set:
            raise ValueError("time_start is the time of number 0; say with time_step how far apart numbers are")
        if self.time_format is not None and not any(f"%{part}" in self.time_format for part in "yYGcx"):
            raise ValueError(
                f"time_format {self.time_format!r} has no year; if the date has its own column: time: [DATE, TIME]"
            )
        if self.time_format is not None and "%Z" in self.time_format:
            raise ValueError("time_format cannot read names of zones (%Z); %z reads offsets such as +0100")
        if self.time_format is not None:
            try:
                datetime.strptime(datetime(2025, 11, 20, tzinfo=UTC).strftime(self.time_format), self.time_format)
            except ValueError as error:
                raise ValueError(f"time_format {self.time_format!r} cannot be used: {error}") from None
        return self


class Readings(Table):
    """Rows that are readings."""

    topic: str = "sensors"
    values: dict[str, str] = Field(min_length=1)
    """Variable of the profile: column."""


class Texts(Table):
    """Rows that are texts."""

    text: _Template
    source: str | None = None
    severity: str | None = None


class Labels(Table):
    """Rows that give a machine's fault: for a span around their time, or as runs of equal values of a column."""

    fault: _Template
    """Template of the fault's name."""
    names: dict[str, str] = Field(default_factory=dict)
    """What the template gives: the profile's name for it."""
    before: Duration = 0
    """How long before the row's time the fault begins; that time itself belongs to it."""
    after: Duration = 0
    """How long after the row's time the fault ends."""
    rows: Literal["all", "last"] = "all"
    """`last`: only each machine's last row, where its data ends with a failure."""
    runs: bool = False
    """True: consecutive rows of a machine with the same fault are one label."""

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.runs and self.rows == "last":
            raise ValueError("rows: last and runs: true exclude each other; leave one of them out")
        if self.runs and (self.before or self.after):
            raise ValueError("before and after are for rows that each tell of one fault; leave them out, or `runs`")
        if not (self.runs or self.before or self.after):
            raise ValueError(
                "how long does a fault last? give `before` or `after`, such as 24h, or `runs: true` for a table that "
                "says at each time how the machine is"
            )
        return self


class Conversion(BaseModel):
    """A description of tables as the inputs of a plant."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    machines: list[str] | None = None
    """Only these machines, if given."""
    readings: list[Readings] = Field(min_length=1)
    events: list[Texts] = []
    labels: list[Labels] = []


def load_conversion(path: Path) -> Conversion:
    """Read a description; raises DataError with file and field."""
    try:
        description: Any = parse_yaml(read_text(path))
    except (OSError, ValueError) as error:
        raise DataError(f"conversion {path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        return Conversion.model_validate(description)
    except ValidationError as error:
        raise DataError(f"conversion {path} is invalid: {field_problems(error, Conversion, 'description')}") from error
