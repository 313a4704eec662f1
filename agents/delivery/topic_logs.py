"""The logs behind the input topics: a topic that is deleted and created again has another log under the same name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple


class TopicLog(NamedTuple):
    """What a broker says of a topic."""

    id: str
    """Another one after every creation; empty where the broker gives none (Kafka before 2.8)."""
    partitions: int


class LogPosition(NamedTuple):
    """How long a partition's log is, and how far the group has come."""

    end: int
    committed: int
    """Offset at which reading begins, -1 if nothing is committed."""
    committed_log: str
    """The id of the log that this offset belongs to; empty if it is not known."""


TopicLogs = Callable[[], Awaitable[Mapping[str, TopicLog]]]
"""Gives the topics that exist, by their names on the broker; raises FaultlineError."""
