"""Durable state: each machine's newest checkpoint in a compacted topic of its own, written and read by the worker.

What has to happen in which order, so that a crash at any point leads to the same diagnoses:

1. The engine processes chunks and their outputs are published.
2. The broker has confirmed all of them. Only then
3. the states that the chunks led to are published, and confirmed, and only then
4. the chunks are acknowledged, and committed some time later.

A crash before 3 finds older states, and the records since then come again: the same outputs are computed again. A crash
between 3 and 4, or halfway through 3, finds some or all states ahead of the committed offsets. Their machines skip
records up to the offsets that the states name, and say nothing for them; that is right because 2 came before. One
flush for both would not do: order is kept within a partition of a topic, not between topics, so a state might arrive
while the diagnoses that it is ahead of never do.

Every state that ever was written is therefore a right one to begin with, as long as it is not behind the committed
offsets. That settles what to do about a worker that does not know yet that its partitions are another's (it was
suspended, say) and writes states late: of two states of a machine the later one counts, unless it has applied less.

A machine that is forgotten gets its tombstone only when the offsets behind it are committed. Earlier, a crash would
bring its last records again and find a machine that has never been heard of.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.delivery.publisher import KafkaPublisher, MemoryPublisher, Publisher
from agents.memory.transport import MemoryBroker
from pipeline.config.topics import STATE
from pipeline.errors import DeliveryError
from pipeline.wire.records import Output, Record
from pipeline.wire.states import SavedAt, saved_at

STATE_BYTES = 64 << 20
"""The largest state that is kept; one that holds back 100,000 readings of 80 variables is about as large."""

SEGMENT_BYTES = 64 << 20
"""A broker compacts closed segments only, so this is about how much a restart has to read beyond the states."""

COMPACTION_LAG_MS = 60_000
"""For so long every state is kept, so that a late one of a suspended worker can be told from the one that counts."""

_FETCH_BYTES = 8 << 20

_FETCH_MAX_WAIT_MS = 20
"""How long the broker may keep a fetch that finds nothing; aiokafka begins with one, at the end of the log."""


class Span(NamedTuple):
    """Input of one partition: from a time on, up to where the worker begins to read."""

    partition: int
    since_ms: int
    ends: Mapping[str, int]
    """By topic, the offset at which to stop."""


class StateStore(Protocol):
    """Where machines' states outlive the worker."""

    async def start(self) -> None:
        """Connect; raises BrokerUnavailableError."""

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        """Return when the states are safe, None standing for a machine that is forgotten; raises DeliveryError."""

    async def read(self, partitions: Sequence[int]) -> dict[str, bytes]:
        """The states of all machines of these partitions; raises DeliveryError."""

    async def history(self, span: Span) -> list[Record]:
        """Records that led to states, read again; raises DeliveryError."""

    async def stop(self) -> None:
        """Disconnect."""


class MemoryStateStore:
    """States on a memory broker."""

    def __init__(self, broker: MemoryBroker, prefix: str, partition_of: Callable[[bytes], int]) -> None:
        self._broker = broker
        self._prefix = prefix
        self._topic = prefix + STATE
        self._publisher = MemoryPublisher(broker, prefix)
        self._partition_of = partition_of

    async def start(self) -> None:
        """Nothing to connect to."""

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        """Append at once."""
        await _write(self._publisher, states, self._partition_of)

    async def read(self, partitions: Sequence[int]) -> dict[str, bytes]:
        """Read the logs as they are."""
        logs = [self._broker.log(self._topic, partition) for partition in partitions]
        return _newest((record.key, record.value) for log in logs for record in log)

    async def history(self, span: Span) -> list[Record]:
        """Read the logs as they are."""
        return [
            record._replace(topic=topic)
            for topic, end in span.ends.items()
            for record in self._broker.log(self._prefix + topic, span.partition)
            if record.offset < end and record.timestamp_ms >= span.since_ms
        ]

    async def stop(self) -> None:
        """Nothing to disconnect from."""


class KafkaStateStore:
    """States on Kafka, with a producer of its own, since states may be larger than other records."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        partition_of: Callable[[bytes], int],
        *,
        timeout_s: float = 60.0,
        **security: Any,
    ) -> None:
        """`timeout_s` is how long the broker may be away; `security` is aiokafka's."""
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._topic = prefix + STATE
        self._partition_of = partition_of
        self._timeout_s = timeout_s
        self._security = security
        self._publisher = KafkaPublisher(bootstrap, prefix, record_bytes=STATE_BYTES, **security)

    async def start(self) -> None:
        """Connect the producer."""
        await self._publisher.start()

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        """Publish and wait for the broker."""
        await _write(self._publisher, states, self._partition_of)

    async def read(self, partitions: Sequence[int]) -> dict[str, bytes]:
        """Read the partitions from their beginning to where they end now, in no consumer group."""
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        async with self._consumer(self._topic) as consumer:
            consumer.assign(places)
            begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            return _newest([(one.key, one.value) async for one in self._between(consumer, begins, ends)])

    async def history(self, span: Span) -> list[Record]:
        """Find the offsets by time, and read from there."""
        ends = {TopicPartition(self._prefix + topic, span.partition): end for topic, end in span.ends.items()}
        names = {self._prefix + topic: topic for topic in span.ends}
        async with self._consumer(f"partition {span.partition}") as consumer:
            consumer.assign(list(ends))
            found = await consumer.offsets_for_times(dict.fromkeys(ends, span.since_ms))
            begins = {place: at.offset if at is not None else ends[place] for place, at in found.items()}
            return [
                Record(names[one.topic], one.partition, one.offset, one.timestamp, one.key, one.value, one.headers)
                async for one in self._between(consumer, begins, ends)
            ]

    @asynccontextmanager
    async def _consumer(self, what: str) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            **self._security,
        )
        try:
            await consumer.start()
            yield consumer
        except (KafkaError, TimeoutError) as error:
            raise DeliveryError(f"cannot read {what} again to restore states: {error!r}") from error
        finally:
            await consumer.stop()

    async def _between(
        self, consumer: AIOKafkaConsumer, begins: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> AsyncIterator[Any]:
        """Records from these offsets up to those."""
        rest = {place for place, end in ends.items() if begins[place] < end}
        consumer.pause(*(set(ends) - rest))
        for place in rest:
            consumer.seek(place, begins[place])
        progress = time.monotonic()
        while rest:
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                progress = time.monotonic()
                for record in records:
                    if record.offset < ends[place]:
                        yield record
            done = {place for place in rest if await consumer.position(place) >= ends[place]}
            consumer.pause(*done)
            rest -= done
            if time.monotonic() - progress > self._timeout_s:
                raise TimeoutError(f"nothing came for {self._timeout_s:.0f} s")

    async def stop(self) -> None:
        """Disconnect the producer."""
        await self._publisher.stop()


async def _write(
    publisher: Publisher, states: Mapping[str, bytes | None], partition_of: Callable[[bytes], int]
) -> None:
    now_ms = int(time.time() * 1000)
    keys = [machine.encode() for machine in states]
    await publisher.publish(
        [Output(STATE, partition_of(key), key, state, now_ms) for key, state in zip(keys, states.values(), strict=True)]
    )
    await publisher.flush()


def _newest(records: Iterable[tuple[bytes | None, bytes | None]]) -> dict[str, bytes]:
    """Of every machine the state that counts."""
    states: dict[bytes, tuple[bytes, SavedAt]] = {}
    for key, state in records:
        if key is None:
            continue
        if state is None:
            states.pop(key, None)
            continue
        at = saved_at(state)
        if key not in states or not _is_behind(at, states[key][1]):
            states[key] = state, at
    return {key.decode(errors="replace"): state for key, (state, _) in states.items()}


def _is_behind(at: SavedAt, other: SavedAt) -> bool:
    return any(at.applied[topic] < other.applied[topic] for topic in at.applied.keys() & other.applied.keys())
