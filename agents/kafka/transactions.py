"""Transactions: what a record of an input partition leads to, and the offset behind it, are committed together.

An input partition has one *claim* at a time: a producer whose transactional id is that of the partition. A new claim
makes the broker abort what an older one has begun, and refuse it from then on. So whoever holds the newest claim, and
has read the committed offset after making it, writes each record's outputs exactly once; whether it is still a member
of its consumer group does not matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaConnectionError,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
    UnknownProducerId,
)
from aiokafka.structs import TopicPartition

from agents.delivery.merging import TP
from agents.kafka.publisher import KafkaPublisher
from pipeline.errors import AuthorizationError, BrokerUnavailableError, DeliveryError
from pipeline.wire.letters import LETTER_BYTES
from pipeline.wire.records import Output

_LOST = (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    UnknownProducerId,
)


_CLAIM_SECONDS = 15.0
"""How long the broker may take to answer a claim; then it is made once more, with new connections."""


class ClaimLostError(DeliveryError):
    """The broker no longer accepts this claim: there is a newer one, or it has expired. Claim again, or let go."""


class Claim:
    """The right to write what the records of one input partition lead to."""

    def __init__(self, tp: TP, group: str, publisher: TransactionalPublisher, next_offset: int) -> None:
        self.next_offset = next_offset
        """Records before this one are done."""
        self._tp = tp
        self._group = group
        self._publisher = publisher

    async def begin(self) -> None:
        """Begin a transaction; this and the next two raise ClaimLostError or DeliveryError.

        After an error nobody knows whether it was committed, except who claims the partition next.
        """
        await self._publisher.begin()

    async def publish(self, outputs: Sequence[Output]) -> None:
        """Return when the broker has these outputs; nobody sees them before the commit."""
        await self._publisher.publish_all(outputs)

    async def commit(self, next_offset: int) -> None:
        """The outputs of all records before `next_offset` are published."""
        await self._publisher.commit(self._tp, next_offset, self._group)
        self.next_offset = next_offset

    async def release(self) -> None:
        """Disconnect; what has not been committed is aborted by the next claim."""
        await self._publisher.stop()


class KafkaTransactions:
    """Makes claims on input partitions for a consumer group."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        group: str,
        *,
        letter_bytes: int = LETTER_BYTES,
        timeout_s: float = 120.0,
        **security: Any,
    ) -> None:
        """`letter_bytes` is what the topic of dead letters takes, `timeout_s` how long the broker may be away;
        `security` is aiokafka's.
        """
        self._letter_bytes = letter_bytes
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._group = group
        self._timeout_s = timeout_s
        self._security = security
        self._consumer: AIOKafkaConsumer | None = None

    async def start(self) -> None:
        """Connect; raises BrokerUnavailableError."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, group_id=self._group, enable_auto_commit=False, **self._security
        )
        try:
            await consumer.start()
        except KafkaConnectionError as error:
            await consumer.stop()
            raise BrokerUnavailableError(f"no Kafka broker answers at {self._bootstrap}: {error}") from error
        self._consumer = consumer

    async def claim(self, tp: TP) -> Claim:
        """Become the only one that writes what this partition leads to.

        Raises ClaimLostError, DeliveryError or AuthorizationError.
        """
        publisher = TransactionalPublisher(
            self._bootstrap,
            self._prefix,
            letter_bytes=self._letter_bytes,
            timeout_s=self._timeout_s,
            transactional_id=f"{self._group}/{tp.topic}/{tp.partition}",
            **self._security,
        )
        try:
            async with asyncio.timeout(_CLAIM_SECONDS):
                await publisher.start()
                return Claim(tp, self._group, publisher, await self._committed(tp))
        except BaseException as error:
            await publisher.stop()
            if isinstance(error, TimeoutError):
                text = f"the broker did not answer a claim of {tp.topic}, {tp.partition} in {_CLAIM_SECONDS:.0f} s"
                raise ClaimLostError(text) from error
            raise

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await self._consumer.stop()
            self._consumer = None

    async def _committed(self, tp: TP) -> int:
        """The committed offset; only one that is read after a claim takes older transactions into account."""
        if self._consumer is None:
            raise DeliveryError("transactions are not started")
        place = TopicPartition(*tp)
        try:
            async with asyncio.timeout(self._timeout_s):
                committed = await self._consumer.committed(place)
                if not committed:
                    return 0
                ends = await self._consumer.end_offsets([place])
        except (KafkaError, TimeoutError) as error:
            raise DeliveryError(
                f"cannot read how far {tp.topic} partition {tp.partition} is done: {error!r}"
            ) from error
        # Of a topic that was created again with the offsets of the old one nothing is done.
        return committed if committed <= ends[place] else 0


class TransactionalPublisher(KafkaPublisher):
    """A publisher whose outputs are committed together with the offset of the input that they come from."""

    async def start(self) -> None:
        """Connect, and fence every older publisher of this transactional id; raises as `KafkaTransactions.claim`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await super().start()
        except TransactionalIdAuthorizationFailed as error:
            raise AuthorizationError(
                f"the Kafka broker at {self._bootstrap} refuses the transactional id {self._transactional_id}; grant "
                "this user Write and Describe on it (docs/operations/security.md)"
            ) from error
        except (KafkaError, TimeoutError) as error:
            text = f"cannot begin transactions of {self._transactional_id}: {error!r}"
            if isinstance(error, _LOST):  # another process claims the partition at the same moment
                raise ClaimLostError(text) from error
            raise DeliveryError(text) from error

    async def begin(self) -> None:
        """Begin a transaction; this and the next two raise ClaimLostError or DeliveryError."""
        async with self._translated() as producer:
            await producer.begin_transaction()

    async def publish_all(self, outputs: Sequence[Output]) -> None:
        """Publish in the transaction that has begun."""
        async with self._translated():
            await self.publish(outputs)
            await self.flush()

    async def commit(self, tp: TP, next_offset: int, group: str) -> None:
        """Commit the transaction, and with it an offset."""
        async with self._translated() as producer:
            await producer.send_offsets_to_transaction({TopicPartition(*tp): next_offset}, group)
            await producer.commit_transaction()

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[AIOKafkaProducer]:
        self._check()
        assert self._producer is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                yield self._producer
        except (KafkaError, DeliveryError, TimeoutError) as error:
            if any(isinstance(cause, _LOST) for cause in _causes(error)):
                raise ClaimLostError(f"{self._transactional_id}: the broker refuses its transactions") from error
            if isinstance(error, DeliveryError):
                raise
            raise DeliveryError(f"a transaction of {self._transactional_id} failed: {error!r}") from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
