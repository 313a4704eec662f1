"""Documents about data: sources with rate and lag, and what could not be used, by reason, with an example each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class SourceRow(msgspec.Struct, frozen=True):
    """A topic that workers, `faultline ingest` or a plant agent read."""

    topic: str
    holds: str
    reader: str
    exists: bool
    partitions: int
    records_per_second: float | None
    lag: int | None
    measured_wall_ms: int | None
    late: int
    dead_letters: int
    machine_types: Sequence[str]
    machines: int
    """Known machines of these types."""
    silent_machines: int
    """Of these, how many are stale or offline."""


class Example(msgspec.Struct, frozen=True, gc=False):
    """One record that could not be used; text is printable and cut."""

    topic: str
    partition: int
    offset: int
    origin_topic: str
    origin_partition: int
    origin_offset: int
    timestamp_ms: int
    key: str | None
    detail: str
    value: str | None
    value_bytes: int
    """Length of the value as it was."""
    late_by_ms: int | None
    replays: int


class ReasonRow(msgspec.Struct, frozen=True):
    """Why records could not be used, how many of them there are, and the newest as an example."""

    reason: str
    title: str
    meaning: str
    count: int
    newest_ms: int
    topics: Mapping[str, int]
    example: Example


class Letters(msgspec.Struct, frozen=True):
    """Dead letters or late records since reading began, the most frequent reason first."""

    total: int
    foreign: int
    """Records of the topic that are something else."""
    reasons: Sequence[ReasonRow]


class TopicRow(msgspec.Struct, frozen=True, gc=False):
    """A topic that the console reads."""

    topic: str
    records: int
    newest_ms: int | None
    """The newest time stamp."""
    behind: int | None
    unreadable: int


class DataDocument(msgspec.Struct, frozen=True):
    """What comes in, and what could not be used."""

    version: int
    read_ms: int | None
    sources: Sequence[SourceRow]
    dead_letters: Letters
    late: Letters
    topics: Sequence[TopicRow]
    since_ms: int | None
    """The time stamp from which on diagnoses are read; None of a source that is read from its beginning."""
