"""What bytes and times that cannot be used look like, and what to declare in a form so that they are read."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Final

_MAGIC: Final = (
    (b"\x1f\x8b", "gzip; declare compression: gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd; let the producer compress batches (compression.type) instead of values"),
    (b"\x04\x22\x4d\x18", "lz4; let the producer compress batches (compression.type) instead of values"),
    (b"\x82SNAPPY\x00", "snappy; let the producer compress batches (compression.type) instead of values"),
    (b"BZh", "bzip2, which is not read"),
    (b"PK\x03\x04", "a zip archive, which is not read"),
    (b"Obj\x01", "an Avro file; send each record by itself, with encoding: avro and a schema registry"),
    (b"\xc3\x01", "Avro's single-object encoding, which is not read; use a schema registry and encoding: avro"),
    (b"PAR1", "a Parquet file; `faultline convert` reads those"),
    (b"\xac\xed\x00\x05", "a serialized Java object, which is not read; choose a JSON serializer"),
    (b"\xef\xbb\xbf", "UTF-8 behind a byte order mark; write it without that mark, or declare charset: utf-8-sig"),
    (b"\xff\xfe", "UTF-16; declare charset: utf-16"),
    (b"\xfe\xff", "UTF-16; declare charset: utf-16"),
)
_ZLIB: Final = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_BLANK: Final = b" \t\r\n"
_REGISTRY_BYTES: Final = 5
_PEEK: Final = 64

_YEAR_2000_MS: Final = 946_684_800_000
_END_MS: Final = 2**42
_FAR_MS: Final = 400 * 86_400_000
_UNIX_IN_FILETIME_MS: Final = 11_644_473_600_000
_UNIX_IN_TICKS_MS: Final = 62_135_596_800_000
_UNIX_IN_EXCEL_DAYS: Final = 25_569

_SCALES: Final = (
    # What a number counts, how many make a millisecond, how many milliseconds before 1970 it begins, and its `unit`.
    ("milliseconds since 1970", 1.0, 0, "ms"),
    ("seconds since 1970", 1e-3, 0, "s"),
    ("microseconds since 1970", 1e3, 0, "us"),
    ("nanoseconds since 1970", 1e6, 0, "ns"),
    ("minutes since 1970", 1e-3 / 60, 0, None),
    ("Windows' FILETIME", 1e4, _UNIX_IN_FILETIME_MS, "filetime"),
    (".NET's ticks", 1e4, _UNIX_IN_TICKS_MS, "ticks"),
    ("days of a spreadsheet", 1 / 86_400_000, _UNIX_IN_EXCEL_DAYS * 86_400_000, "excel"),
)


def looks_like(value: bytes) -> str | None:
    """What a record's value looks like that cannot be read, and what to do about it; None if that is unclear."""
    head = value[:_PEEK]
    for magic, hint in _MAGIC:
        if head.startswith(magic):
            return f"looks like {hint}"
    if head[:2] in _ZLIB:
        return "looks like zlib; declare compression: zlib"
    if head[:1] == b"\x00" and len(head) > _REGISTRY_BYTES:
        return _behind_registry(value)
    text = head.lstrip(_BLANK)
    if text.startswith(b"<"):
        return "looks like XML or HTML, which is not read; have it sent as JSON"
    if len(head) >= 4 and b"\x00" in (head[:1], head[1:2]) and head[:4].count(0) in (2, 3):
        return "looks like UTF-16; declare charset: utf-16-le or utf-16-be"
    if text[:1] in (b"{", b"[", b'"') or text[:1].isdigit():
        return _unusual_json(value)
    if _is_like_protobuf(value):
        return "looks like Protobuf, which is not read; have it sent as JSON or Avro"
    if _is_text(value) and text:
        return _plain_text(text)
    return None


def _behind_registry(value: bytes) -> str:
    body = value[_REGISTRY_BYTES:]
    number = int.from_bytes(value[1:_REGISTRY_BYTES], "big")
    if body.lstrip(_BLANK)[:1] in (b"{", b"["):
        return f"looks like JSON behind the five bytes of a schema registry (schema {number}); declare registry: true"
    if body[:1] == b"\x00" and _is_like_protobuf(body[1:]):  # which of the schema's messages it is comes first
        return f"looks like Protobuf of a schema registry (schema {number}), which is not read; use Avro or JSON"
    return f"looks like Avro of a schema registry (schema {number}); declare encoding: avro"


def shape_of(content: object) -> str | None:
    """What a decoded body looks like that is not a reading or text by itself; None if that is unclear."""
    if isinstance(content, dict):
        if content.keys() >= {"schema", "payload"}:
            return "looks like Kafka Connect's envelope; declare envelope: connect"
        return "looks like a CloudEvent; declare envelope: cloudevents" if "specversion" in content else None
    if isinstance(content, list):
        return f"looks like an array of {len(content)}; declare each: '@', which reads each of its entries"
    if isinstance(content, str):
        return "looks like JSON written twice; declare a form, which reads it" if content[:1] in ("{", "[") else None
    is_number = isinstance(content, int | float) and not isinstance(content, bool)
    return "looks like one bare value; declare value: '@', and where its name and machine stand" if is_number else None


def _unusual_json(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 at byte {error.start}; declare its charset, for example charset: latin-1"
    try:
        return shape_of(json.loads(text, parse_int=float))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text[error.pos : error.pos + 1] in ("{", "["):
            return "looks like several JSON documents; send a record for each, or an array and declare each: '@'"
        return None
    except (ValueError, RecursionError):
        return None


def _plain_text(text: bytes) -> str | None:
    if text[:1] == b"'":
        return "looks like Python's notation; write it with json.dumps"
    if b"=" in text and b" " in text and b"," in text.split(b" ")[0]:
        return 'looks like InfluxDB\'s line protocol; let Telegraf write JSON (data_format = "json")'
    if text[:1].isalpha() and text.split(maxsplit=1)[0] not in (b"true", b"false", b"null"):
        return "looks like a text; declare encoding: text if it is one"
    return None


def _is_text(value: bytes) -> bool:
    try:
        text = value[: 4 * _PEEK].decode()
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)


def _is_like_protobuf(value: bytes) -> bool:
    """Whether the value consists of Protobuf's fields from the first byte to the last, and is not readable text."""
    at, fields = 0, 0
    if _is_text(value):
        return False
    while at < len(value) and fields < 64:
        tag, at = _varint(value, at)
        kind, number = tag & 7, tag >> 3
        if number == 0 or number > 1 << 29:
            return False
        if kind == 0:
            _, at = _varint(value, at)
        elif kind == 2:
            size, at = _varint(value, at)
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return False
        fields += 1
    return fields > 0 and (at == len(value) or fields == 64)


def _varint(value: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(value) and shift < 70:
        byte = value[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at
    return 0, len(value) + 1


def describe_time(value: object, stamp_ms: int, place: str = "path: time") -> str | None:
    """What a time that was refused looks like, and how to declare it; None if it looks like nothing known.

    `stamp_ms` is the record's own time stamp, near which a right reading of the value should be. `place` is where the
    time stands, as a form says it.
    """
    number = _number(value)
    if number is None:
        return _describe_text(value, place)
    found = []
    for name, per_ms, before_1970_ms, unit in _SCALES:
        time_ms = number / per_ms - before_1970_ms
        if _YEAR_2000_MS <= time_ms < _END_MS:
            found.append((abs(time_ms - stamp_ms), name, time_ms, unit))
    if not found:
        return None
    distance, name, time_ms, unit = min(found)
    if _YEAR_2000_MS <= stamp_ms < _END_MS and distance > _FAR_MS and unit not in ("ms", "s", "us", "ns"):
        return None
    shown = shown_time(math.floor(time_ms))
    declare = f"; declare `time: {{{place}, unit: {unit}}}`" if unit is not None else ""
    return f"looks like {name}: {shown}{declare}"


def shown_time(time_ms: int, *, milliseconds: bool = False) -> str:
    """A time as people read it, in whole seconds unless milliseconds are asked for."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)
    return f"{moment:%Y-%m-%dT%H:%M:%S}" + (f".{time_ms % 1000:03d}Z" if milliseconds else "Z")


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text.isascii() or not text.replace(".", "", 1).isdigit():
            return None
        value = text
    if not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _describe_text(value: object, place: str) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        declare = f"`time: {{{place}, zone: Europe/Berlin}}`"
        return f"is a local time; write its UTC offset, or declare its zone, such as {declare}"
    return None
