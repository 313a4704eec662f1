"""Small Faust apps for tests of delivery: what they read, and when they ack, is decided by the test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import faust

from agents.delivery.app import Tables
from agents.delivery.groups import install
from agents.delivery.merging import DEFAULT_LIMITS, TP, Chunk, Limits
from agents.memory.broker import MemoryBroker
from pipeline.wire.records import Record

TOPICS = ("sensors", "events", "control")
PREFIX = "faultline."
_names = itertools.count()


def run(test: Coroutine[Any, Any, None], seconds: float = 60.0) -> None:
    """Run an asynchronous test; fail if it takes too long."""
    asyncio.run(asyncio.wait_for(test, seconds))


async def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait for something that others bring about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def memory_broker(partitions: int = 2, topics: Sequence[str] = TOPICS) -> tuple[str, MemoryBroker]:
    """A new broker with the engine's topics, and its address."""
    name = f"test-{next(_names)}"
    broker = MemoryBroker.named(name)
    for topic in topics:
        broker.create(PREFIX + topic, partitions)
    return f"memory://{name}", broker


class Reader:
    """One worker: a Faust app whose agent collects chunks; unless `acks`, the test has to ack them."""

    def __init__(
        self,
        address: str,
        folder: Path,
        *,
        group: str = "faultline",
        topics: Sequence[str] = TOPICS,
        prefix: str = PREFIX,
        limits: Limits = DEFAULT_LIMITS,
        acks: bool = True,
        handle: Callable[[Chunk], None] | None = None,
        **settings: Any,
    ) -> None:
        self.events: list[Any] = []
        self.chunks: list[Chunk] = []
        options: dict[str, Any] = {
            "broker": address,
            "datadir": str(folder / f"faust-{next(_names)}"),
            "store": "memory://",
            "TableManager": Tables,
            "broker_commit_interval": 0.05,
            "consumer_auto_offset_reset": "earliest",
            "stream_wait_empty": False,
            "topic_disable_leader": True,
            "topic_partitions": 2,
            "web_enabled": False,
            "autodiscover": False,
            "loghandlers": [],
        }
        self.app = faust.App(group, **options | settings)
        install(self.app, [topics], prefix, limits)
        channel = self.app.topic(*(prefix + topic for topic in topics), value_type=bytes, value_serializer="raw")

        async def collect(stream: Any) -> None:
            async for event in stream.noack().events():
                self.events.append(event)
                self.chunks.append(event.value)
                if handle is not None:
                    handle(event.value)
                if acks:
                    event.value.processed = True
                    event.ack()

        self.app.agent(channel, name=f"collect-{group}")(collect)

    @property
    def records(self) -> list[Record]:
        """Everything that the agent has been given, duplicates included."""
        return [record for chunk in self.chunks for record in chunk.records]

    @property
    def partitions(self) -> set[int]:
        """Partition numbers that this worker owns just now."""
        assignment: set[TP] = self.app.consumer.assignment() if self.app.consumer else set()
        return {tp.partition for tp in assignment}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Reader]:
        """Start the app, wait for its partitions, stop it in the end."""
        await self.app.start()
        try:
            await until(lambda: self.app.consumer.assignment() and not self.app.rebalancing, 30)
            yield self
        finally:
            await self.app.stop()


def places(records: Sequence[Record]) -> list[tuple[str, int, int]]:
    """Topic, partition and offset, which tell records apart."""
    return [record[:3] for record in records]
