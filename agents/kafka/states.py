"""Machines' states in a compacted Kafka topic."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from agents.delivery.kept_states import is_kept
from agents.delivery.states import Span, newest_states, write_states
from agents.kafka.log import Unread
from agents.kafka.publisher import KafkaPublisher
from pipeline.config.topics import INCIDENTS, STATE, full_topic_name
from pipeline.errors import DeliveryError
from pipeline.wire.records import RECORD_OVERHEAD_BYTES, Record
from pipeline.wire.states import without_state

log = logging.getLogger("faultline.worker")

STATE_BYTES = 64 << 20
"""Maximum size of a state; one with 100,000 held-back readings of 80 variables is about as large."""

SEGMENT_BYTES = 64 << 20
"""A broker compacts closed segments only, so this is about how much a restart has to read beyond the states."""

COMPACTION_LAG_MS = 60_000
"""Minimum time that every state is kept, so that a late one of a suspended worker cannot replace the valid one."""

_FETCH_BYTES = 8 << 20

_FETCH_MAX_WAIT_MS = 20
"""How long the broker may hold an empty fetch; aiokafka begins with one, at the end of the log."""


class KafkaStateStore:
    """States on Kafka, with their own producer, because states may be larger than other records."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        partition_of: Callable[[bytes], int],
        *,
        timeout_s: float = 60.0,
        state_bytes: int = STATE_BYTES,
        **security: Any,
    ) -> None:
        """`timeout_s` is how long the broker may be away, `state_bytes` how large a state may be; `security` is
        aiokafka's.
        """
        self.records_read = 0
        self._state_bytes = state_bytes
        self._too_large: set[str] = set()
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._topic = prefix + STATE
        self._partition_of = partition_of
        self._timeout_s = timeout_s
        self._security = security
        self._publisher = KafkaPublisher(bootstrap, prefix, record_bytes=state_bytes, **security)

    async def start(self) -> None:
        """Connect the producer."""
        await self._publisher.start()

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        """Publish and wait for the broker."""
        fitting = {machine: self._fitting(machine, state) for machine, state in states.items()}
        await write_states(self._publisher, fitting, self._partition_of)

    def _fitting(self, machine: str, state: bytes | None) -> bytes | None:
        """The state, or if the topic does not take it only that its records are applied."""
        if state is None or RECORD_OVERHEAD_BYTES + len(machine.encode()) + len(state) <= self._state_bytes:
            return state
        if is_kept(machine):
            return None
        if machine not in self._too_large:
            self._too_large.add(machine)
            log.warning(
                "the state of %s has %d bytes, and %s takes %d: after a restart it begins with a fresh one",
                machine[:80],
                len(state),
                self._topic,
                self._state_bytes,
            )
        return without_state(machine, state)

    async def read(self, partitions: Sequence[int]) -> dict[str, bytes]:
        """Read the partitions from their beginning to where they end now, in no consumer group."""
        places = [TopicPartition(self._topic, partition) for partition in partitions]
        async with self._consumer(self._topic) as consumer:
            consumer.assign(places)
            begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            return newest_states([(one.key, one.value) async for one in self._between(consumer, begins, ends)])

    async def incidents(self, since: Mapping[int, int]) -> tuple[list[Record], dict[int, int]]:
        """Read the partitions to where they end now, in no consumer group."""
        name = full_topic_name(self._prefix, INCIDENTS)
        places = [TopicPartition(name, partition) for partition in since]
        async with self._consumer(name) as consumer:
            consumer.assign(places)
            begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            begins = {place: max(begin, since[place.partition]) for place, begin in begins.items()}
            records = [
                Record(INCIDENTS, one.partition, one.offset, one.timestamp, one.key, one.value)
                async for one in self._between(consumer, begins, ends)
            ]
        return records, {place.partition: end for place, end in ends.items()}

    async def history(self, span: Span) -> list[Record]:
        """Find the offsets by time, and read from there."""
        names = {full_topic_name(self._prefix, topic): topic for topic in span.ends}
        ends = {TopicPartition(name, span.partition): span.ends[topic] for name, topic in names.items()}
        async with self._consumer(f"partition {span.partition}") as consumer:
            consumer.assign(list(ends))
            begins = await self._offsets_at(consumer, span.since_ms, ends)
            if span.until_ms is not None:
                ends = await self._offsets_at(consumer, span.until_ms, ends)
            return [
                Record(names[one.topic], one.partition, one.offset, one.timestamp, one.key, one.value, one.headers)
                async for one in self._between(consumer, begins, ends)
            ]

    async def _offsets_at(
        self, consumer: AIOKafkaConsumer, time_ms: int, ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Where the records of a time begin, at the latest at the ends."""
        found = await consumer.offsets_for_times(dict.fromkeys(ends, time_ms))
        return {place: end if (at := found[place]) is None else min(at.offset, end) for place, end in ends.items()}

    @asynccontextmanager
    async def _consumer(self, what: str) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            group_id=None,
            enable_auto_commit=False,
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            isolation_level="read_committed",
            **self._security,
        )
        try:
            await consumer.start()
            yield consumer
        except (KafkaError, TimeoutError) as error:
            raise DeliveryError(f"cannot read {what} to restore what a worker knows: {error!r}") from error
        finally:
            await consumer.stop()

    async def _between(
        self, consumer: AIOKafkaConsumer, begins: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> AsyncIterator[Any]:
        """Records from these offsets up to those."""
        unread = Unread(begins, ends, silent_seconds=self._timeout_s)
        consumer.pause(*(set(ends) - unread.partitions))
        for place in unread.partitions:
            consumer.seek(place, begins[place])
        while unread.partitions:
            for place, entries in (await consumer.getmany(timeout_ms=200)).items():
                for entry in unread.before_end(place, entries):
                    self.records_read += 1
                    yield entry
            positions = {place: await consumer.position(place) for place in unread.partitions}
            consumer.pause(*unread.finish(positions))

    async def stop(self) -> None:
        """Disconnect the producer."""
        await self._publisher.stop()
