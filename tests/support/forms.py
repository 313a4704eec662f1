"""Records of foreign forms for tests, and what is read from them as one line each."""

from __future__ import annotations

import json
from typing import Any

from pipeline.config.form import Form
from pipeline.config.hints import shown_time
from pipeline.mapping.form_reader import FormReader
from pipeline.mapping.schemas import Schemas
from pipeline.wire.messages import EventMessage, RejectedError
from pipeline.wire.readings import Given, Reading, Unused
from pipeline.wire.records import Headers, Record

T = 1_763_600_000_000
"""2025-11-20T00:53:20Z, the records' own time stamp."""


def foreign_record(
    value: Any, *, key: bytes | None = None, topic: str = "/plant", headers: Headers = (), stamp_ms: int = T
) -> Record:
    """A record of this value: bytes as they are, anything else as JSON."""
    content = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return Record(topic, 0, 0, stamp_ms, key, content, headers)


def reader_of(form: dict[str, Any], schemas: Schemas | None = None) -> FormReader:
    """The reader of a form as it stands in a profile."""
    return FormReader(Form.model_validate(form), "/plant", schemas)


def lines_of(reader: FormReader, record: Record) -> list[str]:
    """What is read from a record, a line for each reading or text, or why it is refused."""
    is_of_texts = reader.form.text is not None or reader.form.template is not None
    try:
        if is_of_texts:
            return [_text_line(event) for event in reader.texts(record)]
        return [_reading_line(reading) for reading in reader.readings(record)]
    except RejectedError as error:
        return [f"refused: {error}"]


def read_lines(form: dict[str, Any], value: Any, **fields: Any) -> list[str]:
    """`lines_of` a form and the value of a record."""
    return lines_of(reader_of(form), foreign_record(value, **fields))


def _reading_line(reading: Reading) -> str:
    if isinstance(reading.values, list):
        values = [_value(value) for value in reading.values]
    else:
        values = [f"{name} {_value(value)}" for name, value in reading.values.items() if value is not None]
    return f"{reading.machine}  {shown_time(reading.time_ms, milliseconds=True)}  {', '.join(values)}"


def _value(value: Given) -> str:
    return f"not used: {value.reason}" if isinstance(value, Unused) else str(value)


def _text_line(event: EventMessage) -> str:
    assert isinstance(event.time, int)
    details = "".join(
        f" {name} {value}" for name in ("id", "source", "severity") if (value := getattr(event, name)) is not None
    )
    return f'{event.machine}  {shown_time(event.time, milliseconds=True)}  "{event.text}"{details}'
