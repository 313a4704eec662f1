"""The `memory://` transport: Faust's consumer and producer on a broker inside the process.

It overrides names that are private to Faust, checked with faust-streaming 0.15.3; tests/agents/test_private_names.py
pins them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from time import time
from typing import Any

from faust import types as faust_types
from faust.transport import base
from faust.transport.drivers import TRANSPORTS
from faust.types import ConsumerMessage, RecordMetadata

from agents.delivery.consumer import ChunkedConsumerMixin
from agents.delivery.groups import Delivery, Fetched
from agents.delivery.merging import TP, Mark
from agents.delivery.partitioning import partition_of
from agents.memory.broker import ConsumerGroup, MemoryBroker
from pipeline.wire.records import Record


def register() -> None:
    """Let Faust know the scheme `memory://`."""
    TRANSPORTS.aliases["memory"] = f"{__name__}:Transport"


class Consumer(ChunkedConsumerMixin, base.Consumer):
    """A group member on a memory broker."""

    consumer_stopped_errors = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.broker: MemoryBroker = self.transport.broker
        self.topics: set[str] = set()
        self.dead = False
        self._group = self.broker.group(self.app.conf.id)
        self._generation = 0
        self._answers = 0
        self._position: dict[TP, int] = {}

    # -- membership ---------------------------------------------------------------------------------------------

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group; topics that are missing are created with the app's number of partitions."""
        self.topics = set(topics)
        for topic in self.topics:
            if self.broker.partitions_for_topic(topic) is None:
                self.broker.create(topic, self.app.conf.topic_partitions)
        self._group.join(self)

    async def revoke(self) -> None:
        """First half of a rebalance: give up all partitions."""
        self.app.on_rebalance_start()
        await self.on_partitions_revoked(self.assignment())

    async def assign(self, assignment: Any, group: ConsumerGroup) -> None:
        """Second half of a rebalance: begin at the committed offsets of the new partitions."""
        self.app.assignor.on_assignment(assignment)
        tps: set[Any] = {
            faust_types.TP(topic, number) for topic, numbers in assignment.assignment for number in numbers
        }
        self._position = {tp: group.offsets.get(tp, 0) for tp in tps}
        self._generation = self.app.consumer_generation_id = group.generation
        await self.on_partitions_assigned(tps, group.generation)

    async def on_stop(self) -> None:
        """Commit what is acked and leave the group."""
        await super().on_stop()
        self._position = {}
        self._group.leave(self)

    def assignment(self) -> set[TP]:
        """Assigned partitions."""
        return set(self._position)

    # -- reading ------------------------------------------------------------------------------------------------

    async def _fetch(self, wanted: AbstractSet[TP], timeout: float) -> Fetched:
        found = await self._getmany(wanted, timeout)
        self._answers += 1
        records = {
            tp: [Record(self.groups_topics[tp.topic], *record[1:]) for record in found.pop(tp)]
            for tp in found.keys() & self._managed
        }
        marks = {
            tp: Mark(self._position[tp], self.broker.end(tp), self._answers)
            for tp in self._managed & self._position.keys()
        }
        return Fetched(records, found, marks)

    async def _getmany(self, active_partitions: AbstractSet[TP] | None, timeout: float) -> dict[TP, list[Record]]:
        wanted = self.assignment() if active_partitions is None else active_partitions
        try:
            await self.broker.faults.before_fetch()
        except ConnectionError:
            await asyncio.sleep(min(timeout, 0.05))
            return {}
        found = self._read(wanted)
        if not found and wanted:
            await self.broker.wait_for_records(timeout)
            found = self._read(wanted)
        return found

    def _read(self, wanted: AbstractSet[TP]) -> dict[TP, list[Record]]:
        found: dict[TP, list[Record]] = {}
        if self.flow_active and self.broker.faults.connected and not self.dead:
            for tp in self._position.keys() & wanted:
                records = self.broker.read(tp, self._position[tp])
                if records:
                    found[tp] = records
                    self._position[tp] += len(records)
        return found

    def _ends(self) -> dict[TP, int]:
        return {tp: self.broker.end(tp) for tp in self._managed}

    @property
    def positions(self) -> dict[TP, int]:
        """Offset behind the last processed record; known from the moment of assignment."""
        return {tp: self._group.offsets.get(tp, 0) for tp in self._managed} | super().positions

    def _to_message(self, tp: TP, record: Record) -> Any:
        return ConsumerMessage(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp_ms / 1000,
            0,
            record.headers,
            record.key,
            record.value,
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _new_topicpartition(self, topic: str, partition: int) -> Any:
        return faust_types.TP(topic, partition)

    # -- positions ----------------------------------------------------------------------------------------------

    async def seek_to_committed(self) -> dict[TP, int | None]:
        """Back to the committed offsets; changelogs have none and stay where recovery has put them."""
        for tp in self._position:
            if tp in self._managed or tp in self._group.offsets:
                self._position[tp] = self._group.offsets.get(tp, 0)
        return {tp: self._group.offsets.get(tp) for tp in self._position}

    async def _seek(self, partition: TP, offset: int) -> None:
        self._position[partition] = offset

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Go to offsets; Faust's recovery of tables uses this."""
        for tp, offset in partitions.items():
            self._position[tp] = offset
            self._read_offset[tp] = offset or None

    async def position(self, tp: TP) -> int | None:
        """Next offset to fetch."""
        return self._position.get(tp)

    def highwater(self, tp: TP) -> int:
        """End of a partition's log."""
        return self.broker.end(tp)

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        """Ends of partitions' logs."""
        return {tp: self.broker.end(tp) for tp in tps}

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        """Where the logs begin."""
        return dict.fromkeys(tps, 0)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        try:
            await self.broker.faults.before_commit()
        except ConnectionError as error:
            self.log.warning("%s", error)
            return False
        if self.dead or self._generation != self._group.generation:
            return False  # another member may have these partitions by now
        self._group.offsets.update({TP(*tp): offset for tp, offset in offsets.items()})
        return True

    # -- topics -------------------------------------------------------------------------------------------------

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        """Create a topic unless it exists."""
        if self.broker.partitions_for_topic(topic) is None:
            self.broker.create(topic, partitions)

    def topic_partitions(self, topic: str) -> int | None:
        """How many partitions a topic has."""
        return len(self.broker.partitions_for_topic(topic) or ()) or None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        """The partition of a key."""
        if partition is not None or key is None:
            return partition
        return partition_of(key, self.topic_partitions(topic) or 1)


class Producer(base.Producer):
    """What Faust itself sends with: changelogs, and `topic.send` of agents."""

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        """Create a topic unless it exists."""
        if self.transport.broker.partitions_for_topic(topic) is None:
            self.transport.broker.create(topic, partitions)

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None,
        *,
        transactional_id: str | None = None,
    ) -> asyncio.Future[Any]:
        """Append to the log at once; returns a completed future."""
        broker: MemoryBroker = self.transport.broker
        await broker.faults.before_send()
        timestamp_ms = int((time() if timestamp is None else timestamp) * 1000)
        if partition is None:
            partition = 0 if key is None else self.key_partition(topic, key).partition
        pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers or ())
        offset = broker.append(topic, partition, key, value, timestamp_ms, pairs)
        sent = asyncio.get_running_loop().create_future()
        sent.set_result(RecordMetadata(topic, partition, faust_types.TP(topic, partition), offset, timestamp, 0))
        return sent

    async def send_and_wait(self, *args: Any, **options: Any) -> Any:
        """As `send`."""
        return await (await self.send(*args, **options))

    async def flush(self) -> None:
        """Wait until what waits in Faust's buffer is sent."""
        await self.buffer.flush()

    def key_partition(self, topic: str, key: bytes) -> Any:
        """The partition of a key."""
        partitions = self.transport.broker.partitions_for_topic(topic) or {0}
        return faust_types.TP(topic, partition_of(key, len(partitions)))

    def supports_headers(self) -> bool:
        """Records have headers."""
        return True


class Transport(base.Transport):
    """What `broker="memory://name"` becomes."""

    Consumer = Consumer
    Producer = Producer
    default_port = 0
    driver_version = "memory"
    delivery: Delivery | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.broker = MemoryBroker.named(self.url[0].host or "default")
