"""Publishing to the broker in this process."""

from __future__ import annotations

from collections.abc import Sequence

from agents.memory.broker import MemoryBroker
from pipeline.config.topics import full_topic_name
from pipeline.errors import DeliveryError
from pipeline.wire.records import Output


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
            topic = full_topic_name(self._prefix, output.topic)
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
