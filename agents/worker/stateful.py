"""A Faust agent that passes records to an engine with state, and its outputs and states to the broker.

Chunks are held un-acknowledged until a checkpoint: every `checkpoint_interval_ms`, after `checkpoint_records`, and when
the worker stops. agents/delivery/states.py explains the order of a checkpoint. After a rebalance all
states are read again, also those of partitions that stayed here: this worker may have been out of its group for a
while without knowing it, while another worker processed them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from agents.delivery.app import stop_app, worker_app
from agents.delivery.groups import install
from agents.delivery.merging import TP, Chunk, Limits
from agents.delivery.publisher import Publisher
from agents.delivery.states import StateStore
from agents.delivery.topic_logs import TopicLogs
from agents.worker.clock_guard import ClockGuard
from agents.worker.life import Life, LifeCollector, LifeState, Phase, group_phase
from agents.worker.states.engine import Observer, StatefulEngine
from agents.worker.states.metrics import InputCounts
from agents.worker.states.restore import Restorer
from agents.worker.states.topic_watch import LOOK_SECONDS, TopicWatch
from agents.worker.states.writer import StateWriter
from agents.worker.ticks import Ticker
from agents.worker.web import WebServer
from pipeline.config.settings import Settings
from pipeline.config.topics import full_topic_name
from pipeline.errors import DeliveryError
from pipeline.wire.records import Output, Record

log = logging.getLogger("faultline.worker")

_MAX_HELD = 256
"""Maximum of unacknowledged chunks; only small ones reach it before a checkpoint is due."""

_READ_OUT_SECONDS = 1.5
_READ_OUT_RECORDS = 1_000
_LAST_CHECKPOINT_SECONDS = 4.0
"""How long a worker that stops, or whose partitions are revoked, waits for the broker to confirm outputs and states."""


class InputTopics(NamedTuple):
    """What an agent reads, by short names."""

    read: tuple[str, ...]
    """All of its topics, in the order in which equal time stamps are taken."""
    restored: tuple[str, ...]
    """Those on which saved states depend."""
    ticks: str
    """The topic into which it writes that time passes."""
    states: str
    """The compacted topic of its states."""
    keys: str = "machines"
    """What has states, in its log."""


class StatefulAgent:
    """One process: consumes, lets its engine process, publishes, saves states and commits."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        engine: StatefulEngine,
        inputs: InputTopics,
        publisher: Publisher,
        *,
        partition_of: Callable[[bytes], int],
        wall_seconds: Callable[[], float],
        monotonic_seconds: Callable[[], float] = time.monotonic,
        credentials: Any = None,
        observer: Observer | None = None,
        ticks: bool = True,
        is_time: Callable[[Record], bool],
        guards_time: bool = True,
        store: StateStore | None = None,
        topic_logs: TopicLogs | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """`observer` gets every chunk with its outputs before they are published; `name` is the process's in logs and
        metrics; `is_time` recognises records that concern all keys of their partition. In live work, which has `ticks`,
        records of the future are refused if it `guards_time`.

        Without a `store`, states are lost when the agent stops; without `topic_logs`, it does not notice when topics
        are deleted and created again.
        """
        self.registry = registry or CollectorRegistry()
        self._settings = settings
        self._publisher = publisher
        self._monotonic_seconds = monotonic_seconds
        self._ticks = ticks
        self._observer = observer
        self._wall_seconds = wall_seconds
        self._store = store
        self._stateful = engine
        engine.load()
        self._guard: ClockGuard | None = None
        if ticks and guards_time:
            self._guard = ClockGuard(settings.future_limit_ms, wall_seconds, engine.clock_ms)
        self._ticker = Ticker(engine.clock_ms, monotonic_seconds, inputs.ticks)
        self._held: list[Any] = []  # events that are processed, but not acknowledged
        self._held_records = 0
        self._reassigned = True  # states have yet to be read
        self._joined = self._restoring = False
        self.life = Life(name, self._phase, settings, monotonic_seconds=monotonic_seconds, unready=self._missing_topics)
        self._working = asyncio.Lock()  # one chunk, checkpoint or restoring at a time
        self._look_at_topics = asyncio.Event()
        prefix = settings.topic_prefix
        topics = self._topics = inputs.read
        self.app = worker_app(settings, credentials, on_crash=self.life.crash)
        self._restorer: Restorer | None = None
        self._writer: StateWriter | None = None
        part: dict[str, Any] = {"partition_of": partition_of, "consumer": lambda: self.app.consumer}
        self._watch_logs = None if topic_logs is None else TopicWatch(topic_logs, topics, prefix, **part)
        if store is not None:
            ids = dict if self._watch_logs is None else self._watch_logs.log_ids
            self._writer = StateWriter(engine, store, prefix, part["consumer"], ids)
            self._restorer = Restorer(
                engine,
                store,
                publisher,
                settings,
                inputs.restored,
                state_topic=inputs.states,
                keys=inputs.keys,
                is_time=is_time,
                wall_seconds=wall_seconds,
                monotonic_seconds=monotonic_seconds,
                **part,
            )
        # Waiting records of one partition are processed before those of another: small chunks need short queues.
        limits = Limits(chunk_records=settings.chunk_records, buffered_records=2 * settings.chunk_records)
        install(self.app, [self._topics], prefix, limits, self._hand_over, self._note_behind if topic_logs else None)
        self.app.transport.on_failure = self.life.fail
        self.app.on_partitions_revoked.connect(self._note_revoked, weak=False)
        self.app.on_partitions_assigned.connect(self._note_assigned, weak=False)
        names = (full_topic_name(prefix, topic) for topic in topics)
        channel = self.app.topic(*names, value_type=bytes, value_serializer="raw")
        self.app.agent(channel, name="faultline")(self._run)
        self.registry.register(LifeCollector(self.life, f"faultline_{name}_state"))
        self.web = WebServer(self.registry, health=self.life.health, ready=self.life.ready)
        self._started = False

    def _advance(self, records: Sequence[Record]) -> list[Output]:
        """Let the engine take records; returns everything to publish."""
        return self._stateful.process(records)

    def _behind(self, _: AbstractSet[int]) -> list[Output]:
        """What has to be written behind a chunk with records of these partitions."""
        return []

    def _tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """What else runs in the background until the agent stops."""
        return {}

    async def _begin_restoring(self) -> None:
        """States are about to be read; raises DeliveryError."""

    def _release(self, partitions: Sequence[int]) -> None:
        """These partitions belong to other processes now."""

    # -- start and stop -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and begin to consume."""
        self.life.begin()
        await self._publisher.start()
        if self._store is not None:
            await self._store.start()
        await self.app.start()
        self._started = True
        self.life.run("checkpoints", self._checkpoint_regularly())
        if self._watch_logs is not None:
            self.life.run("the watch of topics", self._watch_topics(self._watch_logs))
        for what, task in self._tasks().items():
            self.life.run(what, task)
        if self._ticks:
            self.life.run("ticks", self._tick_regularly())

    async def stop(self) -> None:
        """Flush, acknowledge, commit, and leave the group; raises the error if the worker has failed."""
        self.life.stopping = True
        await self.life.end_tasks()
        if self.life.failure is None and self._started and not (self._reassigned or self._restoring):
            await self._read_out()
            try:
                async with asyncio.timeout(_LAST_CHECKPOINT_SECONDS), self._working:
                    await self._checkpoint()
            except TimeoutError:
                self.life.fail(
                    DeliveryError(
                        "the broker did not confirm the last outputs; the next worker will read their inputs again"
                    )
                )
            except Exception as error:
                self.life.fail(error, "the last checkpoint")
        self._started = False
        await stop_app(self.app)
        await asyncio.gather(self._publisher.stop(), *([] if self._store is None else [self._store.stop()]))
        self.web.stop()
        if self.life.failure is not None:
            raise self.life.failure

    async def _read_out(self) -> None:
        """Process the last few unread records, such as this worker's own last tick; not a backlog."""
        until = self._monotonic_seconds() + _READ_OUT_SECONDS
        while 0 < sum(self.lag().values()) <= _READ_OUT_RECORDS and self._monotonic_seconds() < until:
            await asyncio.sleep(0.02)

    # -- the agent ----------------------------------------------------------------------------------------------

    async def _run(self, stream: Any) -> None:
        # Faust acknowledges an event whose processing raised, so this loop must never raise.
        async for event in stream.noack().events():
            if self.life.failure is not None:
                continue
            try:
                async with self._working:
                    await self._process(event)
            except Exception as error:
                self.life.fail(error, "the agent")

    async def _process(self, event: Any) -> None:
        chunk: Chunk = event.value
        if self._reassigned:
            await self._restore()
        elif self._watch_logs is not None and self._watch_logs.is_back(chunk.next_offsets):
            await self._begin_again()
        if chunk.epoch != self.app.consumer.epoch:
            chunk.processed = True  # its records come again, here or in another worker
            return
        outputs = self._compute(chunk)
        chunk.processed = True
        if outputs := outputs + self._behind({place.partition for place in chunk.next_offsets}):
            await self._publisher.publish(outputs)
        self._held.append(event)
        self._held_records += len(chunk.records)
        chunk.records = []  # only the acknowledgement is still needed
        if self._held_records >= self._settings.checkpoint_records or len(self._held) >= _MAX_HELD:
            await self._checkpoint()

    async def _note_revoked(self, *_: Any, **__: Any) -> None:
        self._reassigned, self._joined = True, False

    async def _note_assigned(self, *_: Any, **__: Any) -> None:
        """Nothing may be processed before the states of these partitions are restored."""
        self._reassigned = self._joined = True

    async def _restore(self) -> None:
        """Drop the machines of partitions that went to another worker, restore those of partitions that came."""
        self._restoring = True
        while self._reassigned:
            self._reassigned = False
            owned = self._owned()
            self._release(sorted(self._stateful.partitions - owned))
            if self._restorer is None:
                self._stateful.release(sorted(self._stateful.partitions - owned))
                self._ticker.keep_only(owned)
                continue
            self._stateful.release(sorted(self._stateful.partitions))
            self._ticker.keep_only(set())
            try:
                if owned:
                    await self._restore_states(self._restorer, sorted(owned))
                    self._ticker.note_records(self._stateful.partitions)
            except BaseException:  # for example cancelled by `stop` while chunks still arrive
                self._reassigned = True
                raise
        self._restoring = False

    def _owned(self) -> set[int]:
        topics = {full_topic_name(self._settings.topic_prefix, topic) for topic in self._topics}
        return {place.partition for place in self.app.consumer.assignment() if place.topic in topics}

    async def _restore_states(self, restorer: Restorer, owned: Sequence[int]) -> None:
        assert self._writer is not None
        self._writer.clear()
        await self._begin_restoring()
        if await restorer.restore(owned, self._watch_logs):
            # States of former logs must not be restored once more, even if nothing comes from the new ones.
            await self._writer.write()

    def _compute(self, chunk: Chunk) -> list[Output]:
        self._ticker.note_records({place.partition for place in chunk.next_offsets})
        records, refused = (chunk.records, []) if self._guard is None else self._guard.check(chunk.records)
        outputs = self._advance(records)
        if self._observer is not None:
            self._observer(records, outputs)
        return outputs + [self._stateful.refuse(record, rejected) for record, rejected in refused]

    async def _checkpoint(self) -> None:
        """Wait until the broker has all outputs, then all changed states, then acknowledge their inputs."""
        if self._held:
            await self._publisher.flush()
            if self._writer is not None:
                await self._writer.write()
            for event in self._held:
                event.ack()
            self._held.clear()
            self._held_records = 0
        if self._writer is not None:
            await self._writer.drop_tombstoned()

    async def _hand_over(self) -> None:
        """Partitions are about to be revoked: checkpoint, so that the next owner need not repeat the work."""
        if self.life.failure is not None or not self._started:
            return
        try:
            async with asyncio.timeout(_LAST_CHECKPOINT_SECONDS), self._working:
                await self._checkpoint()
        except TimeoutError:
            log.warning(
                "partitions were revoked before the broker confirmed the last outputs; the next owner repeats them"
            )
        except Exception as error:
            self.life.fail(error, "the checkpoint before a rebalance")

    async def _checkpoint_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_interval_ms / 1000)
            async with self._working:
                if self._reassigned:
                    await self._restore()
                await self._checkpoint()

    def _note_behind(self, partitions: AbstractSet[TP]) -> None:
        assert self._watch_logs is not None
        self._watch_logs.note_behind(partitions)
        self._look_at_topics.set()

    async def _watch_topics(self, watch: TopicWatch) -> None:
        """Begin again with the states in the store when a topic has another log."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._look_at_topics.wait(), LOOK_SECONDS)
            self._look_at_topics.clear()
            if self._reassigned or not await watch.has_changed():
                continue
            async with self._working:
                await self._begin_again()

    async def _begin_again(self) -> None:
        """Go on with the states in the store, and from the committed offsets."""
        await self._checkpoint()
        await self.app.consumer.read_again()
        self._reassigned = True
        await self._restore()

    async def _tick_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_interval_ms / 1000)
            await self._publisher.publish(self._due())

    def _due(self) -> list[Output]:
        """What has to be written because time has passed."""
        return self._ticker.due(self.lag())

    # -- status -------------------------------------------------------------------------------------------------

    @property
    def restored(self) -> int:
        """Keys that began with a saved state."""
        return 0 if self._restorer is None else self._restorer.restored

    def input_counts(self) -> InputCounts:
        """What metrics say of the inputs."""
        return InputCounts(self.lag, self.records_lost, self.topics_recreated, lambda: int(self._wall_seconds() * 1000))

    def lag(self) -> dict[tuple[str, int], int]:
        """Unprocessed records by topic (without prefix) and partition."""
        return self.app.consumer.lag_by_name() if self._started else {}  # made with the start, in its event loop

    def records_lost(self) -> Mapping[str, int]:
        """By topic, records that were deleted before they could be read."""
        return self.app.consumer.records_lost if self._started else {}

    def topics_recreated(self) -> Mapping[str, int]:
        """By topic, how often it was found to be another one."""
        return {} if self._watch_logs is None else self._watch_logs.recreated

    def _phase(self) -> Phase:
        phase = group_phase(self.app, self._settings, self.lag(), started=self._started, joined=self._joined)
        if phase.state is LifeState.WORKING and (self._reassigned or self._restoring):
            restored = None if self._restorer is None else self._restorer.steps
            return Phase(LifeState.RESTORING, ("restore", restored), "restoring states")
        return phase

    def _missing_topics(self) -> str | None:
        missing = [] if self._watch_logs is None else self._watch_logs.missing
        return f"topic {', '.join(missing)} does not exist" if missing else None
