"""Fields of a record, each found in the place where a form says it stands."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from pipeline.config.expressions.paths import compile_path, is_from_root, without_root
from pipeline.config.form import Place, TimePlace
from pipeline.mapping.bodies import Body, BodyReader, texts_of
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import shown
from pipeline.wire.records import Record

_MAX_SEARCHED: Final = 2_000
"""Characters of a text in which a pattern is searched, at most."""


class Entry(NamedTuple):
    """What one reading or text is read from: its own part of a body, the whole body, and the record."""

    content: Any
    body: Body
    record: Record


Find = Callable[[Entry], Any]
"""What stands in a place, as it is there; None if nothing does."""


def path_finder(path: str) -> Find:
    """Of what a path stands for."""
    find = compile_path(without_root(path))
    if is_from_root(path):
        return lambda entry: find(entry.body.content)
    return lambda entry: find(entry.content)


def text_finder(place: Place, bodies: BodyReader) -> Callable[[Entry], str | None]:
    """Of the text in a place: numbers become their digits."""
    find = _finder(place, bodies)
    where = place_name(place)
    search = None if place.pattern is None else re.compile(place.pattern).search

    def text(entry: Entry) -> str | None:
        found = find(entry)
        if found is None:
            return None
        given = as_text(found)
        if given is None:
            raise RejectedError(Reason.SCHEMA, f"{where} is {shown(found)}, not a text")
        if search is not None:
            match = search(given[:_MAX_SEARCHED])
            if match is None:
                raise RejectedError(Reason.SCHEMA, f"{where} {shown(given)} does not match {place.pattern}")
            given = match[1] or ""
        return given.strip() or None

    return text


def _finder(place: Place, bodies: BodyReader) -> Find:
    if place.path is not None:
        return path_finder(place.path)
    if isinstance(place.key, str):
        within = compile_path(without_root(place.key))
        return lambda entry: within(bodies.key(entry.record.key))
    if place.key:
        return lambda entry: bodies.key(entry.record.key)
    if place.header is not None:
        return header_finder(place.header)
    if place.topic:
        return lambda entry: entry.record.topic.removeprefix("/")
    constant = place.constant
    return lambda entry: constant


def header_finder(name: str) -> Find:
    """Of a header's text, or of an attribute of an event such as ce_id."""

    def find(entry: Entry) -> Any:
        found = entry.body.attributes.get(name)
        return texts_of(entry.record.headers).get(name) if found is None else found

    return find


def time_finder(place: TimePlace) -> Find:
    """Of a time as it was given."""
    if place.path is not None:
        return path_finder(place.path)
    if place.header is not None:
        return header_finder(place.header)
    return lambda entry: entry.record.timestamp_ms


def place_name(place: Place | TimePlace) -> str:
    """A place in words."""
    if place.path is not None:
        return f"path {place.path}"
    if place.header is not None:
        return f"header {place.header}"
    if isinstance(place, TimePlace):
        return "the record's time stamp"
    if place.key:
        return "the key" if place.key is True else f"path {place.key} of the key"
    return "the topic's name" if place.topic else "the constant"


def as_text(value: Any) -> str | None:
    """A text, or a number as its digits; None for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    return value.isoformat() if isinstance(value, datetime) else None
