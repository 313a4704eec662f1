"""The form of a topic's records: where machine, time, values and texts stand in them, and how they are encoded."""

from __future__ import annotations

import codecs
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.config.expressions.paths import compile_path, without_root
from pipeline.config.expressions.template import parse_template
from pipeline.config.quantities.durations import DurationMs

Envelope = Literal["connect", "cloudevents"]
TimeUnit = Literal["s", "ms", "us", "ns", "filetime", "ticks", "excel"]
"""Since 1970; or Windows' units of 100 ns since 1601, .NET's since the year 1, and days of a spreadsheet."""

_EXAMPLE = datetime(2025, 11, 20, 0, 53, 20, tzinfo=UTC)


_OWN_SENSORS = re.compile(r"sensors(\.[a-z0-9][a-z0-9_-]*)*")


def _topic(name: Any) -> Any:
    """Topics outside the prefix are written with a slash in front from here on, which no topic's name can have."""
    if not isinstance(name, str) or _OWN_SENSORS.fullmatch(name) or name.startswith("/"):
        return name
    return f"/{name}"


Topic = Annotated[str, BeforeValidator(_topic), Field(pattern=r"^(sensors[a-z0-9_.-]*|/[A-Za-z0-9._-]{1,249})$")]
"""`sensors` and `sensors.NAME` have the prefix of all our topics; any other name is a foreign topic's whole one."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _one_of(part: BaseModel, *names: str) -> None:
    # A constant or a header may be an empty text, which is none.
    given = [name for name in names if getattr(part, name)]
    if len(given) != 1:
        *others, last = names
        raise ValueError(f"one of {', '.join(others)} or {last} is needed, not {' and '.join(given) or 'none'}")


def _check_format(given: str) -> None:
    try:
        read = datetime.strptime(_EXAMPLE.strftime(given), given)
    except (ValueError, re.error) as error:
        raise ValueError(f"format {given!r} cannot be read by strptime: {error}") from None
    if read.date() != _EXAMPLE.date():
        raise ValueError(f"format {given!r} has no year, month and day, such as %Y-%m-%d %H:%M:%S")


def _checked_path(path: str) -> str:
    compile_path(without_root(path))
    return path


Path = Annotated[str, AfterValidator(_checked_path)]
"""A JMESPath from an entry of `each`, or else from the body; one that begins with `$` is always from the body."""


def _word(value: Any) -> Any:
    """YAML has numbers and truth values where a text is meant."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


Word = Annotated[str, BeforeValidator(_word)]


class Place(_Part):
    """Where one field stands: a path in the body, the record's key, a header, the topic's name, or a constant."""

    path: Path | None = None
    key: bool | Path = False
    """True: the key as a text. A path: in a key that is JSON itself."""
    header: str | None = None
    topic: bool = False
    constant: Word | None = None
    pattern: str | None = None
    """A regular expression that is searched in the found text; its first group is the field."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        _one_of(self, "path", "key", "header", "topic", "constant")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"pattern {self.pattern!r} is not a regular expression: {error}") from None
            if groups < 1:
                raise ValueError(f"pattern {self.pattern!r} needs a group (...) around the part that is wanted")
        return self


def _place(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


PlaceOrPath = Annotated[Place, BeforeValidator(_place)]
"""A text is short for a path."""


class TimePlace(_Part):
    """Where the time stands and how it is written."""

    path: Path | None = None
    header: str | None = None
    record: bool = False
    """The record's own Kafka time stamp."""
    unit: TimeUnit | None = None
    """Of numbers, also of those written as texts; milliseconds if unset. ISO 8601 texts need none."""
    format: str | None = None
    """Of texts that are not ISO 8601, as Python's strptime reads it."""
    zone: str | None = None
    """Time zone (IANA name) of texts without an offset, and of spreadsheets' days."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _one_of(self, "path", "header", "record")
        if self.record and (self.unit or self.format or self.zone):
            raise ValueError("the record's own time stamp has no unit, format or zone")
        if self.format is not None:
            _check_format(self.format)
        if self.zone is not None:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(f"zone {self.zone!r} is not a time zone such as Europe/Berlin") from None
        return self


TimeOrPath = Annotated[TimePlace, BeforeValidator(_place)]


class QualityPlace(_Part):
    """Where a value's quality stands, and which qualities are good; a value of any other is not used."""

    path: Path
    good: Literal["opc_da", "opc_ua"] | tuple[bool | int | str | None, ...]
    """OPC DA: 192 to 255, whatever the low bits say. OPC UA: status codes of severity good. Or the good ones, in which
    null stands for a quality that is absent."""

    @model_validator(mode="before")
    @classmethod
    def _many(cls, data: Any) -> Any:
        if (
            isinstance(data, dict)
            and isinstance(good := data.get("good"), str | int)
            and good not in ("opc_da", "opc_ua")
        ):
            return data | {"good": [good]}
        return data

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.good:
            raise ValueError("good names no quality, so no value could ever be used")
        return self


class Form(_Part):
    """How the records of a foreign topic read; without any field, as Faultline's own messages do."""

    encoding: Literal["json", "avro", "text"] = "json"
    """`text`: the body is one text, of which the path is `@`."""
    charset: str = "utf-8"
    """Of JSON and texts."""
    compression: Literal["none", "gzip", "zlib"] = "none"
    registry: bool = False
    """Five bytes of a schema registry come before the body; always so with `encoding: avro`."""
    envelope: Envelope | None = None
    each: Path | None = None
    """Path of the array of which each entry is one reading or text; paths below start at the entry, or with `$` at the
    body. A body that is itself an array has the path `@`."""
    machine: PlaceOrPath = Place(path="machine")
    time: TimeOrPath = TimePlace(path="time", unit="ms")
    values: Path | None = None
    """Path of the object of values by name, of an array of objects with `name` and `value`, or of an array of values in
    the order of the profile's variables. `values` if neither `fields` nor `value` is set."""
    fields: dict[str, Path] | None = None
    """Paths by variable or tag, where values do not stand together."""
    name: PlaceOrPath | None = None
    """Where a value's name stands; with `values`, a path inside each of its entries."""
    value: Path | None = None
    """Path of the one value of a record; with `values`, of the value inside each of its entries."""
    quality: QualityPlace | None = None
    """Path as `value`'s; without `value`, of the quality of all values or, like these, of the qualities of each."""
    value_time: TimeOrPath | None = None
    """The time of a value inside an entry of `values`, if it has one of its own."""
    decimal: Literal[".", ","] = "."
    """The decimal sign of numbers that are texts."""
    sample_period_ms: DurationMs | None = Field(default=None, alias="sample_period")
    """Values are arrays of samples, this far apart."""
    sample_time: Literal["first", "last"] = "first"
    """Of which sample `time` is."""
    text: Path | None = None
    """Path of an event's text. `text` if no `template` is set."""
    template: str | None = None
    """An event's text made of fields: `{code} is {state}[, severity {severity}]`. Each name is a path; what stands in
    brackets is left out where a field in them is missing."""
    words: dict[Path, dict[Word, Word]] = Field(default_factory=dict)
    """What the codes of a template's field mean, by the field's path."""
    id: PlaceOrPath | None = None
    source: PlaceOrPath | None = None
    severity: PlaceOrPath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_values()
        if self.sample_time == "last" and self.sample_period_ms is None:
            raise ValueError("sample_time: needs sample_period")
        if self.text is not None and self.template is not None:
            raise ValueError("text: cannot be given together with template")
        if self.template is None:
            if self.words:
                raise ValueError("words: are those of a template, which is not given")
        else:
            paths = parse_template(self.template).paths
            if unused := [path for path in self.words if path not in paths]:
                raise ValueError(f"words: the template has no field {unused[0]}")
        try:
            codecs.lookup(self.charset)
        except LookupError:
            raise ValueError(f"charset: {self.charset!r} is none that Python knows, such as utf-8 or latin-1") from None
        if self.encoding == "avro" and self.charset != "utf-8":
            raise ValueError("charset: Avro's texts are always UTF-8")
        return self

    def _check_values(self) -> None:
        if self.fields is not None and (self.values or self.value or self.name):
            raise ValueError("fields: cannot be given together with values, value or name")
        if self.fields is not None and not self.fields:
            raise ValueError("fields: names no path")
        if self.value is not None and self.values is None and self.name is None:
            raise ValueError("name: where does the name of the one value stand? `name: {constant: NAME}` gives it one")
        if self.name is not None and self.value is None:
            raise ValueError("value: where does the value that belongs to the name stand?")
        if self.value_time is not None and (self.values is None or self.value is None):
            raise ValueError("value_time: needs values and value, the path inside each of its entries")
        if self.value_time is not None and self.sample_period_ms is not None:
            raise ValueError("value_time: cannot be given together with sample_period")


class EventTopic(_Part):
    """A foreign topic of texts, besides Faultline's own `events`."""

    topic: Topic
    form: Form = Form()


class Ingest(_Part):
    """What `faultline ingest` reads and writes again, as Faultline's own messages, keyed by machine."""

    topic: Topic | None = None
    """A Kafka topic outside the prefix."""
    mqtt: str | None = None
    """A topic filter of an MQTT broker, such as plant/+/values."""
    form: Form = Form()

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.topic is None) == (self.mqtt is None):
            raise ValueError("one of topic and mqtt is needed")
        if self.topic is not None and not self.topic.startswith("/"):
            raise ValueError(f"topic {self.topic} is one of Faultline's own; ingest writes those")
        return self
