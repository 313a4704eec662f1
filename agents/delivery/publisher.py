"""Publishing: outputs go to their topics in order, in batches, and a failure is never only logged."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from agents.memory.transport import MemoryBroker, partition_of
from pipeline.config.topics import DEAD_LETTER, LATE
from pipeline.errors import BrokerUnavailableError, DeliveryError
from pipeline.wire.records import Headers, Output

LETTER_BYTES = 16 << 20
"""The largest dead letter or late record: they hold a record as it was, and headers besides."""

LETTER_TOPICS = frozenset({DEAD_LETTER, LATE})

_HINTS = {
    MessageSizeTooLargeError: "; raise the topic's max.message.bytes",
    TopicAuthorizationFailedError: "; give this user the right to write there",
}

_BATCH_BYTES = 960 << 10
"""A request costs about as much as 200 records, so batches are as large as brokers take them unless told otherwise."""

_NO_HEADERS: list[tuple[str, bytes]] = []

_RECORD_OVERHEAD = 64
"""Bytes that a record takes in a batch besides key, value and headers, at most."""

_FIRST_OWN_HEADER = "faultline-reason"
"""Where the headers of a dead letter or late record begin, behind the original ones (messages.origin)."""


class Publisher(Protocol):
    """Where an agent's outputs go; per partition they arrive in the order in which they were published.

    Once something could not be delivered, `publish` and `flush` raise DeliveryError for good: what was published
    since the last `flush` may or may not have arrived, and has to be published again by a new publisher.
    """

    async def start(self) -> None:
        """Connect; raises BrokerUnavailableError."""

    async def publish(self, outputs: Sequence[Output]) -> None:
        """Hand outputs over; waits while too much is on its way."""

    async def flush(self) -> None:
        """Return when the broker has everything that was published."""

    async def stop(self) -> None:
        """Disconnect; what was not flushed may be lost."""


class MemoryPublisher:
    """Publishes to a memory broker."""

    def __init__(self, broker: MemoryBroker, prefix: str = "") -> None:
        self._broker = broker
        self._prefix = prefix
        self._failure: DeliveryError | None = None

    async def start(self) -> None:
        """Nothing to connect to."""

    async def publish(self, outputs: Sequence[Output]) -> None:
        """Append at once."""
        await self.flush()
        for output in outputs:
            topic = self._prefix + output.topic
            try:
                await self._broker.faults.before_send()
                self._broker.append(topic, *output[1:])
            except Exception as error:
                self._failure = DeliveryError(f"cannot publish to {topic}: {error}")
                raise self._failure from error

    async def flush(self) -> None:
        """Raise if anything has failed."""
        if self._failure is not None:
            raise DeliveryError(str(self._failure)) from self._failure

    async def stop(self) -> None:
        """Nothing to disconnect from."""


class _Lane:
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

    While one batch to a partition is on its way the next one gathers, so batches grow with the load and a lone
    output is not kept waiting.
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
        **security: Any,
    ) -> None:
        """`record_bytes` is what the topics take, `letter_bytes` what those of dead letters and late records take;
        `timeout_s` is how long the broker may be away; `security` is aiokafka's.
        """
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._in_flight_limit = in_flight_bytes
        self._record_limit = record_bytes
        self._letter_limit = letter_bytes
        self._timeout_s = timeout_s
        self._security = security
        self._producer: AIOKafkaProducer | None = None
        self._partitions: dict[str, int] = {}
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self.in_flight = 0
        self._progress = asyncio.Event()
        self._failure: DeliveryError | None = None

    async def start(self) -> None:
        """Connect; raises BrokerUnavailableError."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            max_batch_size=min(_BATCH_BYTES, self._record_limit),
            max_request_size=max(self._record_limit, self._letter_limit) + _RECORD_OVERHEAD,
            **self._security,
        )
        try:
            await producer.start()
        except KafkaConnectionError as error:
            await producer.stop()
            raise BrokerUnavailableError(
                f"no Kafka broker answers at {self._bootstrap}, or it refuses the security settings: {error}"
            ) from error
        self._producer = producer

    async def publish(self, outputs: Sequence[Output]) -> None:
        """Hand outputs over; waits while too much is on its way."""
        self._check()
        groups: dict[tuple[str, int | None], list[Output]] = {}
        for output in outputs:
            groups.setdefault(output[:2], []).append(output)
        for (topic, partition), group in groups.items():
            sizes = [_size(output) for output in group]
            if max(sizes) > self._record_limit:
                group = [self._fitting(output, size) for output, size in zip(group, sizes, strict=True)]
                sizes = [_size(output) for output in group]
            lane = None if partition is None else self._lanes.get((topic, partition))
            if lane is not None and self.in_flight + sum(sizes) <= self._in_flight_limit:
                self._hand_over(lane, group, sizes)
                continue
            for output, size in zip(group, sizes, strict=True):
                while self.in_flight + size > self._in_flight_limit and self.in_flight:
                    await self._wait_for_progress()
                if lane is None or partition is None:
                    lane = await self._lane(output)
                self._hand_over(lane, [output], [size])

    def _fitting(self, output: Output, size: int) -> Output:
        """The output, cut if it is a letter that is too large; fails if another one is."""
        if size <= self._record_limit:
            return output
        if output.topic not in LETTER_TOPICS:
            self._fail(output.topic, f"a record of {size} bytes is larger than the limit of {self._record_limit}")
        return fit_letter(output, self._letter_limit) if size > self._letter_limit else output

    def _hand_over(self, lane: _Lane, outputs: list[Output], sizes: list[int]) -> None:
        self.in_flight += sum(sizes)
        lane.outputs += outputs
        lane.sizes += sizes
        if lane.task is None:
            lane.task = asyncio.create_task(self._send_all(lane))

    async def flush(self) -> None:
        """Return when the broker has everything that was published."""
        while self.in_flight:
            await self._wait_for_progress()
        self._check()

    async def stop(self) -> None:
        """Disconnect; what was not flushed may be lost."""
        for lane in self._lanes.values():
            if lane.task is not None:
                lane.task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await lane.task
        if self._producer is not None:
            # While no broker answers, aiokafka waits for it without end.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._producer.stop(), timeout=5.0)
            self._producer = None

    def _check(self) -> None:
        if self._failure is not None:
            raise DeliveryError(str(self._failure)) from self._failure
        if self._producer is None:
            raise DeliveryError("the publisher is not started")

    def _fail(self, topic: str, reason: str, cause: BaseException | None = None) -> NoReturn:
        failure = DeliveryError(f"cannot publish to {self._prefix}{topic}: {reason}")
        self._failure = self._failure or failure
        self._progress.set()
        raise failure from cause

    async def _wait_for_progress(self) -> None:
        self._check()
        self._progress.clear()
        await self._progress.wait()
        self._check()

    async def _lane(self, output: Output) -> _Lane:
        partition = output.partition
        if partition is None:
            partition = 0
            if output.key is not None:
                partition = partition_of(output.key, await self._partition_count(output.topic))
        lane = self._lanes.get((output.topic, partition))
        if lane is None:
            count = await self._partition_count(output.topic)
            if not 0 <= partition < count:
                self._fail(output.topic, f"it has {count} partitions, there is no {partition}")
            # Another call may have made it while this one waited.
            lane = self._lanes.setdefault((output.topic, partition), _Lane(output.topic, partition))
        return lane

    async def _partition_count(self, topic: str) -> int:
        count = self._partitions.get(topic)
        if count is None:
            self._check()
            assert self._producer is not None
            try:
                found = await asyncio.wait_for(self._producer.partitions_for(self._prefix + topic), self._timeout_s)
            except (KafkaError, TimeoutError) as error:
                self._fail(topic, f"{error!r}", error)
            count = self._partitions[topic] = len(found)
        return count

    async def _send_all(self, lane: _Lane) -> None:
        producer = self._producer
        assert producer is not None
        try:
            while lane.outputs:
                try:
                    batch, size = self._batch(producer, lane)
                except Exception as error:  # a time stamp of more than 64 bits, say; `flush` must hear of it
                    self._fail(lane.topic, f"a record for partition {lane.partition}: {error!r}", error)
                try:
                    async with asyncio.timeout(self._timeout_s):
                        sent = await producer.send_batch(batch, self._prefix + lane.topic, partition=lane.partition)
                        await sent
                except Exception as error:
                    records = f"{batch.record_count()} records, {batch.size()} bytes"
                    hint = next((text for kind, text in _HINTS.items() if isinstance(error, kind)), "")
                    text = f"a batch to partition {lane.partition} ({records}): {error!r}{hint}"
                    self._fail(lane.topic, text, error)
                self.in_flight -= size
                self._progress.set()
        except DeliveryError:
            lane.outputs.clear()
            lane.sizes.clear()  # `flush` and `publish` raise it
        finally:
            lane.task = None

    def _batch(self, producer: AIOKafkaProducer, lane: _Lane) -> tuple[Any, int]:
        batch, count = producer.create_batch(), 0
        append = batch.append
        for _, _, key, value, timestamp_ms, headers in lane.outputs:
            added = append(
                timestamp=timestamp_ms, key=key, value=value, headers=list(headers) if headers else _NO_HEADERS
            )
            if added is None:  # full
                break
            count += 1
        batch.close()
        size = sum(lane.sizes[:count])
        del lane.outputs[:count], lane.sizes[:count]
        return batch, size


def fit_letter(letter: Output, limit: int) -> Output:
    """A dead letter or late record cut to this size, as its headers then say.

    First the original headers go, then the ends of value and key. How long each was, and a SHA-256 of the whole
    value, stay; where the original lies is in the headers that every letter has.
    """
    key, value = letter.key or b"", letter.value or b""
    names = [name for name, _ in letter.headers]
    original = max((at for at, name in enumerate(names) if name == _FIRST_OWN_HEADER), default=0)
    own = letter.headers[original:]
    marks: Headers = (
        ("faultline-truncated", b"true"),
        ("faultline-key-bytes", b"%d" % len(key)),
        ("faultline-value-bytes", b"%d" % len(value)),
        ("faultline-value-sha256", hashlib.sha256(value).hexdigest().encode()),
    )
    cut = letter._replace(headers=letter.headers + marks)
    if _size(cut._replace(key=None, value=None)) > limit // 2:
        cut = cut._replace(headers=(*own, *marks, ("faultline-headers-dropped", b"%d" % original)))
    room = limit - _size(cut._replace(key=None, value=None))
    key_room = max(room // 2, room - len(value))
    if len(key) > key_room:
        cut = cut._replace(key=key[:key_room])
    return cut if letter.value is None else cut._replace(value=value[: room - len(cut.key or b"")])


def _size(output: Output) -> int:
    _, _, key, value, _, headers = output
    size = _RECORD_OVERHEAD + len(key or b"") + len(value or b"")
    for name, content in headers:
        size += len(name.encode()) + len(content or b"") + 8  # Kafka has headers without a value
    return size
