"""Topic groups: the topics that one agent reads together, and the state of their chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from agents.delivery.merging import TP, Chunk, ChunkMerger, Limits
from pipeline.config.topics import full_topic_name


@dataclass(frozen=True, slots=True)
class Delivery:
    """The topic groups of an app, which `install` sets on its transport."""

    groups: tuple[tuple[str, ...], ...]
    prefix: str
    limits: Limits
    before_revoked: Callable[[], Awaitable[None]] | None = None
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

    def processed(self) -> dict[TP, int]:
        """Next offsets behind the processed prefix of chunks."""
        positions = self.held()
        for message, chunk in self._out:
            if not (chunk.processed or message.acked):
                break
            positions.update(chunk.next_offsets)
        return positions

    def held(self) -> dict[TP, int]:
        """Next offsets behind the acked prefix of chunks."""
        self.collect_acked()
        return {**self.merger.starts, **self.acked}
