"""A worker: a Faust agent that passes records to the engine, and its outputs and states to the broker.

Chunks are held un-acknowledged until a checkpoint: every `checkpoint_interval_ms`, after `checkpoint_records`, and when
the worker stops. agents/delivery/states.py explains the order of a checkpoint. After a rebalance all
states are read again, also those of partitions that stayed here: this worker may have been out of its group for a
while without knowing it, while another worker processed them.

Fusion metrics are not durable: an interval that was open at a crash counts only what came since.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from prometheus_client import CollectorRegistry

from agents.delivery.app import worker_app
from agents.delivery.groups import install
from agents.delivery.merging import TP, Chunk, Limits
from agents.delivery.publisher import Publisher
from agents.delivery.states import StateStore
from agents.delivery.topic_logs import TopicLogs
from agents.worker.clock_guard import ClockGuard
from agents.worker.fusion_metrics import FusionMetrics
from agents.worker.metrics import EngineCollector, TimedRunner, step_seconds
from agents.worker.progress import Progress
from agents.worker.restore import Restorer
from agents.worker.state_writer import StateWriter
from agents.worker.ticks import Ticker
from agents.worker.topic_watch import LOOK_SECONDS, TopicWatch
from agents.worker.web import WebServer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import LABELS, engine_topics, full_topic_name
from pipeline.engine.alarms import AlarmRule
from pipeline.engine.engine import Engine
from pipeline.errors import DeliveryError, FaultlineError
from pipeline.frames import StepRunner
from pipeline.mapping.schemas import Schemas
from pipeline.wire.records import Output, Record

log = logging.getLogger("faultline.worker")

_MAX_HELD = 256
"""Maximum of unacknowledged chunks; only small ones reach it before a checkpoint is due."""

_READ_OUT_SECONDS = 2.0
_READ_OUT_RECORDS = 1_000
_LAST_CHECKPOINT_SECONDS = 5.0
"""How long a worker that stops, or whose partitions are revoked, waits for the broker to confirm outputs and states."""

Observer = Callable[[Sequence[Record], Sequence[Output]], None]


class Worker:
    """One process: consumes, diagnoses, publishes, commits and measures."""

    def __init__(
        self,
        settings: Settings,
        profile: PlantProfile,
        runners: Mapping[str, StepRunner],
        publisher: Publisher,
        *,
        partition_of: Callable[[bytes], int],
        wall_seconds: Callable[[], float],
        monotonic_seconds: Callable[[], float] = time.monotonic,
        credentials: Any = None,
        observer: Observer | None = None,
        ticks: bool = True,
        store: StateStore | None = None,
        schemas: Schemas | None = None,
        topic_logs: TopicLogs | None = None,
    ) -> None:
        """`observer` gets every chunk with its outputs before they are published; `ticks` is False in replay.

        Without a `store`, states are lost when the worker stops; without `topic_logs`, it does not notice when topics
        are deleted and created again.
        """
        self.registry = CollectorRegistry()
        self._settings = settings
        self._publisher = publisher
        self._monotonic_seconds = monotonic_seconds
        self._observer = observer
        self._ticks = ticks
        self._store = store
        seconds = step_seconds(self.registry)
        timed = {name: TimedRunner(runner, seconds, monotonic_seconds) for name, runner in runners.items()}
        rule = AlarmRule(settings.alarm_agree, settings.alarm_frames, settings.alarm_confidence)
        self._metrics = FusionMetrics(settings.metrics_interval_ms)
        self.engine = Engine(
            profile,
            timed,
            alarm_rule=rule,
            partition_of=partition_of,
            watcher=self._metrics,
            schemas=schemas,
            notify=log.warning,
        )
        self.engine.load()
        self._guard = ClockGuard(settings.future_limit_ms, wall_seconds, self.engine.clock_ms)
        self._ticker = Ticker(self.engine.clock_ms, monotonic_seconds)
        self._held: list[Any] = []  # events that are processed, but not acknowledged
        self._held_records = 0
        self._reassigned = True  # states have yet to be read
        self._progress = Progress(
            lambda: sum(self.lag().values()), lambda: self.app.consumer.positions, monotonic_seconds
        )
        self._working = asyncio.Lock()  # one chunk, checkpoint or restoring at a time
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._look_at_topics = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        prefix = settings.topic_prefix
        topics = self._topics = (*engine_topics(profile), LABELS)
        self.app = worker_app(settings, credentials)
        self._restorer: Restorer | None = None
        self._writer: StateWriter | None = None
        part: dict[str, Any] = {"partition_of": partition_of, "consumer": lambda: self.app.consumer}
        self._watch_logs = None if topic_logs is None else TopicWatch(topic_logs, topics, prefix, **part)
        if store is not None:
            ids = dict if self._watch_logs is None else self._watch_logs.log_ids
            self._writer = StateWriter(self.engine, store, prefix, part["consumer"], ids)
            self._restorer = Restorer(
                self.engine, store, settings, profile, topics, monotonic_seconds=monotonic_seconds, **part
            )
        # Waiting records of one partition are processed before those of another: small chunks need short queues.
        limits = Limits(chunk_records=settings.chunk_records, buffered_records=2 * settings.chunk_records)
        install(self.app, [self._topics], prefix, limits, self._hand_over, self._note_behind if topic_logs else None)
        self.app.transport.on_refusal = self._fail
        self.app.on_partitions_revoked.connect(self._note_rebalance, weak=False)
        self.app.on_partitions_assigned.connect(self._note_rebalance, weak=False)
        names = (full_topic_name(prefix, topic) for topic in topics)
        self.app.agent(self.app.topic(*names, value_type=bytes, value_serializer="raw"), name="faultline")(self._run)
        collector = EngineCollector(
            self.engine,
            profile,
            lag=self.lag,
            lost=lambda: {} if self.app.consumer is None else self.app.consumer.records_lost,
            recreated=lambda: {} if self._watch_logs is None else self._watch_logs.recreated,
            now_ms=lambda: int(wall_seconds() * 1000),
        )
        self.registry.register(collector)
        self.web = WebServer(self.registry, alive=self._alive, ready=self._ready)
        self._started = False

    # -- start and stop -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and begin to consume."""
        await self._publisher.start()
        if self._store is not None:
            await self._store.start()
        await self.app.start()
        self._started = True
        self._tasks.append(asyncio.create_task(self._checkpoint_regularly()))
        self._tasks.append(asyncio.create_task(self._watch()))
        if self._watch_logs is not None:
            self._tasks.append(asyncio.create_task(self._watch_topics(self._watch_logs)))
        if self._ticks:
            self._tasks.append(asyncio.create_task(self._tick_regularly()))

    async def wait_failed(self) -> None:
        """Return when the worker has failed and only a restart helps; `stop` raises the error."""
        await self._failed.wait()

    async def stop(self) -> None:
        """Flush, acknowledge, commit, and leave the group; raises the error if the worker has failed."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._failure is None:
            await self._read_out()
            try:
                async with asyncio.timeout(_LAST_CHECKPOINT_SECONDS), self._working:
                    await self._checkpoint()
            except TimeoutError:
                self._fail(
                    DeliveryError(
                        "the broker did not confirm the last outputs; the next worker will read their inputs again"
                    )
                )
            except FaultlineError as error:
                self._fail(error)
        self._started = False
        await self.app.stop()
        await self._publisher.stop()
        if self._store is not None:
            await self._store.stop()
        self.web.stop()
        if self._failure is not None:
            raise self._failure

    async def _read_out(self) -> None:
        """Process the last few unread records, such as this worker's own last tick; not a backlog."""
        until = self._monotonic_seconds() + _READ_OUT_SECONDS
        while 0 < sum(self.lag().values()) <= _READ_OUT_RECORDS and self._monotonic_seconds() < until:
            await asyncio.sleep(0.02)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            log.error("worker stops: %s", error)
            self._failure = error
        self._failed.set()

    # -- the agent ----------------------------------------------------------------------------------------------

    async def _run(self, stream: Any) -> None:
        # Faust acknowledges an event whose processing raised, so this loop must never raise.
        async for event in stream.noack().events():
            if self._failure is not None:
                continue
            try:
                async with self._working:
                    await self._process(event)
            except FaultlineError as error:
                self._fail(error)
            except Exception as error:
                log.exception("unexpected error in the agent")
                self._fail(error)

    async def _process(self, event: Any) -> None:
        chunk: Chunk = event.value
        if self._reassigned:
            await self._restore()
        elif self._watch_logs is not None and self._watch_logs.is_back(chunk.next_offsets):
            await self._begin_again()
        if chunk.epoch != self.app.consumer.epoch:
            chunk.processed = True  # its records come again, here or in another worker
            return
        outputs = self._diagnose(chunk)
        chunk.processed = True
        if outputs:
            await self._publisher.publish(outputs)
        self._held.append(event)
        self._held_records += len(chunk.records)
        chunk.records = []  # only the acknowledgement is still needed
        if self._held_records >= self._settings.checkpoint_records or len(self._held) >= _MAX_HELD:
            await self._checkpoint()

    async def _note_rebalance(self, *_: Any, **__: Any) -> None:
        """Partitions were revoked or assigned: nothing may be processed before their states are restored."""
        self._reassigned = True

    async def _restore(self) -> None:
        """Drop the machines of partitions that went to another worker, restore those of partitions that came."""
        topics = {full_topic_name(self._settings.topic_prefix, topic) for topic in self._topics}
        while self._reassigned:
            self._reassigned = False
            owned = {place.partition for place in self.app.consumer.assignment() if place.topic in topics}
            self._metrics.release(sorted(self.engine.partitions - owned))
            if self._restorer is None:
                self.engine.release(sorted(self.engine.partitions - owned))
                self._ticker.keep_only(owned)
                continue
            self.engine.release(sorted(self.engine.partitions))
            self._ticker.keep_only(set())
            try:
                if owned:
                    await self._restore_states(self._restorer, sorted(owned))
                    self._ticker.note_records(self.engine.partitions)
            except BaseException:  # for example cancelled by `stop` while chunks still arrive
                self._reassigned = True
                raise

    async def _restore_states(self, restorer: Restorer, owned: Sequence[int]) -> None:
        assert self._writer is not None
        self._writer.clear()
        if await restorer.restore(owned, self._watch_logs):
            # States of former logs must not be restored once more, even if nothing comes from the new ones.
            await self._writer.write()

    def _diagnose(self, chunk: Chunk) -> list[Output]:
        self._ticker.note_records({place.partition for place in chunk.next_offsets})
        records, refused = self._guard.check(chunk.records) if self._ticks else (chunk.records, [])
        outputs = self.engine.process(records)
        outputs += self._metrics.tell()
        if self._observer is not None:
            self._observer(records, outputs)
        return outputs + [self.engine.refuse(record, rejected) for record, rejected in refused]

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
        if self._failure is not None or not self._started:
            return
        try:
            async with asyncio.timeout(_LAST_CHECKPOINT_SECONDS), self._working:
                await self._checkpoint()
        except TimeoutError:
            log.warning(
                "partitions were revoked before the broker confirmed the last outputs; the next owner repeats them"
            )
        except FaultlineError as error:
            self._fail(error)

    async def _checkpoint_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.checkpoint_interval_ms / 1000)
            if self.app.crashed:
                self._fail(DeliveryError("Faust has crashed; see its log for the reason"))
                return
            try:
                async with self._working:
                    if self._reassigned:
                        await self._restore()
                    await self._checkpoint()
            except FaultlineError as error:
                self._fail(error)
                return

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
            try:
                if self._reassigned or not await watch.has_changed():
                    continue
                async with self._working:
                    await self._begin_again()
            except FaultlineError as error:
                self._fail(error)
                return

    async def _begin_again(self) -> None:
        """Go on with the states in the store, and from the committed offsets."""
        await self._checkpoint()
        await self.app.consumer.read_again()
        self._reassigned = True
        await self._restore()

    async def _watch(self) -> None:
        """Fail if there are unread records and no progress: the supervisor has to start another worker."""
        limit = self._settings.stall_timeout_ms / 1000
        while True:
            await asyncio.sleep(min(limit / 10, 1.0))
            if (problem := self._progress.problem(limit)) is not None:
                self._fail(DeliveryError(problem))
                return

    async def _tick_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._settings.tick_interval_ms / 1000)
            try:
                await self._publisher.publish(self._ticker.due(self.lag()))
            except DeliveryError as error:
                self._fail(error)
                return

    # -- status -------------------------------------------------------------------------------------------------

    @property
    def restored(self) -> int:
        """Machines that began with a saved state."""
        return 0 if self._restorer is None else self._restorer.restored

    def lag(self) -> dict[tuple[str, int], int]:
        """Unprocessed records by topic (without prefix) and partition."""
        return self.app.consumer.lag_by_name() if self._started and self.app.consumer is not None else {}

    def _alive(self) -> str | None:
        return None if self._failure is None else f"failed: {self._failure}"

    def _ready(self) -> str | None:
        if (failed := self._alive()) is not None:
            return failed
        if not self._started or not self.app.consumer.assignment():
            return "waiting for partitions"
        if self._watch_logs is not None and self._watch_logs.missing:
            return f"topic {', '.join(self._watch_logs.missing)} does not exist"
        if self._reassigned:
            return "restoring the states of its partitions"
        return self._progress.problem(self._settings.stall_timeout_ms / 2000)
