"""A worker: Faust agents that carry records to the engine and its outputs back, and know when to give up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faust
from prometheus_client import CollectorRegistry

from agents.delivery import Chunk, Limits, install
from agents.fusion_metrics import FusionMetrics
from agents.metrics import EngineCollector, TimedRunner, step_seconds
from agents.publish import Publisher
from agents.web import WebServer
from pipeline import messages
from pipeline.alarms import AlarmRule
from pipeline.engine import Engine
from pipeline.errors import DeliveryError
from pipeline.frames import StepRunner
from pipeline.profile import PlantProfile
from pipeline.records import Output, Record
from pipeline.settings import Settings
from pipeline.topics import CONTROL, DIAGNOSES, LABELS, engine_topics

log = logging.getLogger("faultline.worker")

_MAX_UNCONFIRMED = 8
"""Chunks whose outputs may be on their way to the broker at once."""

_READ_OUT_SECONDS = 2.0
_READ_OUT_RECORDS = 1_000

Observer = Callable[[Sequence[Record], Sequence[Output]], None]


class Worker:
    """Everything one process does: consume, diagnose, publish, commit, measure."""

    def __init__(
        self,
        settings: Settings,
        profile: PlantProfile,
        runners: Mapping[str, StepRunner],
        publisher: Publisher,
        *,
        partition_of: Callable[[bytes], int],
        wall_seconds: Callable[[], float],
        credentials: Any = None,
        observer: Observer | None = None,
        ticks: bool = True,
    ) -> None:
        """`observer` sees every chunk with its outputs before they are published; `ticks` False in replay."""
        self.registry = CollectorRegistry()
        self._settings = settings
        self._publisher = publisher
        self._partition_of = partition_of
        self._wall_seconds = wall_seconds
        self._observer = observer
        self._ticks = ticks
        seconds = step_seconds(self.registry)
        timed = {name: TimedRunner(runner, seconds, wall_seconds) for name, runner in runners.items()}
        rule = AlarmRule(settings.alarm_agree, settings.alarm_frames, settings.alarm_confidence)
        self.engine = Engine(profile, timed, alarm_rule=rule, partition_of=partition_of)
        self.fusion_metrics = FusionMetrics(settings.metrics_interval_ms)
        self._seen_wall: dict[int, float] = {}  # partition -> when its last record came
        self._unconfirmed: dict[str, list[Any]] = {"engine": [], "metrics": []}
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        prefix = settings.topic_prefix
        self._groups = ([*engine_topics(profile)], [DIAGNOSES, LABELS])
        self.app = faust.App(
            settings.group,
            broker=settings.broker if settings.is_memory else f"kafka://{settings.address.replace(',', ';kafka://')}",
            broker_credentials=credentials,
            broker_commit_interval=settings.commit_interval_ms / 1000,
            store="memory://",
            datadir=str(Path(tempfile.gettempdir()) / f"faultline-{settings.group}"),  # Faust insists; it stays empty
            topic_partitions=settings.partitions,
            topic_allow_declare=False,
            topic_disable_leader=True,
            consumer_auto_offset_reset="earliest",
            stream_wait_empty=False,
            web_enabled=False,
            autodiscover=False,
            loghandlers=[],
        )
        install(self.app, self._groups, prefix, Limits(chunk_records=settings.chunk_records))
        self.app.on_partitions_assigned.connect(self._keep_assigned, weak=False)
        self._agent("engine", self._groups[0], self._diagnose)
        self._agent("metrics", self._groups[1], self._measure)
        collector = EngineCollector(self.engine, profile, lag=self.lag, now_ms=lambda: int(wall_seconds() * 1000))
        self.registry.register(collector)
        self.web = WebServer(self.registry, alive=self._alive, ready=self._ready)
        self._started = False

    # -- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join the group and begin to consume."""
        await self._publisher.start()
        await self.app.start()
        self._started = True
        self._tasks.append(asyncio.create_task(self._confirm_regularly()))
        if self._ticks:
            self._tasks.append(asyncio.create_task(self._tick_regularly()))

    async def wait_failed(self) -> None:
        """Return when something has gone wrong that only a restart can mend; `stop` raises what it was."""
        await self._failed.wait()

    async def stop(self) -> None:
        """Confirm what is published, acknowledge, commit, leave; raises what made the worker fail, if anything."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._failure is None:
            await self._read_out()
            await self._confirm()
        self._started = False
        await self.app.stop()
        await self._publisher.stop()
        self.web.stop()
        if self._failure is not None:
            raise self._failure

    async def _read_out(self) -> None:
        """Take what little is left to read, such as this worker's own last tick; a backlog is the next worker's."""
        until = self._wall_seconds() + _READ_OUT_SECONDS
        while 0 < sum(self.lag().values()) <= _READ_OUT_RECORDS and self._wall_seconds() < until:
            await asyncio.sleep(0.02)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            log.error("worker stops: %s", error)
            self._failure = error
        self._failed.set()

    # -- agents -----------------------------------------------------------------------------------------------

    def _agent(self, name: str, topics: Sequence[str], handle: Callable[[Chunk], list[Output]]) -> None:
        prefix = self._settings.topic_prefix
        channel = self.app.topic(*(prefix + topic for topic in topics), value_type=bytes, value_serializer="raw")

        async def run(stream: Any) -> None:
            # Faust acknowledges an event whose processing raised; so nothing may ever be raised out of this loop.
            async for event in stream.noack().events():
                if self._failure is not None:
                    continue
                try:
                    chunk: Chunk = event.value
                    outputs = handle(chunk)
                    chunk.processed = True
                    if outputs:
                        await self._publisher.publish(outputs)
                    self._unconfirmed[name].append(event)
                    if len(self._unconfirmed[name]) >= _MAX_UNCONFIRMED:
                        await self._confirm()
                except Exception as error:
                    log.exception("agent %s", name)
                    self._fail(error)

        self.app.agent(channel, name=f"faultline-{name}")(run)

    async def _keep_assigned(self, _: Any, assigned: Any, **__: Any) -> None:
        """Forget machines of partitions that went to another worker: their states here grow stale."""
        topics = {self._settings.topic_prefix + topic for topic in self._groups[0]}
        mine = {place.partition for place in assigned if place.topic in topics}
        self.engine.release(sorted(self.engine.partitions - mine))
        for partition in set(self._seen_wall) - mine:
            del self._seen_wall[partition]

    def _diagnose(self, chunk: Chunk) -> list[Output]:
        now = self._wall_seconds()
        for partition in {record.partition for record in chunk.records}:
            self._seen_wall[partition] = now
        outputs = self.engine.process(chunk.records)
        if self._observer is not None:
            self._observer(chunk.records, outputs)
        return outputs

    def _measure(self, chunk: Chunk) -> list[Output]:
        outputs = self.fusion_metrics.process(chunk.records)
        if self._observer is not None:
            self._observer(chunk.records, outputs)
        return outputs

    async def _confirm(self) -> None:
        """Wait until the broker has all outputs, then acknowledge the inputs they came from, in order."""
        waiting = {name: list(events) for name, events in self._unconfirmed.items()}
        if not any(waiting.values()):
            return
        await self._publisher.flush()
        for name, events in waiting.items():
            del self._unconfirmed[name][: len(events)]
            for event in events:
                event.ack()

    async def _confirm_regularly(self) -> None:
        interval = min(self._settings.commit_interval_ms / 4000, 0.25)
        while True:
            await asyncio.sleep(interval)
            if self.app.crashed:
                self._fail(DeliveryError("Faust has stopped by itself; its log says why"))
                return
            try:
                await self._confirm()
            except DeliveryError as error:
                self._fail(error)
                return

    async def _tick_regularly(self) -> None:
        """Tell partitions in which nothing happens that time passes, so that idle sources hold nothing back.

        A partition's time goes on from its newest record's time stamp at the pace of the wall clock. A partition
        with records yet to read is not idle but behind: it gets no tick.
        """
        while True:
            await asyncio.sleep(self._settings.tick_interval_ms / 1000)
            lag = self.lag()
            ticks = []
            for partition, wall in self._seen_wall.items():
                clock = self.engine.clock_ms(partition)
                behind = any(records for (topic, p), records in lag.items() if p == partition and topic != CONTROL)
                if clock is not None and not behind and (CONTROL, partition) in lag:
                    ticks.append(messages.tick(clock + int((self._wall_seconds() - wall) * 1000), partition))
            try:
                await self._publisher.publish(ticks)
            except DeliveryError as error:
                self._fail(error)
                return

    # -- what others may know ---------------------------------------------------------------------------------

    def lag(self) -> dict[tuple[str, int], int]:
        """Records not processed yet, by topic (without prefix) and partition, of what this worker reads."""
        consumer = self.app.consumer
        if not self._started or consumer is None:
            return {}
        prefix = len(self._settings.topic_prefix)
        return {(place.topic[prefix:], place.partition): records for place, records in consumer.lag().items()}

    def _alive(self) -> str | None:
        return None if self._failure is None else f"failed: {self._failure}"

    def _ready(self) -> str | None:
        if self._failure is not None:
            return f"failed: {self._failure}"
        return None if self._started and self.app.consumer.assignment() else "waiting for partitions"
