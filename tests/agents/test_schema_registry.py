"""The client of schema registries, over HTTP: each schema is asked for once, and every failure is one clear line."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastavro import parse_schema

from agents.kafka.schema_registry import SchemaRegistry, schema_registry
from pipeline.config.settings import load_settings
from pipeline.errors import AuthorizationError, BrokerUnavailableError, SettingsError
from tests.support.registries import SmallRegistry, small_registry

RECORD = {"type": "record", "name": "Reading", "fields": [{"name": "machine", "type": "string"}]}


@pytest.fixture
def small() -> Iterator[SmallRegistry]:
    with small_registry() as registry:
        yield registry


def client(url: str, *login: str, **clocks: Any) -> SchemaRegistry:
    return SchemaRegistry(url, *login, **({"sleep": lambda _: None} | clocks))


def test_a_schema_is_asked_for_once(small: SmallRegistry) -> None:
    small.add(7, RECORD)
    registry = client(small.url + "/")
    assert [registry.schema(7), registry.schema(7)] == [RECORD, RECORD]
    assert small.asked == ["/schemas/ids/7"]


def test_a_schema_that_is_a_name_can_be_used(small: SmallRegistry) -> None:
    small.add(1, "string")
    small.schemas[2] = {"schema": "string"}
    assert client(small.url).schema(1) == client(small.url).schema(2) == {"type": "string"}


def test_an_unknown_schema_is_asked_for_again_after_a_minute(small: SmallRegistry) -> None:
    now = [0.0]
    registry = client(small.url, clock=lambda: now[0])
    for _ in range(3):
        with pytest.raises(LookupError):
            registry.schema(8)
    assert small.asked == ["/schemas/ids/8"]
    small.add(8, RECORD)
    now[0] = 61.0
    assert registry.schema(8) == RECORD


def test_schemas_that_are_referred_to_are_put_in(small: SmallRegistry) -> None:
    unit = {"type": "enum", "name": "Unit", "namespace": "plant", "symbols": ["C", "bar"]}
    value = {
        "type": "record",
        "name": "Value",
        "namespace": "plant",
        "fields": [{"name": "v", "type": "double"}, {"name": "unit", "type": "plant.Unit"}],
    }
    small.subjects["unit"] = {"schema": json.dumps(unit)}
    small.subjects["value"] = {
        "schema": json.dumps(value),
        "references": [{"name": "plant.Unit", "subject": "unit", "version": 1}],
    }
    outer = RECORD | {
        "namespace": "other",
        "fields": [
            {"name": "a", "type": ["null", "plant.Value"]},
            {"name": "b", "type": {"type": "array", "items": "plant.Value"}},
            {"name": "u", "type": "plant.Unit"},
            {"name": "c", "type": "Plain"},
        ],
    }
    small.subjects["plain"] = {"schema": json.dumps({"type": "fixed", "name": "Plain", "size": 2})}
    references = [
        {"name": "plant.Value", "subject": "value", "version": 2},
        {"name": "Plain", "subject": "plain", "version": 1},
    ]
    small.add(3, outer, references=references)
    found = client(small.url).schema(3)
    assert found["fields"][0]["type"][1]["fields"][1]["type"] == unit
    assert found["fields"][1]["type"]["items"] == "plant.Value"
    assert parse_schema(found)


@pytest.mark.parametrize("answer", [(500, b""), (503, b"busy"), (200, b"<html>"), (200, b"")])
def test_a_registry_that_stumbles_is_asked_again(small: SmallRegistry, answer: tuple[int, bytes]) -> None:
    small.add(7, RECORD)
    small.answers = [answer, answer]
    assert client(small.url).schema(7) == RECORD
    small.answers = [answer] * 3
    with pytest.raises(BrokerUnavailableError) as caught:
        client(small.url).schema(7)
    assert f"the schema registry at {small.url} does not answer" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nobody_at_the_address() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with pytest.raises(BrokerUnavailableError, match="FAULTLINE_SCHEMA_REGISTRY"):
        client(url).schema(1)


def test_logins(small: SmallRegistry, tmp_path: Path) -> None:
    small.add(7, RECORD)
    small.login = "reader:geheim"
    with pytest.raises(AuthorizationError, match="FAULTLINE_SCHEMA_REGISTRY_PASSWORD_FILE"):
        client(small.url).schema(7)
    assert client(small.url, "reader", "geheim").schema(7) == RECORD
    (tmp_path / "password").write_text("geheim\n")
    settings = load_settings(
        schema_registry=small.url,
        schema_registry_username="reader",
        schema_registry_password_file=tmp_path / "password",
    )
    registry = schema_registry(settings)
    assert registry is not None
    assert registry.schema(7) == RECORD
    assert schema_registry(load_settings()) is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"schema": "{}", "schemaType": "PROTOBUF"}, "of type PROTOBUF"),
        ({"schema": "x" * (5 << 20)}, "more than"),
        ({}, "holds no schema"),
    ],
)
def test_what_is_no_avro_schema(small: SmallRegistry, answer: dict[str, Any], message: str) -> None:
    small.schemas[7] = answer
    with pytest.raises(LookupError, match=message):
        client(small.url).schema(7)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"schema_registry": "registry:8081"}, "is not of the form http://host:port"),
        ({"schema_registry": "http://u:geheim@registry"}, "holds an '@'"),
        (
            {"schema_registry_password": "geheim", "schema_registry_password_file": "f"},
            "FAULTLINE_SCHEMA_REGISTRY_PASSWORD and FAULTLINE_SCHEMA_REGISTRY_PASSWORD_FILE are both set",
        ),
    ],
)
def test_settings_that_cannot_be_meant(setting: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**setting)
    assert message in str(caught.value)
    assert "geheim" not in str(caught.value)
