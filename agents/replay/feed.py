"""Feeds records to agents on an in-memory broker of their own, at any speed, until all of them are processed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path

from agents.memory.broker import MemoryBroker
from agents.worker.stateful import StatefulAgent
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import all_topics, full_topic_name, require_names
from pipeline.wire.records import Output

_FEED_RECORDS = 16_384
"""Records between two turns of the agents: enough for rounds with all machines."""


@contextlib.contextmanager
def replay_broker(
    recording: Path, settings: Settings, profile: PlantProfile
) -> Iterator[tuple[Settings, MemoryBroker]]:
    """A broker in this process with all of a plant's topics, gone afterwards, and the settings that name it.

    Raises SettingsError if two topics have one name.
    """
    require_names(settings.topic_prefix, profile)
    name = "replay-" + re.sub("[^A-Za-z0-9_-]", "-", recording.stem)  # it stands in an address
    MemoryBroker.forget(name)
    broker = MemoryBroker.named(name)
    for topic in all_topics(profile):
        broker.create(full_topic_name(settings.topic_prefix, topic.name), settings.partitions)
    try:
        yield settings.model_copy(update={"broker": f"memory://{name}"}), broker
    finally:
        MemoryBroker.forget(name)


class Pace:
    """Limits a replay to `speed` times real time; None is as fast as possible."""

    def __init__(self, speed: float | None) -> None:
        self._speed = speed
        self._began: float | None = None
        self._first_ms = 0

    async def until(self, timestamp_ms: int) -> None:
        """Wait until it is this record's turn."""
        if self._speed is None:
            return
        now = time.monotonic()
        if self._began is None:
            self._began, self._first_ms = now, timestamp_ms
        wait = self._began + (timestamp_ms - self._first_ms) / 1000 / self._speed - now
        if wait > 0.005:
            await asyncio.sleep(wait)


async def feed(
    agents: Sequence[StatefulAgent],
    source: Iterable[Output],
    broker: MemoryBroker,
    prefix: str,
    pace: Pace,
    step_ms: int | None = None,
    hold: Callable[[], Awaitable[object]] | None = None,
) -> float:
    """Start agents, append all records, and stop the agents when all is processed; returns how many seconds it took.

    With `hold`, they go on when all is processed until it returns, and process what others append.

    With `step_ms`, everything is processed after each step of so much record time: agents that read what others write
    then have it in the order of time, as in a live plant. Raises the error of an agent that fails.
    """
    failed = [asyncio.create_task(agent.life.wait_failed()) for agent in agents]

    def has_failed() -> bool:
        return any(task.done() for task in failed)

    try:
        for agent in agents:
            await agent.start()
        while not has_failed() and not all(agent.lag() for agent in agents):  # until they have their partitions
            await asyncio.sleep(0.005)
        began, step = time.perf_counter(), None
        for count, record in enumerate(source):
            await pace.until(record.timestamp_ms)
            if step_ms is not None and (now := record.timestamp_ms // step_ms) != step:
                while not has_failed() and _unread(agents):
                    await asyncio.sleep(0)
                if has_failed():
                    break
                step = now
            assert record.partition is not None
            broker.append(full_topic_name(prefix, record.topic), *record[1:])
            if count % _FEED_RECORDS == _FEED_RECORDS - 1:
                await asyncio.sleep(0)
                if has_failed():
                    break
        while not has_failed() and _unread(agents):
            await asyncio.sleep(0.005)
        seconds = time.perf_counter() - began
        await _hold(hold, failed)
        return seconds
    finally:
        for task in failed:
            task.cancel()
        async with contextlib.AsyncExitStack() as stack:  # each is stopped, also where another one has failed
            for agent in reversed(agents):
                stack.push_async_callback(agent.stop)


async def _hold(hold: Callable[[], Awaitable[object]] | None, failed: Sequence[asyncio.Task[None]]) -> None:
    """Wait until `hold` returns or one has failed."""
    if hold is not None:
        holding = asyncio.ensure_future(hold())
        await asyncio.wait({holding, *failed}, return_when=asyncio.FIRST_COMPLETED)
        holding.cancel()


def _unread(agents: Sequence[StatefulAgent]) -> bool:
    return any(any(agent.lag().values()) for agent in agents)
