"""Sends the few records that people write, and says where each is in its topic."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from agents.delivery.partitioning import partition_of
from agents.kafka.admin import partition_counts
from agents.kafka.log import require_kafka
from agents.kafka.publisher import KafkaPublisher, publish_all
from agents.kafka.security import client_security
from pipeline.config.settings import Settings
from pipeline.config.topics import full_topic_name
from pipeline.errors import BrokerUnavailableError, DeliveryError, TopicMismatchError
from pipeline.wire.records import Output

if TYPE_CHECKING:  # commands begin sooner without it
    from agents.memory.broker import MemoryBroker

_SEND_SECONDS = 20.0
"""How long the broker may take to confirm what somebody waits for."""


class Sent(NamedTuple):
    """Where a record is."""

    topic: str
    """Its name on the broker."""
    partition: int
    offset: int


class Sender(Protocol):
    """Where records of people go; unlike a `Publisher` it keeps nothing open, and one failure is not for good."""

    async def partitions(self, topic: str) -> int:
        """How many a topic has; raises FaultlineError if there is none."""

    async def send(self, outputs: Sequence[Output]) -> list[Sent]:
        """Return when the broker has all of them, whose partitions are given; raises FaultlineError."""


class KafkaSender:
    """Sends to a real Kafka."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError where the broker is one in another process."""
        require_kafka(settings)
        self._settings = settings

    async def partitions(self, topic: str) -> int:
        """See `Sender`; raises BrokerUnavailableError, TopicMismatchError or AuthorizationError."""
        settings = self._settings
        name = full_topic_name(settings.topic_prefix, topic)
        counts = await asyncio.to_thread(partition_counts, settings.address, [name], client_security(settings))
        return counts[name]

    async def send(self, outputs: Sequence[Output]) -> list[Sent]:
        """See `Sender`; raises BrokerUnavailableError or DeliveryError."""
        settings, offsets = self._settings, _Offsets()
        publisher = KafkaPublisher(
            settings.address, settings.topic_prefix, on_sent=offsets.add, **client_security(settings)
        )
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await publish_all(publisher, outputs)
        except TimeoutError as error:
            raise BrokerUnavailableError(
                f"the Kafka broker at {settings.address} has not confirmed within {_SEND_SECONDS:.0f} s; it may have "
                "been written all the same: look before you repeat it"
            ) from error
        return [offsets.next(output, settings.topic_prefix) for output in outputs]


class _Offsets:
    """The offsets of what was sent, by partition in the order of sending."""

    def __init__(self) -> None:
        self._by_partition: dict[tuple[str, int], deque[int]] = defaultdict(deque)

    def add(self, topic: str, partition: int, first_offset: int, count: int) -> None:
        self._by_partition[topic, partition] += range(first_offset, first_offset + count)

    def next(self, output: Output, prefix: str) -> Sent:
        assert output.partition is not None
        offset = self._by_partition[output.topic, output.partition].popleft()
        return Sent(full_topic_name(prefix, output.topic), output.partition, offset)


class MemorySender:
    """Sends to a broker in this process, in whose event loop it must be used."""

    def __init__(self, broker: MemoryBroker, prefix: str = "") -> None:
        self._broker = broker
        self._prefix = prefix

    async def partitions(self, topic: str) -> int:
        """See `Sender`; raises TopicMismatchError."""
        name = full_topic_name(self._prefix, topic)
        if not (found := self._broker.partitions_for_topic(name)):
            raise TopicMismatchError(f"the memory broker has no topic {name}")
        return len(found)

    async def send(self, outputs: Sequence[Output]) -> list[Sent]:
        """See `Sender`; raises DeliveryError or TopicMismatchError."""
        sent = []
        for output in outputs:
            assert output.partition is not None
            name = full_topic_name(self._prefix, output.topic)
            try:
                await self._broker.faults.before_send()
            except ConnectionError as error:
                raise DeliveryError(f"cannot publish to {name}: {error}") from error
            sent.append(Sent(name, output.partition, self._broker.append(name, *output[1:])))
        return sent


async def send_about(sender: Sender, topic: str, values: Sequence[tuple[str, bytes]], now_ms: int) -> list[Sent]:
    """Send records about machines, each to its machine's partition; raises FaultlineError."""
    count = await sender.partitions(topic)
    outputs = []
    for machine, value in values:
        key = machine.encode(errors="replace")
        outputs.append(Output(topic, partition_of(key, count), key, value, now_ms))
    return await sender.send(outputs)
