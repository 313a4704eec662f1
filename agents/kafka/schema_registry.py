"""Avro schemas of a schema registry with Confluent's interface, which most others have as well, over HTTP."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, Final

from agents.kafka.security import secret
from pipeline.config.settings import Settings
from pipeline.errors import AuthorizationError, BrokerUnavailableError

_TIMEOUT_SECONDS: Final = 5.0
_TRIES: Final = 3
_PAUSE_SECONDS: Final = 0.5
_MAX_BYTES: Final = 4 << 20
_MAX_REFERENCES: Final = 100
_UNKNOWN_SECONDS: Final = 60.0
"""For so long the registry is not asked again for a schema that it does not have."""
_MAX_UNKNOWN: Final = 10_000


class SchemaRegistry:
    """Asks for each schema once."""

    def __init__(
        self,
        url: str,
        username: str | None = None,
        password: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = url.rstrip("/")
        self._clock = clock
        self._sleep = sleep
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        if username is not None:
            login = base64.b64encode(f"{username}:{password or ''}".encode()).decode()
            self._headers["Authorization"] = f"Basic {login}"
        self._known: dict[int, dict[str, Any]] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, number: int, /) -> dict[str, Any]:
        """An Avro schema; raises LookupError if there is none, BrokerUnavailableError or AuthorizationError."""
        if (found := self._known.get(number)) is not None:
            return found
        now = self._clock()
        if now < self._unknown.get(number, now):
            raise LookupError(f"the schema registry has no schema {number}")
        try:
            found = self._known[number] = self._avro(self._get(f"/schemas/ids/{number}"))
        except LookupError:
            if len(self._unknown) >= _MAX_UNKNOWN:
                self._unknown.clear()
            self._unknown[number] = now + _UNKNOWN_SECONDS
            raise
        return found

    def _avro(self, answer: Any) -> dict[str, Any]:
        """The schema of an answer, with the definitions that it refers to put in; raises LookupError."""
        definitions: dict[str, Any] = {}
        self._collect(answer, definitions)
        schema = _resolved(_parsed(answer), definitions)
        return schema if isinstance(schema, dict) else {"type": schema}

    def _collect(self, answer: Any, definitions: dict[str, Any]) -> None:
        for reference in _fields(answer).get("references") or []:
            name, subject, version = (_fields(reference).get(part) for part in ("name", "subject", "version"))
            if not isinstance(name, str) or name in definitions:
                continue
            if len(definitions) >= _MAX_REFERENCES:
                raise LookupError(f"the schema refers to more than {_MAX_REFERENCES} others")
            inner = self._get(f"/subjects/{urllib.parse.quote(str(subject), safe='')}/versions/{version}")
            definitions[name] = _parsed(inner)
            self._collect(inner, definitions)

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(self._url + path, headers=self._headers)
        for left in reversed(range(_TRIES)):
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
                    body = response.read(_MAX_BYTES + 1)
                if len(body) > _MAX_BYTES:
                    raise LookupError(f"the schema registry's answer has more than {_MAX_BYTES} bytes")
                return json.loads(body)
            except urllib.error.HTTPError as error:
                with error:
                    problem = self._problem(error, path)
            except (OSError, HTTPException, ValueError, RecursionError) as error:  # URLError and time-outs are OSErrors
                reason = getattr(error, "reason", None) or error
                problem = f"{reason}" if str(reason) else type(error).__name__
            if left:
                self._sleep(_PAUSE_SECONDS)
        raise BrokerUnavailableError(
            f"the schema registry at {self._url} does not answer ({problem[:200]}); check that it is running, and "
            "FAULTLINE_SCHEMA_REGISTRY"
        )

    def _problem(self, error: urllib.error.HTTPError, path: str) -> str:
        """What is wrong, if it may pass; raises LookupError or AuthorizationError."""
        if error.code == 404:
            raise LookupError(f"the schema registry at {self._url} has nothing at {path}") from None
        if error.code in (401, 403):
            raise AuthorizationError(
                f"the schema registry at {self._url} refuses this user (HTTP {error.code}); check "
                "FAULTLINE_SCHEMA_REGISTRY_USERNAME and FAULTLINE_SCHEMA_REGISTRY_PASSWORD_FILE"
            ) from None
        return f"HTTP {error.code}"


def schema_registry(settings: Settings) -> SchemaRegistry | None:
    """The registry of the settings, if one is set; raises SettingsError."""
    if settings.schema_registry is None:
        return None
    password = secret(
        "SCHEMA_REGISTRY_PASSWORD", settings.schema_registry_password, settings.schema_registry_password_file
    )
    return SchemaRegistry(settings.schema_registry, settings.schema_registry_username, password)


def _fields(answer: Any) -> dict[str, Any]:
    return answer if isinstance(answer, dict) else {}


def _parsed(answer: Any) -> Any:
    kind = _fields(answer).get("schemaType", "AVRO")
    if kind != "AVRO":
        raise LookupError(f"the schema is of type {kind}, not Avro")
    text = _fields(answer).get("schema")
    if text is None:
        raise LookupError("the schema registry's answer holds no schema")
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text  # a name such as "string" may come without quotes


def _resolved(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema in which the first mention of each name that is defined elsewhere is its definition."""
    left = dict(definitions)

    def resolve(part: Any) -> Any:
        if isinstance(part, str) and part in left:
            definition = resolve(left.pop(part))
            is_nameless = isinstance(definition, dict) and "." not in str(definition.get("name"))
            # Without a namespace of its own it would get that of the schema that it is put into.
            return {"namespace": ""} | definition if is_nameless else definition
        if isinstance(part, list):
            return [resolve(one) for one in part]
        if isinstance(part, dict):
            inner = ("type", "items", "values", "fields")
            return {name: resolve(value) if name in inner else value for name, value in part.items()}
        return part

    return resolve(schema)
