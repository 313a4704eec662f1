"""A broker inside the process: topics, consumer groups with rebalances, and faults on demand.

A `MemoryBroker` outlives the apps that use it, so a second app on the same broker is a restart, and two at the same
time are two workers of a group, between which Faust's own assignor shares out the partitions. Everything about one
broker happens in one thread and one event loop.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from agents.delivery.merging import TP
from agents.delivery.partitioning import partition_of
from pipeline.errors import TopicMismatchError
from pipeline.wire.records import Headers, Record

_FETCH_RECORDS = 4_096
"""Most records of a partition that one fetch returns."""


@dataclass(slots=True)
class Faults:
    """Injected faults: the n-th send or commit fails (1 is the next), answers are slow, or there is no connection."""

    fail_sends: set[int] = field(default_factory=set)
    fail_commits: set[int] = field(default_factory=set)
    delay_s: float = 0.0
    connected: bool = True
    sends: int = 0
    commits: int = 0

    async def before_send(self) -> None:
        """Raises ConnectionError if this send is to fail."""
        self.sends += 1
        await self._answer(self.sends in self.fail_sends, f"send {self.sends}")

    async def before_commit(self) -> None:
        """Raises ConnectionError if this commit is to fail."""
        self.commits += 1
        await self._answer(self.commits in self.fail_commits, f"commit {self.commits}")

    async def before_fetch(self) -> None:
        """Raises ConnectionError while there is no connection."""
        await self._answer(False, "fetch")

    async def _answer(self, fails: bool, what: str) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if fails or not self.connected:
            raise ConnectionError(f"{what}: the memory broker does not answer")


class Member(Protocol):
    """A consumer in a group: what the group asks of it in a rebalance."""

    app: Any
    topics: set[str]

    async def revoke(self) -> None:
        """Give up all partitions."""

    async def assign(self, assignment: Any, group: ConsumerGroup) -> None:
        """Begin with the partitions of a new assignment."""


class MemoryBroker:
    """Topics of a fixed number of partitions, and consumer groups that read them."""

    _registry: ClassVar[dict[str, MemoryBroker]] = {}

    def __init__(self) -> None:
        self.faults = Faults()
        self._logs: dict[str, list[list[Record]]] = {}
        self._groups: dict[str, ConsumerGroup] = {}
        self._readers: set[asyncio.Future[None]] = set()

    @classmethod
    def named(cls, name: str) -> MemoryBroker:
        """The broker behind `memory://name`, created on first use."""
        return cls._registry.setdefault(name, cls())

    @classmethod
    def forget(cls, name: str) -> None:
        """Drop a broker with all it holds."""
        cls._registry.pop(name, None)

    def create(self, topic: str, partitions: int) -> None:
        """Create a topic; raises TopicMismatchError if it exists with another number of partitions."""
        logs = self._logs.setdefault(topic, [[] for _ in range(partitions)])
        if len(logs) != partitions:
            raise TopicMismatchError(f"topic {topic} has {len(logs)} partitions, not {partitions}")

    def delete(self, topic: str) -> None:
        """Delete a topic with its records."""
        self._logs.pop(topic, None)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """Partition numbers, None if there is no such topic; Faust's assignor asks for this."""
        logs = self._logs.get(topic)
        return None if logs is None else set(range(len(logs)))

    def append(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int,
        headers: Headers = (),
    ) -> int:
        """Append a record and return its offset; partition None means by key, or 0 without one."""
        logs = self._logs.get(topic)
        if logs is None:
            raise TopicMismatchError(f"the memory broker has no topic {topic}")
        if partition is None:
            partition = 0 if key is None else partition_of(key, len(logs))
        if not 0 <= partition < len(logs):
            raise TopicMismatchError(f"topic {topic} has {len(logs)} partitions, and no partition {partition}")
        log = logs[partition]
        log.append(Record(topic, partition, len(log), timestamp_ms, key, value, headers))
        while self._readers:
            reader = self._readers.pop()
            if not reader.done():
                reader.set_result(None)
        return len(log) - 1

    def log(self, topic: str, partition: int) -> list[Record]:
        """All records of a partition, with their full topic names."""
        return list(self._logs[topic][partition])

    def end(self, tp: TP) -> int:
        """The offset that the next record of a partition gets."""
        return len(self._logs[tp.topic][tp.partition])

    def read(self, tp: TP, offset: int, limit: int = _FETCH_RECORDS) -> list[Record]:
        """Records of a partition from `offset` on."""
        return self._logs[tp.topic][tp.partition][offset : offset + limit]

    async def wait_for_records(self, timeout: float) -> None:
        """Return when something is appended, or after `timeout` seconds."""
        reader = asyncio.get_running_loop().create_future()
        self._readers.add(reader)
        try:
            await asyncio.wait([reader], timeout=timeout)
        finally:
            self._readers.discard(reader)

    def committed(self, group: str) -> dict[TP, int]:
        """What a consumer group has committed."""
        return dict(self.group(group).offsets)

    def kill(self, app: Any) -> None:
        """Make an app's consumer act as if its process had died: out of its group, unable to read or to commit."""
        consumer = app.consumer
        consumer.dead = True
        self.group(app.conf.id).leave(consumer)

    def group(self, name: str) -> ConsumerGroup:
        """The consumer group of that name."""
        if name not in self._groups:
            self._groups[name] = ConsumerGroup(self)
        return self._groups[name]


class ConsumerGroup:
    """Members, committed offsets, and rebalances as in Kafka: revoke, assign, continue."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.offsets: dict[TP, int] = {}
        self.generation = 0
        self._broker = broker
        self._members: dict[str, Member] = {}
        self._joined = 0
        self._stale = False
        self._rebalance: asyncio.Task[None] | None = None

    def join(self, consumer: Member) -> None:
        if consumer not in self._members.values():
            self._joined += 1
            self._members[f"member-{self._joined}"] = consumer
        self._begin_rebalance()

    def leave(self, consumer: Member) -> None:
        for member in [member for member, other in self._members.items() if other is consumer]:
            del self._members[member]
            self._begin_rebalance()

    def _begin_rebalance(self) -> None:
        # Never in the caller's own task: Faust continues only when `subscribe` has returned.
        self._stale = True
        if self._rebalance is None or self._rebalance.done():
            self._rebalance = asyncio.get_running_loop().create_task(self._rebalance_until_settled())

    async def _rebalance_until_settled(self) -> None:
        while self._stale:
            self._stale = False
            members = dict(self._members)
            await asyncio.gather(*(consumer.revoke() for consumer in members.values()))
            members = {name: consumer for name, consumer in members.items() if consumer in self._members.values()}
            if not members:
                continue
            leader = next(iter(members.values())).app.assignor
            metadata = {name: consumer.app.assignor.metadata(consumer.topics) for name, consumer in members.items()}
            assigned = leader.assign(self._broker, metadata)
            self.generation += 1
            await asyncio.gather(*(consumer.assign(assigned[name], self) for name, consumer in members.items()))
