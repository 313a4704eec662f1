"""A small plant on a memory broker, with real workers that keep their states, stop, are killed and are followed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from agents.delivery.merging import TP
from agents.delivery.partitioning import partition_of
from agents.delivery.publisher import Publisher
from agents.delivery.states import StateStore
from agents.memory.broker import MemoryBroker
from agents.memory.publisher import MemoryPublisher
from agents.memory.states import MemoryStateStore
from agents.worker.worker import Worker
from pipeline.config.profile import parse_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import all_topics, engine_topics, full_topic_name
from pipeline.errors import DeliveryError
from pipeline.frames import StepRunner
from pipeline.mapping.schemas import Schemas
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, SumRunner
from tests.support.chaos import OUTPUTS, KilledError, Probes

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
        self._probes: weakref.WeakKeyDictionary[Worker, Probes] = weakref.WeakKeyDictionary()
        for topic in all_topics(self.profile):
            self.broker.create(full_topic_name("", topic.name), partitions)

    def partition_of(self, key: bytes) -> int:
        return partition_of(key, self.partitions)

    def append(self, records: Iterable[Record]) -> None:
        """As producers do."""
        for record in records:
            topic = full_topic_name("", record.topic)
            self.broker.append(topic, None, record.key, record.value, record.timestamp_ms, record.headers)

    def place(self, records: Iterable[Record]) -> None:
        """As producers do that choose the partition."""
        for one in records:
            topic = full_topic_name("", one.topic)
            self.broker.append(topic, one.partition, one.key, one.value, one.timestamp_ms, one.headers)

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
        at: Mapping[str, int] | None = None,
        schemas: Schemas | None = None,
        monotonic_seconds: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> Worker:
        """A worker that dies when it comes to one of the points `at`."""
        kinds = [kind.name for kind in self.profile.machine_types]
        runners: Mapping[str, StepRunner] = {kind: runner or SumRunner() for kind in kinds}
        probes = Probes(at)
        worker = Worker(
            self.settings.model_copy(update=settings),
            self.profile,
            runners,
            probes.publisher(publisher or MemoryPublisher(self.broker)),
            partition_of=self.partition_of,
            wall_seconds=time.time,
            store=probes.store(store or self.store()),
            ticks=ticks,
            schemas=schemas,
            monotonic_seconds=monotonic_seconds,
        )
        probes.attach(worker)
        self._probes[worker] = probes
        return worker

    def probes(self, worker: Worker) -> Probes:
        """How often a worker came by which point, and whether it is dead."""
        return self._probes[worker]

    @asynccontextmanager
    async def running(self, worker: Worker) -> AsyncIterator[Worker]:
        """Start a worker, stop it in the end."""
        await worker.start()
        try:
            yield worker
        finally:
            await worker.stop()

    async def kill(self, worker: Worker) -> None:
        """Let a worker be as if its process had died: from this instant on nothing it does reaches the broker."""
        self._probes[worker].dead = True
        self.broker.kill(worker.app)
        worker.life.fail(KilledError("killed"))
        with contextlib.suppress(DeliveryError):
            await worker.stop()

    async def live(
        self,
        until: Callable[[], bool] | None = None,
        seconds: float = 60.0,
        worker: Worker | None = None,
        **options: Any,
    ) -> Worker:
        """One life: until the worker dies or fails, else until all input is processed or something else is so."""
        worker = worker or self.worker(**options)
        probes = self._probes[worker]
        over = False
        await worker.start()
        try:
            async with asyncio.timeout(seconds):
                while not (over or probes.dead or worker.life.failure is not None):
                    await asyncio.sleep(0.002)
                    over = worker.life.ready().ok and (self.read_by(worker) if until is None else until())
            if over:
                with contextlib.suppress(KilledError):
                    await worker.stop()
        finally:
            if not over or probes.dead:
                await self.kill(worker)
        return worker

    def read_by(self, *workers: Worker) -> bool:
        """Whether all that has been appended is processed, by these workers together."""
        positions = {place: at for worker in workers for place, at in worker.app.consumer.positions.items()}
        names = [full_topic_name("", topic) for topic in (*engine_topics(self.profile), "labels")]
        return all(
            positions.get(TP(name, partition)) == self.broker.end(TP(name, partition))
            for name in names
            for partition in range(self.partitions)
        )

    async def work(self, until: Callable[[], bool] | None = None, seconds: float = 30.0, **options: Any) -> Worker:
        """Let one worker work until all input is processed, or something else is the case."""
        worker = self.worker(**options)
        async with self.running(worker), asyncio.timeout(seconds):
            while not worker.life.ready().ok or not (self.read_by(worker) if until is None else until()):
                await asyncio.sleep(0.005)
        return worker

    def outputs(self, topic: str = "diagnoses") -> list[tuple[bytes | None, bytes | None]]:
        """Keys and values of a topic, each once, sorted."""
        return sorted({(record.key, record.value) for record in self.log(topic)}, key=repr)

    def said(self) -> dict[str, list[Record]]:
        """All outputs by topic, as `chaos.compare` wants them."""
        return {topic: self.log(topic) for topic in OUTPUTS}

    async def states(self) -> dict[str, bytes]:
        """What the next worker would begin with."""
        return await self.store().read(range(self.partitions))
