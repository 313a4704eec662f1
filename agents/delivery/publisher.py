"""The publisher's port: outputs go to their topics in order, and a failure is never only logged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.wire.records import Output


class Publisher(Protocol):
    """Where an agent's outputs go; per partition they arrive in the order in which they were published.

    Once something could not be delivered, `publish` and `flush` raise DeliveryError for good: what was published
    since the last `flush` may or may not have arrived, and has to be published again by a new publisher.
    """

    async def start(self) -> None:
        """Connect; raises BrokerUnavailableError."""

    async def publish(self, outputs: Sequence[Output]) -> None:
        """Send outputs; waits while too much is in flight."""

    async def flush(self) -> None:
        """Return when the broker has everything that was published."""

    async def stop(self) -> None:
        """Disconnect; what was not flushed may be lost."""
