"""The plant agent: a Faust agent that names the causes of what several machines of an area have, from their diagnoses.

It reads one topic, `areas`: copies of the diagnoses of an area's machines, and texts about what they share, which
workers write keyed by area. So all that an area's state depends on is in one partition, in an order that stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from agents.delivery.publisher import Publisher
from agents.delivery.states import StateStore
from agents.delivery.topic_logs import TopicLogs
from agents.worker.plant.incidents import AreaIncidentDesk
from agents.worker.plant.metrics import PlantCollector, TimedAreaRunner, area_step_seconds
from agents.worker.plant.progress import Patience
from agents.worker.stateful import InputTopics, StatefulAgent
from agents.worker.states.engine import Observer
from pipeline.areas.engine import AreaEngine
from pipeline.areas.frames import AreaRunner
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import AREAS, PLANT_STATE
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.wire.records import Output, Record

log = logging.getLogger("faultline.plant")


class PlantAgent(StatefulAgent):
    """One process: consumes diagnoses by area, names causes, publishes, commits and measures."""

    def __init__(
        self,
        settings: Settings,
        profile: PlantProfile,
        runner: AreaRunner,
        publisher: Publisher,
        *,
        partition_of: Callable[[bytes], int],
        wall_seconds: Callable[[], float],
        monotonic_seconds: Callable[[], float] = time.monotonic,
        credentials: Any = None,
        observer: Observer | None = None,
        ticks: bool = True,
        store: StateStore | None = None,
        topic_logs: TopicLogs | None = None,
    ) -> None:
        """As Worker; `settings` are those of the plant agent (`Settings.of_plant`)."""
        registry = CollectorRegistry()
        timed = TimedAreaRunner(runner, area_step_seconds(registry), monotonic_seconds)
        rule = AlarmRule(settings.alarm_agree, settings.alarm_frames, settings.alarm_confidence)
        self._partition_of = partition_of
        self._patience = Patience(settings.area_patience_ms / 1000, monotonic_seconds)
        self.desk = AreaIncidentDesk(profile, partition_of, settings.partitions)
        self.engine = AreaEngine(
            profile,
            timed,
            alarm_rule=rule,
            partition_of=partition_of,
            on_raised=self.desk.raised,
            notify=log.warning,
        )
        super().__init__(
            "plant",
            settings,
            self.engine,
            InputTopics((AREAS,), (AREAS,), ticks=AREAS, states=PLANT_STATE, keys="areas"),
            publisher,
            partition_of=partition_of,
            wall_seconds=wall_seconds,
            monotonic_seconds=monotonic_seconds,
            credentials=credentials,
            observer=observer,
            ticks=ticks,
            is_time=lambda record: record.key is None,
            guards_time=False,  # the workers have seen to it that no diagnosis is of the future
            store=store,
            topic_logs=topic_logs,
            registry=registry,
        )
        self.registry.register(PlantCollector(self.engine, profile, self.input_counts()))

    def _due(self) -> list[Output]:
        outputs = super()._due()
        if any(self.lag().values()):
            self._patience.forget()
            return outputs
        clock_ms, partition_of = self.engine.clock_ms, self._partition_of
        return outputs + self._patience.due(self.engine.held(), lambda area: clock_ms(partition_of(area.encode())))

    def finish(self) -> list[Output]:
        """The input has ended for good: what comes of the frames that still wait."""
        return self.desk.add(self.engine.finish(), self.engine.layouts)

    def _advance(self, records: Sequence[Record]) -> list[Output]:
        return self.desk.add(self.engine.process(records), self.engine.layouts)

    def _tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        if self._store is None:
            return {}
        return {"incidents": self.desk.follow_regularly(self._store, self._working, self._owned)}

    async def _begin_restoring(self) -> None:
        assert self._store is not None
        await self.desk.restore(self._store)
