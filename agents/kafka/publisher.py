"""Publishing to Kafka, in batches, idempotently, and with bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from agents.delivery.partitioning import partition_of
from pipeline.config.topics import full_topic_name
from pipeline.errors import BrokerUnavailableError, DeliveryError
from pipeline.wire.letters import LETTER_BYTES, LETTER_TOPICS, fit_letter
from pipeline.wire.records import RECORD_OVERHEAD_BYTES, Output, sizes_of

_HINTS = {
    MessageSizeTooLargeError: "; raise the topic's max.message.bytes",
    TopicAuthorizationFailedError: "; grant this user Write on it",
}

_BATCH_BYTES = 960 << 10
"""A request costs about as much as 200 records, so batches are as large as brokers accept by default."""

_STOP_SECONDS = 2.0
"""How long the broker may take to answer a publisher that stops, which has flushed before."""

_NO_HEADERS: list[tuple[str, bytes]] = []

OnSent = Callable[[str, int, int, int], None]
"""Takes a topic, a partition, and the first offset and the number of the records that were written there."""


class _PartitionQueue:
    """What waits to be sent to one partition, and the task that sends it, one batch at a time."""

    __slots__ = ("outputs", "partition", "sizes", "task", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.outputs: list[Output] = []
        self.sizes: list[int] = []
        self.task: asyncio.Task[None] | None = None


class KafkaPublisher:
    """Publishes to Kafka with aiokafka's batch producer, idempotently and with all acknowledgements.

    While one batch to a partition is being sent the next one gathers, so batches grow with the load and a single
    output does not wait.
    """

    def __init__(
        self,
        bootstrap: str,
        prefix: str = "",
        *,
        in_flight_bytes: int = 32 << 20,
        record_bytes: int = 1_000_000,
        letter_bytes: int = LETTER_BYTES,
        timeout_s: float = 120.0,
        transactional_id: str | None = None,
        on_sent: OnSent | None = None,
        **security: Any,
    ) -> None:
        """`record_bytes` is what the topics take, `letter_bytes` what those of dead letters and late records take;
        `timeout_s` is how long the broker may be away; `on_sent` hears of each batch that the broker has;
        `security` is aiokafka's.
        """
        self._on_sent = on_sent
        self._transactional_id = transactional_id
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._in_flight_limit = in_flight_bytes
        self._record_limit = record_bytes
        self._letter_limit = letter_bytes
        self._timeout_s = timeout_s
        self._security = security
        self._producer: AIOKafkaProducer | None = None
        self._partitions: dict[str, int] = {}
        self._queues: dict[tuple[str, int], _PartitionQueue] = {}
        self.in_flight = 0
        self._progress = asyncio.Event()
        self._failure: DeliveryError | None = None

    async def start(self) -> None:
        """Connect; raises BrokerUnavailableError."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            transactional_id=self._transactional_id,
            max_batch_size=min(_BATCH_BYTES, self._record_limit),
            max_request_size=max(self._record_limit, self._letter_limit) + RECORD_OVERHEAD_BYTES,
            **self._security,
        )
        try:
            await producer.start()
        except KafkaConnectionError as error:
            await producer.stop()
            raise BrokerUnavailableError(
                f"no Kafka broker answers at {self._bootstrap}, or it refuses the security settings: {error}"
            ) from error
        except BaseException:
            await producer.stop()
            raise
        self._producer = producer

    async def publish(self, outputs: Sequence[Output]) -> None:
        """Send outputs; waits while too many bytes are in flight."""
        self._check()
        groups: dict[tuple[str, int | None], list[Output]] = {}
        for output in outputs:
            groups.setdefault(output[:2], []).append(output)
        for (topic, partition), group in groups.items():
            sizes = sizes_of(group)
            if max(sizes) > self._record_limit:
                group = [self._fitting(output, size) for output, size in zip(group, sizes, strict=True)]
                sizes = sizes_of(group)
            queue = None if partition is None else self._queues.get((topic, partition))
            if queue is not None and self.in_flight + sum(sizes) <= self._in_flight_limit:
                self._hand_over(queue, group, sizes)
                continue
            for output, size in zip(group, sizes, strict=True):
                while self.in_flight + size > self._in_flight_limit and self.in_flight:
                    await self._wait_for_progress()
                if queue is None or partition is None:
                    queue = await self._queue(output)
                self._hand_over(queue, [output], [size])

    def _fitting(self, output: Output, size: int) -> Output:
        """The output, cut if it is a letter that is too large; fails if another one is."""
        if size <= self._record_limit:
            return output
        if output.topic not in LETTER_TOPICS:
            self._fail(output.topic, f"a record of {size} bytes is larger than the limit of {self._record_limit}")
        return fit_letter(output, self._letter_limit) if size > self._letter_limit else output

    def _hand_over(self, queue: _PartitionQueue, outputs: list[Output], sizes: list[int]) -> None:
        self.in_flight += sum(sizes)
        queue.outputs += outputs
        queue.sizes += sizes
        if queue.task is None:
            queue.task = asyncio.create_task(self._send_all(queue))

    async def flush(self) -> None:
        """Return when the broker has everything that was published."""
        while self.in_flight:
            await self._wait_for_progress()
        self._check()

    async def stop(self) -> None:
        """Disconnect; what was not flushed may be lost."""
        for queue in self._queues.values():
            if queue.task is not None:
                queue.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await queue.task
        if self._producer is not None:
            # While no broker answers, aiokafka waits for ever.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._producer.stop(), timeout=_STOP_SECONDS)
            self._producer = None

    def _check(self) -> None:
        if self._failure is not None:
            raise DeliveryError(str(self._failure)) from self._failure
        if self._producer is None:
            raise DeliveryError("the publisher is not started")

    def _fail(self, topic: str, reason: str, cause: BaseException | None = None) -> NoReturn:
        failure = DeliveryError(f"cannot publish to {full_topic_name(self._prefix, topic)}: {reason}")
        self._failure = self._failure or failure
        self._progress.set()
        raise failure from cause

    async def _wait_for_progress(self) -> None:
        self._check()
        self._progress.clear()
        await self._progress.wait()
        self._check()

    async def _queue(self, output: Output) -> _PartitionQueue:
        partition = output.partition
        if partition is None:
            partition = 0
            if output.key is not None:
                partition = partition_of(output.key, await self._partition_count(output.topic))
        queue = self._queues.get((output.topic, partition))
        if queue is None:
            count = await self._partition_count(output.topic)
            if not 0 <= partition < count:
                self._fail(output.topic, f"it has {count} partitions, and no partition {partition}")
            # Another call may have made it while this one waited.
            queue = self._queues.setdefault((output.topic, partition), _PartitionQueue(output.topic, partition))
        return queue

    async def _partition_count(self, topic: str) -> int:
        count = self._partitions.get(topic)
        if count is None:
            self._check()
            assert self._producer is not None
            try:
                name = full_topic_name(self._prefix, topic)
                found = await asyncio.wait_for(self._producer.partitions_for(name), self._timeout_s)
            except (KafkaError, TimeoutError) as error:
                self._fail(topic, f"{error!r}", error)
            count = self._partitions[topic] = len(found)
        return count

    async def _send_all(self, queue: _PartitionQueue) -> None:
        producer, name = self._producer, full_topic_name(self._prefix, queue.topic)
        assert producer is not None
        try:
            while queue.outputs:
                try:
                    batch, size = self._batch(producer, queue)
                except Exception as error:  # for example a time stamp of more than 64 bits; `flush` must raise it
                    self._fail(queue.topic, f"a record for partition {queue.partition}: {error!r}", error)
                try:
                    async with asyncio.timeout(self._timeout_s):
                        sent = await producer.send_batch(batch, name, partition=queue.partition)
                        metadata = await sent
                except Exception as error:
                    records = f"{batch.record_count()} records, {batch.size()} bytes"
                    hint = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), "")
                    text = f"a batch to partition {queue.partition} ({records}): {error!r}{hint}"
                    self._fail(queue.topic, text, error)
                if self._on_sent is not None:
                    self._on_sent(queue.topic, queue.partition, metadata.offset, batch.record_count())
                self.in_flight -= size
                self._progress.set()
        except Exception as error:  # `flush` and `publish` raise it
            failure = error if isinstance(error, DeliveryError) else DeliveryError(f"cannot publish: {error!r}")
            self._failure = self._failure or failure
            self._progress.set()
            queue.outputs.clear()
            queue.sizes.clear()
        finally:
            queue.task = None

    def _batch(self, producer: AIOKafkaProducer, queue: _PartitionQueue) -> tuple[Any, int]:
        batch, count = producer.create_batch(), 0
        append = batch.append
        for _, _, key, value, timestamp_ms, headers in queue.outputs:
            added = append(
                timestamp=timestamp_ms, key=key, value=value, headers=list(headers) if headers else _NO_HEADERS
            )
            if added is None:  # full
                break
            count += 1
        batch.close()
        size = sum(queue.sizes[:count])
        del queue.outputs[:count], queue.sizes[:count]
        return batch, size


async def publish_all(publisher: KafkaPublisher, outputs: Sequence[Output]) -> None:
    """Connect, publish, wait until the broker has everything, and disconnect; raises FaultlineError."""
    await publisher.start()
    try:
        await publisher.publish(outputs)
        await publisher.flush()
    finally:
        await publisher.stop()
