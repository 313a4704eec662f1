"""Avro of a schema registry: the number of the schema, and then the body."""

from __future__ import annotations

import io
from typing import Any, Final

from fastavro import parse_schema, schemaless_reader
from fastavro.schema import SchemaParseException, UnknownType

from pipeline.config.hints import looks_like
from pipeline.mapping.schemas import Schemas
from pipeline.wire.messages import Reason, RejectedError

_FRAME_BYTES: Final = 5


class AvroDecoder:
    """Decodes bodies by the schemas that wrote them, each of which is asked for once."""

    def __init__(self, schemas: Schemas | None) -> None:
        self._schemas = schemas
        self._parsed: dict[int, Any] = {}

    def decode(self, value: bytes) -> Any:
        """Raises RejectedError; where the registry cannot be asked, what `schemas` raises."""
        if value[:1] != b"\x00" or len(value) < _FRAME_BYTES:
            hint = looks_like(value)
            told = "" if hint is None else f"; it {hint}"
            raise RejectedError(Reason.UNREADABLE, f"it does not begin with the five bytes of a schema registry{told}")
        number = int.from_bytes(value[1:_FRAME_BYTES], "big")
        schema = self._parsed.get(number)
        if schema is None:
            schema = self._parsed[number] = self._parse(number)
        body = io.BytesIO(value[_FRAME_BYTES:])
        try:
            content = schemaless_reader(body, schema, None)
        except Exception as error:  # fastavro raises whatever its codecs do: EOFError, IndexError, OverflowError, ...
            told = str(error)[:150] or type(error).__name__
            raise RejectedError(Reason.UNREADABLE, f"it is not Avro of schema {number}: {told}") from None
        if body.read(1):
            raise RejectedError(Reason.UNREADABLE, f"it is longer than Avro of schema {number}")
        return content

    def _parse(self, number: int) -> Any:
        if self._schemas is None:
            raise RejectedError(Reason.UNREADABLE, "no schema registry is set (FAULTLINE_SCHEMA_REGISTRY)")
        try:
            return parse_schema(self._schemas.schema(number))
        except LookupError as error:
            told = f"schema {number} cannot be had: {error.args[0] if error.args else 'the registry has none'}"
            raise RejectedError(Reason.UNREADABLE, told[:200]) from None
        except (SchemaParseException, UnknownType, RecursionError, TypeError, AttributeError) as error:
            told = f"schema {number} cannot be used: {str(error)[:150]}"
            raise RejectedError(Reason.UNREADABLE, told) from None
