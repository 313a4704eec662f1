"""A worker: the Faust agent that diagnoses machines, with its fusion metrics and Prometheus metrics.

Fusion metrics are not durable: an interval that was open at a crash counts only what came since.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from prometheus_client import CollectorRegistry

from agents.delivery.incidents import IncidentDesk
from agents.delivery.publisher import Publisher
from agents.delivery.states import StateStore
from agents.delivery.topic_logs import TopicLogs
from agents.worker.fusion_metrics import FusionMetrics
from agents.worker.metrics import EngineCollector, TimedRunner, step_seconds
from agents.worker.plant.progress import ProgressReporter
from agents.worker.stateful import InputTopics, StatefulAgent
from agents.worker.states.engine import Observer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import CONTROL, LABELS, STATE, engine_topics
from pipeline.engine.engine import Engine
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.engine.reports.drift_rule import drift_rule_of
from pipeline.engine.rounds import Watchers
from pipeline.frames import StepRunner
from pipeline.mapping.schemas import Schemas
from pipeline.wire.records import Output, Record

log = logging.getLogger("faultline.worker")


class Worker(StatefulAgent):
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
        registry = CollectorRegistry()
        seconds = step_seconds(registry)
        timed = {name: TimedRunner(runner, seconds, monotonic_seconds) for name, runner in runners.items()}
        heads = {one.hash: getattr(one, "retrieval", None) for one in runners.values()}
        self.desk = IncidentDesk(profile, partition_of, settings.partitions, heads)
        self._metrics = FusionMetrics(settings.metrics_interval_ms)
        self.engine = Engine(
            profile,
            timed,
            alarm_rule=AlarmRule(settings.alarm_agree, settings.alarm_frames, settings.alarm_confidence),
            drift_rule=drift_rule_of(settings),
            partition_of=partition_of,
            watcher=Watchers(self._metrics, self.desk),
            schemas=schemas,
            notify=log.warning,
        )
        self._progress: ProgressReporter | None = None
        if ticks and profile.areas:  # a replay keeps workers and agents in step
            self._progress = ProgressReporter(profile, partition_of, self.engine.clock_ms, self.lag)
        topics = engine_topics(profile)
        super().__init__(
            "worker",
            settings,
            self.engine,
            InputTopics((*topics, LABELS), topics, ticks=CONTROL, states=STATE),
            publisher,
            partition_of=partition_of,
            wall_seconds=wall_seconds,
            monotonic_seconds=monotonic_seconds,
            credentials=credentials,
            observer=observer,
            ticks=ticks,
            is_time=lambda record: record.topic == CONTROL,
            store=store,
            topic_logs=topic_logs,
            registry=registry,
        )
        self.registry.register(EngineCollector(self.engine, profile, self.input_counts()))

    def _advance(self, records: Sequence[Record]) -> list[Output]:
        begun = [] if self._progress is None else self._progress.begin({record.partition for record in records})
        return begun + self.desk.add(self.engine.process(records)) + self._metrics.tell()

    def _behind(self, partitions: AbstractSet[int]) -> list[Output]:
        return [] if self._progress is None else self._progress.after(partitions)

    def _due(self) -> list[Output]:
        # While a chunk is worked on, not all that it leads to is written yet: `_behind` speaks after it.
        progress = None if self._working.locked() else self._progress
        return super()._due() + ([] if progress is None else progress.due())

    def _tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        if self._store is None:
            return {}
        return {"incidents": self.desk.follow_regularly(self._store, self._working, self._owned)}

    async def _begin_restoring(self) -> None:
        assert self._store is not None
        await self.desk.restore(self._store)

    def _release(self, partitions: Sequence[int]) -> None:
        self._metrics.release(partitions)
        if self._progress is not None:
            self._progress.release(partitions)
