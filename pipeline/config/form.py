"""The form of a topic's records: where machine, time, values and texts stand in them, and how they are encoded."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.config.durations import DurationMs

Envelope = Literal["connect", "cloudevents"]
TimeUnit = Literal["s", "ms", "us", "ns"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Place(_Part):
    """Where one field stands: a JMESPath in the body, the record's key, a header, the topic's name, or a constant."""

    path: str | None = None
    key: bool = False
    header: str | None = None
    topic: bool = False
    constant: str | None = None
    pattern: str | None = None
    """A regular expression that the found text must match; its first group is the field."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        given = [name for name in ("path", "key", "header", "topic", "constant") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"one of path, key, header, topic or constant is needed, not {', '.join(given) or 'none'}")
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

    path: str | None = None
    header: str | None = None
    record: bool = False
    """The record's own Kafka time stamp."""
    unit: TimeUnit | None = None
    """Of numbers; ISO 8601 texts need none."""
    format: str | None = None
    """Of texts that are not ISO 8601, as Python's strptime reads it."""
    zone: str | None = None
    """Time zone (IANA name) of texts without an offset."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in ("path", "header", "record") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"one of path, header or record is needed, not {', '.join(given) or 'none'}")
        if self.zone is not None:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError):
                raise ValueError(f"zone {self.zone!r} is not a time zone such as Europe/Berlin") from None
        return self


TimeOrPath = Annotated[TimePlace, BeforeValidator(_place)]


class QualityPlace(_Part):
    """Where a value's quality stands, and which qualities are good; a value of any other is not used."""

    path: str
    good: tuple[str | int | bool, ...] = Field(min_length=1)


class Form(_Part):
    """How the records of a foreign topic read; without any field, as Faultline's own messages do."""

    encoding: Literal["json", "avro"] = "json"
    compression: Literal["none", "gzip"] = "none"
    registry: bool = False
    """Five bytes of a schema registry come before the body; always so with `encoding: avro`."""
    envelope: Envelope | None = None
    each: str | None = None
    """Path of the array of which each entry is one reading or text; paths below start at the entry."""
    machine: PlaceOrPath = Place(path="machine")
    time: TimeOrPath = TimePlace(path="time", unit="ms")
    values: str | None = None
    """Path of the object of values by name, or of the array in the order of the profile's variables."""
    fields: dict[str, str] | None = None
    """Paths by variable or tag, where values do not stand together."""
    name: PlaceOrPath | None = None
    """Where the tag's name stands, of one value a record."""
    value: str | None = None
    """Path of that value; with `values`, of the value inside each entry."""
    quality: QualityPlace | None = None
    """Path as `value`'s."""
    sample_period_ms: DurationMs | None = Field(default=None, alias="sample_period")
    """Values are arrays of samples, this far apart; `time` is that of the first."""
    text: str | None = None
    """Path of an event's text."""
    template: str | None = None
    """An event's text made of fields: `{code} is {state}, severity {severity}`; each name is a path."""
    id: str | None = None
    source: str | None = None
    severity: str | None = None
