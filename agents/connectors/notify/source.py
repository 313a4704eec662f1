"""Where notifications come from: records of alarms, and how far each partition's have been delivered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaConnectionError, KafkaError
from aiokafka.structs import TopicPartition

from pipeline.config.topics import ALARMS, full_topic_name
from pipeline.errors import BrokerUnavailableError
from pipeline.wire.records import Record

_FETCH_MS = 500
_FETCH_RECORDS = 200
_NEVER_MS = 2**31 - 1
"""A receiver may be away for days; meanwhile the group goes on as it is."""


class AlarmSource(Protocol):
    """Records of alarms, each until it is committed."""

    async def start(self) -> None:
        """Connect; raises FaultlineError."""

    async def stop(self) -> None:
        """Disconnect."""

    async def fetch(self) -> Mapping[int, Sequence[Record]]:
        """By partition the next records in their order; empty if there are none at present."""

    async def commit(self, partition: int, next_offset: int) -> None:
        """All records before this one are delivered."""


class KafkaAlarmSource:
    """The topic of alarms on a Kafka, for one member of a consumer group.

    A group that is new begins with what is written from then on: nobody is called for last month's alarms.
    """

    def __init__(self, address: str, prefix: str, group: str, **security: Any) -> None:
        """`security` is aiokafka's."""
        self._address = address
        self._topic = full_topic_name(prefix, ALARMS)
        self._group = group
        self._security = security
        self._consumer: AIOKafkaConsumer | None = None
        self._begun: set[TopicPartition] = set()

    @property
    def partitions(self) -> frozenset[int]:
        """Those whose records it gives now."""
        return frozenset(tp.partition for tp in self._begun)

    async def start(self) -> None:
        """Connect; raises BrokerUnavailableError."""
        consumer = AIOKafkaConsumer(
            self._topic,
            bootstrap_servers=self._address,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            max_poll_interval_ms=_NEVER_MS,
            **self._security,
        )
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            kind = "no Kafka broker answers" if isinstance(error, KafkaConnectionError) else "Kafka refuses"
            raise BrokerUnavailableError(f"{kind} at {self._address}: {error}") from error
        self._consumer = consumer

    async def stop(self) -> None:
        """Leave the group."""
        if self._consumer is not None:
            await self._consumer.stop()

    async def fetch(self) -> Mapping[int, Sequence[Record]]:
        """By partition the next records in their order; raises BrokerUnavailableError."""
        consumer = self._consumer
        assert consumer is not None
        try:
            await self._begin(consumer)
            polled = await consumer.getmany(timeout_ms=_FETCH_MS, max_records=_FETCH_RECORDS)
        except KafkaError as error:
            raise BrokerUnavailableError(f"cannot read {self._topic} at {self._address}: {error!r}") from error
        return {
            tp.partition: [
                Record(ALARMS, tp.partition, one.offset, one.timestamp, one.key, one.value) for one in records
            ]
            for tp, records in polled.items()
        }

    async def _begin(self, consumer: AIOKafkaConsumer) -> None:
        """Commit where a new group begins: what comes while it is away is not lost."""
        assigned = consumer.assignment()
        self._begun &= assigned
        for tp in assigned - self._begun:
            if await consumer.committed(tp) is None:
                await consumer.commit({tp: await consumer.position(tp)})
            self._begun.add(tp)

    async def commit(self, partition: int, next_offset: int) -> None:
        """All records before this one are delivered; another member that has the partition now posts some again."""
        assert self._consumer is not None
        try:
            await self._consumer.commit({TopicPartition(self._topic, partition): next_offset})
        except (CommitFailedError, IllegalStateError):
            return
        except KafkaError as error:
            raise BrokerUnavailableError(f"cannot commit {self._topic} at {self._address}: {error!r}") from error
