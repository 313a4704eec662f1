"""`faultline demo --web`: a recording at a speed that one can watch, its worker, and the console, in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from agents.console.actions.desk import Actions
from agents.console.actions.sending import MemorySender
from agents.console.book.console_book import ConsoleBook
from agents.console.machine.explainer import LoadRunners
from agents.console.machine.logs import memory_logs
from agents.console.machine.machines import Machines
from agents.console.machine.normal import NormalState
from agents.console.reading.follower import Follower
from agents.console.reading.memory import memory_source
from agents.console.service import Console, ConsoleParts
from agents.console.web.access.access import access_of
from agents.memory.broker import MemoryBroker
from agents.memory.publisher import MemoryPublisher
from agents.memory.states import MemoryStateStore
from agents.replay.areas import PlantReplay
from agents.replay.feed import Pace, feed
from agents.replay.replay import ReplaySource
from agents.worker.process import Guard, live
from agents.worker.stateful import StatefulAgent
from agents.worker.worker import Worker
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import CONTROL, all_topics, full_topic_name
from pipeline.frames import StepRunner
from pipeline.wire.records import Output, Record

DEMO_SPEED: Final = 144.0
"""A day in ten minutes."""

DEMO_START_MS: Final = 4 * 3_600_000
"""How much of the recording is there at once, so that there is something to see."""

_NAME: Final = "demo"


class _DemoPace(Pace):
    """As fast as possible until a time, and then at a speed; knows what time it is in the recording."""

    def __init__(self, speed: float | None, start_ms: int) -> None:
        super().__init__(speed)
        self._start_ms = start_ms
        self._from_ms: int | None = None
        self.now_ms = 0

    async def until(self, timestamp_ms: int) -> None:
        """Wait until it is this record's turn."""
        if self._from_ms is None:
            self._from_ms = timestamp_ms + self._start_ms
        if timestamp_ms >= self._from_ms:
            await super().until(timestamp_ms)
        self.now_ms = max(self.now_ms, timestamp_ms)


class Demo:
    """One demo: broker, worker, plant agent if the profile has areas, and console."""

    def __init__(
        self,
        recording: Path,
        settings: Settings,
        profile: PlantProfile,
        runners: Mapping[str, StepRunner],
        partition_of: Callable[[bytes], int],
        *,
        normal: Mapping[str, NormalState],
        load_runners: LoadRunners,
        speed: float | None = DEMO_SPEED,
        start_ms: int = DEMO_START_MS,
        plant: PlantReplay | None = None,
    ) -> None:
        """`speed` is times real time, None as fast as possible; what is before `start_ms` is replayed at once."""
        settings = settings.model_copy(update={"broker": f"memory://{_NAME}"})
        prefix = settings.topic_prefix
        access = access_of(settings)
        MemoryBroker.forget(_NAME)
        self.broker = broker = MemoryBroker.named(_NAME)
        for topic in all_topics(profile):
            broker.create(full_topic_name(prefix, topic.name), settings.partitions)
        self.worker = Worker(
            settings,
            profile,
            runners,
            MemoryPublisher(broker, prefix),
            partition_of=partition_of,
            wall_seconds=time.time,
            ticks=False,
            store=MemoryStateStore(broker, prefix, partition_of),
        )
        self._agents: list[StatefulAgent] = [self.worker]
        self._step_ms = None
        if plant is not None:
            self._agents.append(plant.agent(settings, broker, partition_of))
            self._step_ms = plant.step_ms
        self._pace = _DemoPace(speed, start_ms)
        self._source = ReplaySource(recording, profile, partition_of, settings.partitions)
        self._settings = settings
        self.is_over = False
        """Whether the whole recording has been processed."""
        book = ConsoleBook(profile)
        parts = ConsoleParts(
            book,
            Follower(memory_source(broker, settings, profile), book),
            Machines(memory_logs(broker, prefix), profile, normal=normal, load_runners=load_runners),
            Actions(MemorySender(broker, prefix), profile, book),
        )
        self.book = book
        # People act at the plant's time, which is that of the recording.
        self.console = Console(settings, access, parts, clock_ms=lambda: self._pace.now_ms, about={"demo": True})

    def log(self, topic: str) -> list[Record]:
        """All records of a topic, by partition."""
        name = full_topic_name(self._settings.topic_prefix, topic)
        partitions = self.broker.partitions_for_topic(name) or ()
        return [record for partition in sorted(partitions) for record in self.broker.log(name, partition)]

    async def run(self, stop: asyncio.Event) -> None:
        """Show it until `stop` is set, also when the recording is over; raises FaultlineError."""
        console = self.console
        try:
            await console.start()
            feeding = asyncio.create_task(
                feed(
                    self._agents,
                    self._records(),
                    self.broker,
                    self._settings.topic_prefix,
                    self._pace,
                    self._step_ms,
                    hold=lambda: self._hold(stop),
                )
            )
            ends = {asyncio.create_task(stop.wait()), asyncio.create_task(console.life.wait_failed())}
            try:
                await asyncio.wait({feeding, *ends}, return_when=asyncio.FIRST_COMPLETED)
                if feeding.done():
                    feeding.result()
            finally:
                for task in (feeding, *ends):
                    task.cancel()
                await asyncio.wait({feeding, *ends})
        finally:
            await console.stop()
            MemoryBroker.forget(_NAME)

    async def _hold(self, stop: asyncio.Event) -> None:
        self.is_over = True
        self.book.freeze()
        await stop.wait()

    def _records(self) -> Iterator[Output]:
        """The recording without the ends of the machines' runs: people may still act when it is over."""
        return (record for record in self._source if record.topic != CONTROL or record.key is None)


async def show(settings: Settings, make: Callable[[], Demo]) -> None:
    """Show a demo until SIGTERM or SIGINT; raises FaultlineError."""

    async def shown(guard: Guard) -> None:
        demo = make()
        guard.life = demo.console.life
        await demo.run(guard.requested)

    await live(settings, shown)
