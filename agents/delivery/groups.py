"""Topic groups: the topics that one agent reads together, and the state of their chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, NamedTuple

from faust.transport.drivers import TRANSPORTS

from agents.delivery.merging import DEFAULT_LIMITS, TP, Chunk, ChunkMerger, Limits, Mark
from pipeline.config.topics import full_topic_name
from pipeline.wire.records import Record

_TRANSPORTS = {
    "kafka": "agents.kafka.transport:Transport",
    "aiokafka": "agents.kafka.transport:Transport",
    "memory": "agents.memory.transport:Transport",
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """The topic groups of an app, which `install` sets on its transport."""

    groups: tuple[tuple[str, ...], ...]
    prefix: str
    limits: Limits
    before_revoked: Callable[[], Awaitable[None]] | None = None
    on_log_behind: Callable[[AbstractSet[TP]], None] | None = None
    commits_itself: bool = False
    across_partitions: bool = False


class TopicGroup:
    """The chunks of a topic group: what is being merged, ready, handed out and acked."""

    def __init__(self, topics: Sequence[str], delivery: Delivery) -> None:
        self.merger = ChunkMerger(
            topics, delivery.prefix, delivery.limits, across_partitions=delivery.across_partitions
        )
        self.ready: deque[Chunk] = deque()
        self.acked: dict[TP, int] = {}  # next offsets behind the acked prefix
        self.uncommitted: dict[TP, int] = {}
        self._first_topic = full_topic_name(delivery.prefix, topics[0])
        self._limit = delivery.limits.chunks_in_flight
        self._out: deque[tuple[Any, Chunk]] = deque()

    def restart(self, assigned: AbstractSet[TP]) -> None:
        """Forget what was read; acks of handed-out chunks no longer have an effect."""
        self.merger.assign(assigned)
        self.ready.clear()
        self.acked.clear()
        self.uncommitted.clear()
        self._out.clear()

    @property
    def route(self) -> TP:
        """The partition under whose name Faust delivers the chunks."""
        return min((tp for tp in self.merger.tps if tp.topic == self._first_topic), default=min(self.merger.tps))

    @property
    def busy(self) -> bool:
        """Whether the limit of chunks in flight is reached."""
        return sum(not (chunk.processed or message.acked) for message, chunk in self._out) >= self._limit

    def hand_out(self, message: Any, chunk: Chunk) -> None:
        """A chunk goes to the agent as this message."""
        self._out.append((message, chunk))

    def collect_acked(self) -> None:
        """Remove the acked prefix from the handed-out chunks."""
        while self._out and self._out[0][0].acked:
            _, chunk = self._out.popleft()
            self.acked.update(chunk.next_offsets)
            self.uncommitted.update(chunk.next_offsets)
        if not self._out and not self.ready:
            # Transaction markers and aborted records make no chunk.
            known = {**self.merger.starts, **self.acked}
            passed = {tp: offset for tp, offset in self.merger.passed.items() if offset > known.get(tp, offset)}
            self.acked.update(passed)
            self.uncommitted.update(passed)

    def processed(self) -> dict[TP, int]:
        """Next offsets behind the processed prefix of chunks."""
        positions = self.held()
        for message, chunk in self._out:
            if not (chunk.processed or message.acked):
                return positions
            positions.update(chunk.next_offsets)
        return positions if self.ready else positions | self.merger.passed

    def held(self) -> dict[TP, int]:
        """Next offsets behind the acked prefix of chunks."""
        self.collect_acked()
        return {**self.merger.starts, **self.acked}


class Fetched(NamedTuple):
    """The result of one fetch: records of topic groups, other records, and marks of the groups' partitions."""

    records: dict[TP, list[Record]]
    others: dict[TP, list[Any]]
    marks: dict[TP, Mark]
    lost: Sequence[tuple[TP, int, int]] = ()
    """Ranges of offsets that were deleted before they could be read: partition, first, and the first that is there."""
    behind: AbstractSet[TP] = frozenset()
    """Partitions whose logs end before the position from which they should be read: it is that of another log."""


def install(
    app: Any,
    groups: Sequence[Sequence[str]],
    prefix: str,
    limits: Limits = DEFAULT_LIMITS,
    before_revoked: Callable[[], Awaitable[None]] | None = None,
    on_log_behind: Callable[[AbstractSet[TP]], None] | None = None,
    *,
    commits_itself: bool = False,
    across_partitions: bool = False,
) -> None:
    """Make `app` read its topic groups in chunks; call it before the app starts or defines agents.

    Topics are named without `prefix`; within a group their order is the order of equal time stamps. `before_revoked`
    is awaited when partitions are about to go: what is acked then is still committed. `on_log_behind` is told of
    partitions whose logs end before what was read of them, again and again until it lets the consumer `read_again`;
    without it, they are read from their beginnings. With `commits_itself` the agent
    has committed a chunk's offsets before it acks the chunk, in a transaction, and the consumer commits none. With
    `across_partitions` all partitions of a group are merged by time, not only those of one number.
    """
    topics = [topic for group in groups for topic in group]
    if len(set(topics)) != len(topics):
        raise ValueError(f"a topic may be in only one group: {topics}")
    TRANSPORTS.aliases.update(_TRANSPORTS)
    app.transport.delivery = Delivery(
        tuple(map(tuple, groups)), prefix, limits, before_revoked, on_log_behind, commits_itself, across_partitions
    )
