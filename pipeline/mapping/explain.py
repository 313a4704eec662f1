"""How a record is read, field by field: what stood where, what it is read as, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.config.hints import shown_time
from pipeline.mapping.form_reader import FormReader
from pipeline.mapping.places import Entry, place_name
from pipeline.wire.messages import EventMessage, RejectedError
from pipeline.wire.readings import Given, Reading, Unused, shown
from pipeline.wire.records import Record


class Field(NamedTuple):
    """One field of a record."""

    name: str
    place: str
    given: str
    """As it stood there; empty if that is the same as what it is read as."""
    read: str
    """What it is read as; empty if it cannot be used."""
    problem: str


class Explanation(NamedTuple):
    """A record's fields, its readings or texts, and why it is refused, if it is."""

    fields: list[Field]
    readings: list[Reading]
    texts: list[EventMessage]
    refused: str


def explain_readings(reader: FormReader, record: Record, variables: Mapping[str, str]) -> Explanation:
    """Of a record of readings; `variables` are the names of the profile's by what they may be called in records."""
    found = Explanation([], [], [], "")
    try:
        for entry in reader.entries(record):
            found.fields.extend([_machine(reader, entry), _time(reader, entry)])
            readings = list(reader.of_entry(entry))
            found.readings.extend(readings)
            for reading in readings:
                found.fields.extend(_values(reading, variables, len(readings) > 1))
    except RejectedError as error:
        return found._replace(refused=str(error))
    return found


def explain_texts(reader: FormReader, record: Record) -> Explanation:
    """Of a record of texts."""
    found = Explanation([], [], [], "")
    try:
        for entry in reader.entries(record):
            found.fields.extend([_machine(reader, entry), _time(reader, entry)])
            event = reader.text_of(entry)
            found.texts.append(event)
            place = f"path {reader.form.text}" if reader.form.text else reader.form.template or "path text"
            found.fields.append(Field("text", place, "", event.text, ""))
            for name in ("id", "source", "severity"):
                if (value := getattr(event, name)) is not None:
                    declared = getattr(reader.form, name)
                    where = f"path {name}" if declared is None else place_name(declared)
                    found.fields.append(Field(name, where, "", value, ""))
    except RejectedError as error:
        return found._replace(refused=str(error))
    return found


def _machine(reader: FormReader, entry: Entry) -> Field:
    place = reader.form.machine
    try:
        machine = reader.machine(entry)
    except RejectedError as error:
        return Field("machine", place_name(place), "", "", error.detail)
    return Field("machine", place_name(place), f"matches {place.pattern}" if place.pattern else "", machine, "")


def _time(reader: FormReader, entry: Entry) -> Field:
    place, given = place_name(reader.form.time), _given(reader.given_time(entry))
    try:
        return Field("time", place, given, shown_time(reader.time_ms(entry), milliseconds=True), "")
    except RejectedError as error:
        if reader.form.value_time is not None:
            return Field("time", place, given, "", "each value has its own")
        return Field("time", place, given, "", error.detail)


def _given(value: Any) -> str:
    return "" if value is None else shown(value)


def _values(reading: Reading, variables: Mapping[str, str], has_time: bool) -> list[Field]:
    if isinstance(reading.values, list):
        names = list(variables.values())
        names += [f"value {number}" for number in range(len(names) + 1, len(reading.values) + 1)]
        values = list(zip(names, reading.values, strict=False))
        known = dict(zip(variables.values(), variables.values(), strict=True))
    else:
        values, known = list(reading.values.items()), dict(variables)
    at = f"at {shown_time(reading.time_ms, milliseconds=True)}" if has_time else ""
    return [_value(name, value, known.get(name), at) for name, value in values]


def _value(name: str, value: Given, variable: str | None, at: str) -> Field:
    if variable is None:
        given = value.given if isinstance(value, Unused) else _given(value)
        return Field(name, at, given, "", "unknown_variable: the profile has no variable of this name or tag")
    label = variable if variable == name else f"{variable} ({name})"
    if isinstance(value, Unused):
        return Field(label, at, value.given, "", str(value.reason))
    return Field(label, at, "", "not observed" if value is None else f"{value!r}", "")
