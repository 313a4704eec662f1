"""A small plant on a memory broker, with real workers that keep their states, stop, are killed and are followed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agents.delivery import TP
from agents.memory_transport import MemoryBroker, partition_of
from agents.publish import MemoryPublisher, Publisher
from agents.state import MemoryStateStore, StateStore
from agents.worker import Worker
from pipeline.errors import DeliveryError
from pipeline.frames import StepRunner
from pipeline.profile import parse_profile
from pipeline.records import Output, Record
from pipeline.settings import load_settings
from pipeline.topics import all_topics, engine_topics
from tests.builders import ONE_SOURCE, SumRunner

_names = itertools.count()


class Plant:
    """A broker with a plant's topics; workers come and go."""

    def __init__(self, text: str = ONE_SOURCE, partitions: int = 2, **settings: Any) -> None:
        name = f"plant-{next(_names)}"
        self.broker = MemoryBroker.named(name)
        self.profile = parse_profile(text, where="test")
        self.partitions = partitions
        options: dict[str, Any] = {
            "broker": f"memory://{name}",
            "partitions": partitions,
            "checkpoint_interval_ms": 20,
            "commit_interval_ms": 20,
            "chunk_records": 50,
            "topic_prefix": "",
        }
        self.settings = load_settings(**options | settings)
        for topic in all_topics(self.profile):
            self.broker.create(topic.name, partitions)

    def partition_of(self, key: bytes) -> int:
        return partition_of(key, self.partitions)

    def append(self, records: Iterable[Record]) -> None:
        """As producers do."""
        for record in records:
            self.broker.append(record.topic, None, record.key, record.value, record.timestamp_ms, record.headers)

    def log(self, topic: str) -> list[Record]:
        return [record for partition in range(self.partitions) for record in self.broker.log(topic, partition)]

    def store(self) -> MemoryStateStore:
        return MemoryStateStore(self.broker, "", self.partition_of)

    def worker(
        self,
        runner: StepRunner | None = None,
        *,
        publisher: Publisher | None = None,
        store: StateStore | None = None,
        ticks: bool = False,
        **settings: Any,
    ) -> Worker:
        kinds = [kind.name for kind in self.profile.machine_types]
        runners: Mapping[str, StepRunner] = {kind: runner or SumRunner() for kind in kinds}
        return Worker(
            self.settings.model_copy(update=settings),
            self.profile,
            runners,
            publisher or MemoryPublisher(self.broker),
            partition_of=self.partition_of,
            wall_seconds=time.time,
            store=store or self.store(),
            ticks=ticks,
        )

    @asynccontextmanager
    async def running(self, worker: Worker) -> AsyncIterator[Worker]:
        """Start a worker, stop it in the end."""
        await worker.start()
        try:
            yield worker
        finally:
            await worker.stop()

    async def kill(self, worker: Worker) -> None:
        """Let a worker be as if its process had died: nothing it still does reaches the broker."""
        worker._publisher = _Dead()
        worker._store = None
        self.broker.kill(worker.app)
        worker._fail(DeliveryError("killed"))
        with contextlib.suppress(DeliveryError):
            await worker.stop()

    def read_by(self, *workers: Worker) -> bool:
        """Whether all that has been appended is processed, by these workers together."""
        positions = {place: at for worker in workers for place, at in worker.app.consumer.positions.items()}
        return all(
            positions.get(TP(topic, partition)) == self.broker.end(TP(topic, partition))
            for topic in (*engine_topics(self.profile), "diagnoses", "labels")
            for partition in range(self.partitions)
        )

    async def work(self, until: Callable[[], bool] | None = None, seconds: float = 30.0, **options: Any) -> Worker:
        """Let one worker work until all input is processed, or something else is the case."""
        worker = self.worker(**options)
        async with self.running(worker), asyncio.timeout(seconds):
            while worker._ready() is not None or not (self.read_by(worker) if until is None else until()):
                await asyncio.sleep(0.005)
        return worker

    def outputs(self, topic: str = "diagnoses") -> list[tuple[bytes | None, bytes | None]]:
        """Keys and values of a topic, each once, sorted."""
        return sorted({(record.key, record.value) for record in self.log(topic)}, key=repr)


class _Dead:
    """The publisher of a dead process."""

    async def start(self) -> None:
        """Nothing."""

    async def publish(self, outputs: Sequence[Output]) -> None:
        raise DeliveryError("dead")

    async def flush(self) -> None:
        raise DeliveryError("dead")

    async def stop(self) -> None:
        """Nothing."""
