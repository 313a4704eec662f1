"""What goes into the engine and what comes out: raw records of topics, and outputs to publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]

OnProgress = Callable[[int, int | None], None]
"""Gets, now and then, how many records were read or written, and about how many there are if that is known."""


RECORD_OVERHEAD_BYTES = 64
"""Bytes that a record takes in a batch besides key, value and headers, at most."""


class Place(NamedTuple):
    """Where a record is; the topic is named without prefix."""

    topic: str
    partition: int
    offset: int


class Record(NamedTuple):
    """One record as it was in a topic; `topic` is named without the prefix (`sensors`, `events`, …)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Output(NamedTuple):
    """One record to publish; `topic` is named without the prefix, `partition` None means "by key"."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Headers = ()


_headers_of = itemgetter(Output._fields.index("headers"))


def sizes_of(outputs: Sequence[Output]) -> list[int]:
    """`record_bytes` of each output."""
    if any(map(_headers_of, outputs)):
        return [record_bytes(output) for output in outputs]
    return [RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"") for _, _, key, value, _, _ in outputs]


def record_bytes(output: Output) -> int:
    """Bytes that an output takes in a batch, at most."""
    _, _, key, value, _, headers = output
    size = RECORD_OVERHEAD_BYTES + len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name.encode()) + len(content or b"") + 8  # Kafka has headers without a value
    return size
