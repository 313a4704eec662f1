"""Avro written by fastavro and registered with Apicurio's real registry is read by its form."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fastavro
import pytest

from agents.kafka.schema_registry import SchemaRegistry
from tests.support.forms import T, foreign_record, lines_of, reader_of
from tests.support.registries import apicurio, register

pytestmark = pytest.mark.kafka

UNIT: dict[str, Any] = {"type": "enum", "name": "Quality", "namespace": "plant", "symbols": ["GOOD", "BAD"]}
READING: dict[str, Any] = {
    "type": "record",
    "name": "Reading",
    "namespace": "plant",
    "fields": [
        {"name": "device", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "temp", "type": ["null", "double"]},
        {"name": "quality", "type": "plant.Quality"},
    ],
}


def written(number: int, content: dict[str, Any]) -> bytes:
    known: dict[str, Any] = {}
    fastavro.parse_schema(UNIT, named_schemas=known)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(READING, named_schemas=known), content)
    return b"\x00" + number.to_bytes(4, "big") + out.getvalue()


def test_avro_of_a_real_registry(tmp_path: Path) -> None:
    with apicurio(tmp_path) as url:
        register(url, "plant.Quality", UNIT)
        references = [{"name": "plant.Quality", "subject": "plant.Quality", "version": 1}]
        number = register(url, "plant.readings-value", READING, references)
        form = {
            "encoding": "avro",
            "machine": "device",
            "time": "at",
            "fields": {"Reactor.Temp": "temp"},
            "quality": {"path": "quality", "good": "GOOD"},
        }
        reader = reader_of(form, SchemaRegistry(url))
        content = {"device": "te-01", "at": T * 1000 + 250, "temp": 120.4, "quality": "GOOD"}
        good, bad = (written(number, content | {"quality": quality}) for quality in ("GOOD", "BAD"))
        assert lines_of(reader, foreign_record(good)) == ["te-01  2025-11-20T00:53:20.000Z  Reactor.Temp 120.4"]
        assert lines_of(reader, foreign_record(bad)) == [
            "te-01  2025-11-20T00:53:20.000Z  Reactor.Temp not used: bad_quality"
        ]
        unknown = b"\x00\x00\x00\x27\x0f" + good[5:]
        assert lines_of(reader, foreign_record(unknown))[0].startswith(
            "refused: unreadable: schema 9999 cannot be had: the schema registry"
        )
