"""Bodies of records: compression, framing, envelopes, Avro, charsets, and what undeclared ones look like."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import fastavro
import pytest

from pipeline.config.hints import looks_like
from pipeline.mapping.bodies import MAX_BODY_BYTES
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import decode_reading
from tests.support.forms import T, foreign_record, lines_of, read_lines, reader_of

OWN = {"machine": "te-01", "time": T, "values": {"a": 1}}
PLAIN = json.dumps(OWN).encode()
LINE = "te-01  2025-11-20T00:53:20.000Z  a 1.0"
AVRO = {
    "type": "record",
    "name": "Reading",
    "fields": [
        {"name": "machine", "type": "string"},
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "values", "type": {"type": "map", "values": ["null", "double", "long", "string"]}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
    ],
}


class KnownSchemas:
    """Schemas by number, and how often each was asked for."""

    def __init__(self, schemas: dict[int, Any]) -> None:
        self.schemas = schemas
        self.asked: list[int] = []

    def schema(self, number: int, /) -> dict[str, Any]:
        self.asked.append(number)
        found: dict[str, Any] = self.schemas[number]
        return found


def avro(content: dict[str, Any], number: int = 7) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(AVRO), content)
    return b"\x00" + number.to_bytes(4, "big") + out.getvalue()


def framed(value: bytes) -> bytes:
    return b"\x00\x00\x00\x00\x07" + value


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ({"compression": "gzip"}, gzip.compress(PLAIN, mtime=0)),
        ({"compression": "gzip"}, gzip.compress(PLAIN[:20], mtime=0) + gzip.compress(PLAIN[20:], mtime=0)),
        ({"compression": "zlib"}, zlib.compress(PLAIN)),
        ({"registry": True}, framed(PLAIN)),
        ({"registry": True, "compression": "gzip"}, gzip.compress(framed(PLAIN), mtime=0)),
        ({"envelope": "connect"}, json.dumps({"schema": {"type": "struct"}, "payload": OWN}).encode()),
        ({"envelope": "connect"}, json.dumps({"schema": None, "payload": OWN}).encode()),
        ({"envelope": "connect"}, json.dumps({"schema": {"type": "string"}, "payload": json.dumps(OWN)}).encode()),
        (
            {"envelope": "connect"},
            json.dumps({"schema": {"type": "bytes"}, "payload": base64.b64encode(PLAIN).decode()}).encode(),
        ),
        ({}, json.dumps(base64.b64encode(PLAIN).decode()).encode()),
        ({"charset": "utf-16"}, PLAIN.decode().encode("utf-16")),
        ({"charset": "latin-1"}, PLAIN),
        ({}, b"\xef\xbb\xbf" + PLAIN),
        ({}, json.dumps(json.dumps(OWN)).encode()),
        ({}, b"  " + PLAIN + b"\r\n"),
    ],
)
def test_declared_wrappings_are_taken_off(form: dict[str, Any], value: bytes) -> None:
    assert read_lines(form, value) == [LINE]


@pytest.mark.parametrize(
    ("form", "value", "reason", "message"),
    [
        ({}, gzip.compress(PLAIN, mtime=0), Reason.NOT_JSON, "looks like gzip; declare compression: gzip"),
        ({}, zlib.compress(PLAIN), Reason.NOT_JSON, "looks like zlib; declare compression: zlib"),
        ({}, b"\x28\xb5\x2f\xfd\x04\x00", Reason.NOT_JSON, "looks like zstd"),
        ({}, b"\x04\x22\x4d\x18\x60", Reason.NOT_JSON, "looks like lz4"),
        ({}, framed(PLAIN), Reason.NOT_JSON, "schema registry (schema 7); declare registry: true"),
        ({}, framed(b"\x0ate-01"), Reason.NOT_JSON, "looks like Avro of a schema registry (schema 7)"),
        ({}, framed(b"\x00\x0a\x05te-01\x10\x01"), Reason.NOT_JSON, "looks like Protobuf of a schema registry"),
        ({}, b"Obj\x01\x04\x14avro.codec", Reason.NOT_JSON, "looks like an Avro file"),
        ({}, PLAIN.decode().encode("utf-16"), Reason.NOT_JSON, "looks like UTF-16; declare charset: utf-16"),
        ({}, PLAIN.decode().encode("utf-16-le"), Reason.NOT_JSON, "utf-16-le"),
        ({}, '{"machine": "Kühlung"}'.encode("latin-1"), Reason.NOT_JSON, "declare its charset"),
        ({}, b"<reading><temp>1</temp></reading>", Reason.NOT_JSON, "looks like XML"),
        ({}, b"cpu,host=a usage=1.2 1763600000", Reason.NOT_JSON, "looks like InfluxDB's line protocol"),
        ({}, b"{'machine': 'te-01'}", Reason.NOT_JSON, ""),
        ({}, b"\x0a\x05te-01\x10\x80\xa0\xa5\xc0\xa9\x33", Reason.NOT_JSON, "looks like Protobuf"),
        ({}, b'{"schema": {}, "payload": {"machine": "m"}}', Reason.SCHEMA, "declare envelope: connect"),
        ({}, b'{"specversion": "1.0", "data": {}}', Reason.SCHEMA, "declare envelope: cloudevents"),
        ({}, b'[{"machine": "m"}]', Reason.SCHEMA, "looks like an array of 1; declare each: '@'"),
        ({}, b"12.5", Reason.SCHEMA, "looks like one bare value; declare value: '@'"),
        ({"compression": "gzip"}, PLAIN, Reason.UNREADABLE, "it is not gzip"),
        ({"compression": "gzip"}, zlib.compress(PLAIN), Reason.UNREADABLE, "looks like zlib"),
        ({"compression": "gzip"}, gzip.compress(PLAIN, mtime=0)[:-9], Reason.UNREADABLE, "ends too early"),
        ({"compression": "gzip"}, b"", Reason.EMPTY, "empty"),
        ({"registry": True}, PLAIN, Reason.UNREADABLE, "five bytes of a schema registry"),
        ({"registry": True}, b"\x00\x00", Reason.UNREADABLE, "five bytes of a schema registry"),
        ({"envelope": "connect"}, PLAIN, Reason.UNREADABLE, "no payload of Kafka Connect: the body has machine, time"),
        ({"envelope": "connect"}, b'{"schema": {}, "payload": null}', Reason.EMPTY, "payload is null"),
        ({"envelope": "cloudevents"}, PLAIN, Reason.UNREADABLE, "no CloudEvent"),
        ({"charset": "ascii"}, '"é"'.encode(), Reason.UNREADABLE, "is not ascii"),
        ({"encoding": "text", "text": "@"}, b"\xff\xff", Reason.UNREADABLE, "is not utf-8"),
    ],
)
def test_others_are_refused_with_what_they_look_like(
    form: dict[str, Any], value: bytes, reason: Reason, message: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        reader_of(form).readings(foreign_record(value))
    assert caught.value.reason == reason
    assert message in caught.value.detail


def test_a_body_that_grows_without_end_is_refused() -> None:
    bomb = gzip.compress(b" " * (MAX_BODY_BYTES + 1))
    assert len(bomb) < 20_000
    with pytest.raises(RejectedError) as caught:
        reader_of({"compression": "gzip"}).readings(foreign_record(bomb))
    assert caught.value.reason == Reason.TOO_LARGE
    half = gzip.compress(b" " * (MAX_BODY_BYTES // 2 + 1))
    with pytest.raises(RejectedError, match="more than"):
        reader_of({"compression": "gzip"}).readings(foreign_record(half + half))


def test_plain_values_and_texts_look_like_nothing_else() -> None:
    assert [looks_like(value) for value in (PLAIN, b"", b"true", b"null", b'"text"', b"{", b"[1,")] == [None] * 7
    assert looks_like(b"Pump leaks") == "looks like a text; declare encoding: text if it is one"


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (json.dumps({"schema": None, "payload": OWN}).encode(), "declare envelope: connect"),
        (json.dumps({"specversion": "1.0", "data": OWN}).encode(), "declare envelope: cloudevents"),
        (json.dumps([OWN, OWN]).encode(), "looks like an array of 2; declare each: '@'"),
        (json.dumps(json.dumps(OWN)).encode(), "looks like JSON written twice"),
        (b"12.5", "looks like one bare value"),
        (gzip.compress(PLAIN, mtime=0), "declare compression: gzip"),
        (framed(PLAIN), "declare registry: true"),
    ],
)
def test_undeclared_wrappings_of_faultlines_own_readings_are_named(value: bytes, hint: str) -> None:
    with pytest.raises(RejectedError) as caught:
        decode_reading(value)
    assert hint in caught.value.detail


@pytest.mark.parametrize("text", ["ab12", "e30=", "W10=", "e2E=", "{", "[1", "e30", "%%", "x" * 1000])
def test_texts_that_hold_no_json_stay_texts(text: str) -> None:
    form = {"machine": {"key": True}, "time": {"record": True}, "text": "@"}
    (line,) = read_lines(form, text, key=b"m")
    if text in ("e30=", "W10="):  # an empty object and array, in base64
        assert line.startswith("refused: schema")
    else:
        assert line == f'm  2025-11-20T00:53:20.000Z  "{text}"'


def test_cloudevents_in_headers_in_the_body_and_in_batches() -> None:
    form = {"envelope": "cloudevents", "machine": {"header": "ce_subject"}, "time": {"header": "ce_time"}}
    headers = (
        ("ce_specversion", b"1.0"),
        ("ce_subject", b"te-01"),
        ("ce_time", b"2025-11-20T00:53:20Z"),
        ("content-type", b"application/json"),
    )
    assert read_lines(form, {"values": {"a": 1}}, headers=headers) == [LINE]
    event = {"specversion": "1.0", "id": "1", "source": "/x", "type": "t", "subject": "te-01"}
    event["time"] = "2025-11-20T00:53:20Z"
    data = {"values": {"a": 1}}
    structured = (("content-type", b"application/cloudevents+json"), ("ce_specversion", b"1.0"))
    assert read_lines(form, event | {"data": data}, headers=structured) == [LINE]
    encoded = base64.b64encode(json.dumps(data).encode()).decode()
    assert read_lines(form, event | {"data_base64": encoded}) == [LINE]
    other = event | {"data": {"values": {"b": 2}}, "subject": "te-02"}
    assert read_lines(form, [event | {"data": data}, other]) == [
        LINE,
        LINE.replace("01  ", "02  ").replace("a 1", "b 2"),
    ]
    assert read_lines(form, event) == ["refused: empty: the event has no data"]
    assert "not base64" in read_lines(form, event | {"data_base64": "%"})[0]


def test_avro_is_read_by_the_schema_of_each_record() -> None:
    schemas = KnownSchemas({7: AVRO})
    reader = reader_of({"encoding": "avro", "fields": {"a": "values.a", "s": "values.s", "price": "price"}}, schemas)
    content = {
        "machine": "te-01",
        "time": datetime(2025, 11, 20, 0, 53, 20, 250_000, tzinfo=UTC),
        "values": {"a": 1.5, "s": "2"},
        "price": Decimal("12.25"),
    }
    for _ in range(3):
        assert lines_of(reader, foreign_record(avro(content))) == [
            "te-01  2025-11-20T00:53:20.250Z  a 1.5, s 2.0, price 12.25"
        ]
    assert schemas.asked == [7]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (avro({"machine": "m", "time": T, "values": {}, "price": b"\x01"}, number=8), "schema 8 cannot be had"),
        (framed(b"\x0ate"), "it is not Avro of schema 7"),
        (framed(b"\xff" * 40), "it is not Avro of schema 7"),
        (framed(b""), "it is not Avro of schema 7"),
        (b"\x00\x00", "five bytes of a schema registry"),
        (PLAIN, "five bytes of a schema registry"),
        (b"\x00\x00\x00\x00\x09x", "schema 9 cannot be used"),
    ],
)
def test_avro_that_cannot_be_read(value: bytes, message: str) -> None:
    reader = reader_of({"encoding": "avro"}, KnownSchemas({7: AVRO, 9: {"type": "reading"}}))
    with pytest.raises(RejectedError) as caught:
        reader.readings(foreign_record(value))
    assert caught.value.reason == Reason.UNREADABLE
    assert message in caught.value.detail


def test_avro_with_bytes_left_over_is_refused() -> None:
    value = avro({"machine": "m", "time": T, "values": {"a": 1.0}, "price": b"\x01"})
    reader = reader_of({"encoding": "avro"}, KnownSchemas({7: AVRO}))
    assert lines_of(reader, foreign_record(value)) == ["m  2025-11-20T00:53:20.000Z  a 1.0"]
    assert "longer than Avro" in lines_of(reader, foreign_record(value + b"x"))[0]


def test_avro_without_a_registry_says_what_is_missing() -> None:
    assert "FAULTLINE_SCHEMA_REGISTRY" in read_lines({"encoding": "avro"}, framed(b"x"))[0]
