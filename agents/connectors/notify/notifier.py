"""`faultline notify`: one process that reads alarms and posts them, each partition's in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agents.connectors.notify.formats import Write
from agents.connectors.notify.source import AlarmSource
from agents.connectors.notify.webhook import Outcome, Webhook, WebhookCounts
from agents.words import Words
from agents.worker.life import Life, LifeCollector, LifeState, Phase
from agents.worker.web import WebServer
from pipeline.config.sections.alarms import PRIORITIES
from pipeline.config.sections.titles import Priority
from pipeline.config.settings import Settings
from pipeline.engine.reports.lifecycle.records import Alarm, decode_alarm
from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Record

DEFAULT_STATES: Final = ("raised", "realarmed", "escalated", "returned", "latched", "cleared")


@dataclass(frozen=True, slots=True)
class Choice:
    """Which alarms a receiver gets."""

    states: frozenset[str] = frozenset(DEFAULT_STATES)
    priority: Priority = "low"
    """The lowest one that it gets."""
    machine: str = "*"
    """A pattern over ids."""

    def has(self, alarm: Alarm) -> bool:
        """Whether it gets this one; what is suppressed calls nobody."""
        return (
            alarm.state in self.states
            and alarm.suppressed is None
            and PRIORITIES.index(alarm.priority) >= PRIORITIES.index(self.priority)
            and fnmatchcase(alarm.machine, self.machine)
        )


class Notifier:
    """Reads alarms, posts them, and measures.

    A record is committed when the receiver has taken or refused it. After a crash some come twice, with the same
    idempotency key.
    """

    def __init__(
        self,
        settings: Settings,
        source: AlarmSource,
        webhook: Webhook,
        write: Write,
        choice: Choice,
        words: Words,
        wall_seconds: Callable[[], float],
    ) -> None:
        self.registry = CollectorRegistry()
        self.webhook = webhook
        self.skipped = 0
        self._settings = settings
        self._source = source
        self._write = write
        self._choice = choice
        self._words = words
        self._wall_seconds = wall_seconds
        self._started = False
        self._waiting = 0
        self._done = 0
        self.life = Life("notify", self._phase, settings, unready=self._unready)
        self.registry.register(NotifyCollector(webhook.counts, lambda: self.skipped, lambda: self._waiting))
        self.registry.register(LifeCollector(self.life, "faultline_notify_state"))
        self.web = WebServer(self.registry, health=self.life.health, ready=self.life.ready)

    async def start(self) -> None:
        """Connect and begin; raises FaultlineError."""
        self.life.begin()
        await self.webhook.start()
        await self._source.start()
        self._started = True
        self.life.run("the notifier", self._run())

    async def stop(self) -> None:
        """Let go of what is under way, which comes again after the next start; raises the error if it has failed."""
        self.life.stopping = True
        await self.life.end_tasks()
        if self._started:
            await self._source.stop()
        await self.webhook.stop()
        self.web.stop()
        if self.life.failure is not None:
            raise self.life.failure

    async def _run(self) -> None:
        while True:
            fetched = await self._source.fetch()
            self._waiting = sum(map(len, fetched.values()))
            async with asyncio.TaskGroup() as group:
                for partition, records in fetched.items():
                    group.create_task(self._deliver(partition, records))

    async def _deliver(self, partition: int, records: Sequence[Record]) -> None:
        for record in records:
            await self._notify(record)
            await self._source.commit(partition, record.offset + 1)
            self._waiting -= 1
            self._done += 1

    async def _notify(self, record: Record) -> None:
        try:
            alarm = decode_alarm(record.value or b"")
        except RejectedError:
            self.skipped += 1  # written by something else
            return
        # As everywhere where people see it; an alarm's record may leave that to the profile.
        priority = self._words.priority(alarm.machine, alarm.fault, alarm.priority)
        alarm = msgspec.structs.replace(alarm, priority=priority)
        body = self._write(alarm, int(self._wall_seconds() * 1000)) if self._choice.has(alarm) else None
        if body is None:
            self.skipped += 1
            return
        await self.webhook.post(body, alarm.id)

    # -- status -------------------------------------------------------------------------------------------------

    def _phase(self) -> Phase:
        if not self._started:
            return Phase(LifeState.STARTING, "start", f"connecting to {self._settings.broker}")
        if self.webhook.counts.failing is not None:  # another process would not fare better
            return Phase(LifeState.WORKING, None, f"{self.webhook.name}: {self.webhook.counts.failing}")
        return Phase(LifeState.WORKING, self._done if self._waiting else None, f"with {self._waiting:,} alarms waiting")

    def _unready(self) -> str | None:
        failing = self.webhook.counts.failing
        return None if failing is None else f"{self.webhook.name} takes no notifications: {failing}"


class NotifyCollector(Collector):
    """Metrics of one process, with every label value present from the start."""

    def __init__(self, counts: WebhookCounts, skipped: Callable[[], int], waiting: Callable[[], int]) -> None:
        """`skipped` and `waiting` count alarms: not for the receiver, and read but not delivered yet."""
        self._counts = counts
        self._skipped = skipped
        self._waiting = waiting

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The current metrics."""
        family = CounterMetricFamily("faultline_notifications", "Alarms by what became of them.", labels=["outcome"])
        for outcome in Outcome:
            family.add_metric([outcome.value], self._counts.outcomes[outcome])
        family.add_metric(["skipped"], self._skipped())
        yield family
        yield CounterMetricFamily(
            "faultline_notification_retries", "Attempts that have to be made again.", value=self._counts.retries
        )
        yield GaugeMetricFamily(
            "faultline_notifications_waiting", "Alarms read and not delivered yet.", value=self._waiting()
        )
        yield GaugeMetricFamily(
            "faultline_notify_receiver_failing",
            "1 while the receiver takes no notifications.",
            value=int(self._counts.failing is not None),
        )
