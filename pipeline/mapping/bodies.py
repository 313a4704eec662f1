"""From a record's bytes to the bodies in them: unpacked, decoded and out of their envelopes."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from pipeline.config.form import Form
from pipeline.config.hints import looks_like, shape_of
from pipeline.mapping.avro import AvroDecoder
from pipeline.mapping.schemas import Schemas
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import shown
from pipeline.wire.records import Headers, Record

MAX_BODY_BYTES: Final = 16 << 20
"""Size of an unpacked value, at most."""

_REGISTRY_BYTES: Final = 5
_ATTRIBUTES: Final = ("id", "source", "type", "subject", "time", "specversion", "datacontenttype", "dataschema")
_WINDOW_BITS: Final = {"gzip": 31, "zlib": 15}

_decode_json = msgspec.json.Decoder().decode


class Body(NamedTuple):
    """What a producer meant to send, and the attributes of the event that carried it, by names such as `ce_id`."""

    content: Any
    attributes: Mapping[str, str]


class BodyReader:
    """Reads the bodies of records of one form."""

    def __init__(self, form: Form, schemas: Schemas | None) -> None:
        self._form = form
        self._is_utf8 = form.charset.lower().replace("_", "-") in ("utf-8", "utf8")
        self._is_framed = form.registry or form.encoding == "avro"
        self._avro = AvroDecoder(schemas) if form.encoding == "avro" else None

    def bodies(self, record: Record) -> list[Body]:
        """Mostly one; a batch of events has several. Raises RejectedError."""
        if record.value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        envelope = self._form.envelope
        if envelope == "cloudevents":
            return self._events(record)
        content = self._decoded(record.value)
        if envelope == "connect":
            content = _payload(content)
            if type(content) is str and self._form.encoding == "json":
                content = _within(content)
            if content is None:
                raise RejectedError(Reason.EMPTY, "its payload is null")
        return [Body(content, {})]

    def key(self, key: bytes | None) -> Any:
        """A key as a text, or what it is if it is JSON or Avro; raises RejectedError."""
        if key is None:
            return None
        if self._is_framed and key[:1] == b"\x00":
            if self._avro is not None:
                return self._avro.decode(key)
            key = key[_REGISTRY_BYTES:]
        try:
            text = key.decode()
        except UnicodeDecodeError:
            raise RejectedError(Reason.SCHEMA, "the key is not a text") from None
        if text[:1] not in ('"', "{"):
            return text
        try:
            content = _lenient_json(text)
        except (ValueError, RecursionError):
            return text
        is_enveloped = type(content) is dict and content.keys() == {"schema", "payload"}
        return content["payload"] if is_enveloped else content

    def _decoded(self, value: bytes) -> Any:
        """The content of bytes as the form says; raises RejectedError."""
        form = self._form
        if form.compression != "none":
            value = _unpacked(value, form.compression)
        if self._avro is not None:
            return self._avro.decode(value)
        if self._is_framed:
            if value[:1] != b"\x00" or len(value) <= _REGISTRY_BYTES:
                raise RejectedError(Reason.UNREADABLE, "it does not begin with the five bytes of a schema registry")
            value = value[_REGISTRY_BYTES:]
        if form.encoding == "text":
            return self._text(value)
        return self._json(value)

    def _text(self, value: bytes) -> str:
        try:
            return value.decode(self._form.charset)
        except (UnicodeDecodeError, ValueError) as error:
            raise RejectedError(Reason.UNREADABLE, f"it is not {self._form.charset}: {str(error)[:150]}") from None

    def _json(self, value: bytes) -> Any:
        text: str | None = None
        try:
            if not self._is_utf8:
                text = self._text(value)
            content = _decode_json(value if text is None else text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as strict:
            try:
                content = _lenient_json(value.decode() if text is None else text)
            except (ValueError, RecursionError):
                hint = looks_like(value)
                told = str(strict)[:200] or "nested too deeply"
                raise RejectedError(Reason.NOT_JSON, told if hint is None else f"it {hint} ({told})") from None
        return content if type(content) is not str else _within(content)

    def _events(self, record: Record) -> list[Body]:
        """CloudEvents: one in the record's headers and value, or one or a batch of them in its value."""
        assert record.value is not None
        headers = texts_of(record.headers)
        if "ce_specversion" in headers and not headers.get("content-type", "").startswith("application/cloudevents"):
            return [Body(self._decoded(record.value), headers)]
        content = self._decoded(record.value)
        return [self._event(event) for event in (content if type(content) is list else [content])]

    def _event(self, event: Any) -> Body:
        if type(event) is not dict or "specversion" not in event:
            raise RejectedError(
                Reason.UNREADABLE, "it is no CloudEvent: there is neither ce_specversion nor specversion"
            )
        attributes = {f"ce_{name}": str(value) for name, value in event.items() if type(value) in (str, int, bool)}
        if "data_base64" in event:
            try:
                data = base64.b64decode(event["data_base64"], validate=True)
            except (binascii.Error, TypeError, ValueError):
                raise RejectedError(Reason.UNREADABLE, "the event's data_base64 is not base64") from None
            return Body(self._decoded(data), attributes)
        if event.get("data") is None:
            raise RejectedError(Reason.EMPTY, "the event has no data")
        return Body(event["data"], attributes)


def texts_of(headers: Headers) -> dict[str, str]:
    """Headers by name, the last of each; bytes that are not UTF-8 become question marks."""
    return {name: (value or b"").decode(errors="replace") for name, value in headers}


def _unpacked(value: bytes, compression: str) -> bytes:
    """Raises RejectedError if it is no such data, ends too early, or is too large when unpacked."""
    found = bytearray()
    rest = value
    while rest:
        unpacker = zlib.decompressobj(_WINDOW_BITS[compression])
        try:
            found += unpacker.decompress(rest, MAX_BODY_BYTES + 1 - len(found))
        except zlib.error:
            hint = looks_like(value)
            told = f"it is not {compression}" + ("" if hint is None else f", it {hint}")
            raise RejectedError(Reason.UNREADABLE, told) from None
        if len(found) > MAX_BODY_BYTES:
            raise RejectedError(Reason.TOO_LARGE, f"unpacked it has more than {MAX_BODY_BYTES} bytes")
        if not unpacker.eof:
            raise RejectedError(Reason.UNREADABLE, f"its {compression} data ends too early")
        rest = unpacker.unused_data  # gzip files may follow one another
    if not value:
        raise RejectedError(Reason.EMPTY, "the record's value is empty")
    return bytes(found)


def _payload(content: Any) -> Any:
    if type(content) is not dict or "payload" not in content:
        raise RejectedError(Reason.UNREADABLE, f"there is no payload of Kafka Connect: {described(content)}")
    return content["payload"]


def _within(text: str) -> Any:
    """What a text holds that is JSON itself, also in base64 as Kafka Connect writes bytes; else the text."""
    try:
        inner = text if text[:1] in ("{", "[") else base64.b64decode(text, validate=True).decode()
        return _lenient_json(inner) if inner[:1] in ("{", "[") else text
    except (ValueError, RecursionError):
        return text


def described(content: Any) -> str:
    """What a body is, for a refusal: its first names, and what it looks like."""
    hint = shape_of(content)
    if type(content) is dict:
        names = ", ".join(str(name)[:40] for name in list(content)[:8])
        has = f"the body has {names}{', …' if len(content) > 8 else ''}" if names else "the body is an empty object"
        return has if hint is None else f"{has} and {hint}"
    return f"the body is {shown(content)}" if hint is None else f"the body {hint}"


def _lenient_json(text: str) -> Any:
    """JSON as Python's own writer makes it: with NaN and Infinity, and with numbers of any size."""
    return json.loads(text.removeprefix("\ufeff"), parse_int=_int, strict=False)


def _int(digits: str) -> int | float:
    return int(digits) if len(digits) <= 400 else float(digits)
