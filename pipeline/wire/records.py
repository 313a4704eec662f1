"""What goes into the engine and what comes out: raw records of topics and the outputs to publish."""

from __future__ import annotations

from typing import NamedTuple

Headers = tuple[tuple[str, bytes], ...]


class Record(NamedTuple):
    """One record as it lay in a topic; `topic` is named without the prefix (`sensors`, `events`, …)."""

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
