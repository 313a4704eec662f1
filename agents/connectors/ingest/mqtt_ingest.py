"""Ingest from MQTT: messages are rewritten, and acknowledged to the MQTT broker when Kafka has confirmed them.

A message that was written and not yet acknowledged when a connection or a process ended comes again, and is written
again. The worker drops a reading or text that it has already: so nothing is lost, and nothing counts twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from itertools import groupby

from prometheus_client import CollectorRegistry

from agents.connectors.ingest.metrics import IngestCollector, MqttStatus
from agents.connectors.ingest.mqtt import Message, MqttInbox, first_match
from agents.connectors.ingest.rewriting import OpenForm, Rewriter, Tally
from agents.delivery.publisher import Publisher
from agents.worker.life import Life, LifeCollector, LifeState, Phase
from agents.worker.web import WebServer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import FOREIGN, MQTT
from pipeline.wire.records import Output, Record

_NO_FILTER = f"{MQTT}no filter"
"""Counts messages of a subscription that an earlier profile made, and that this session still has."""

_DRAIN_SECONDS = 5.0
"""How long a stopping process waits for Kafka to confirm what it has."""


class MqttIngest:
    """One process: reads an MQTT broker, writes our topics, and measures."""

    def __init__(
        self,
        settings: Settings,
        profile: PlantProfile,
        forms: Mapping[str, OpenForm],
        inbox: MqttInbox,
        publisher: Publisher,
    ) -> None:
        """`forms` are those of the topic filters, in the order in which they are tried."""
        self.registry = CollectorRegistry()
        self.tally = Tally()
        self._settings = settings
        self._forms = forms
        self._inbox = inbox
        self._publisher = publisher
        self._rewriter = Rewriter(profile, settings.partitions)
        self._filters = tuple(forms)
        self._in_work = 0
        self._received = 0
        self._started = False
        self._written = 0
        self._idle = asyncio.Event()
        self.life = Life("ingest", self._phase, settings, unready=self._disconnected)
        collector = IngestCollector(self.tally, [MQTT + name for name in forms], mqtt=self._mqtt_status)
        self.registry.register(collector)
        self.registry.register(LifeCollector(self.life, "faultline_ingest_state"))
        self.web = WebServer(self.registry, health=self.life.health, ready=self.life.ready)

    async def start(self) -> None:
        """Connect to both brokers and begin."""
        self.life.begin()
        await self._publisher.start()
        await self._inbox.start()
        self._started = True
        self.life.run("the agent", self._run())

    async def stop(self) -> None:
        """Write and acknowledge what is under way, disconnect; raises the error if it has failed."""
        self.life.stopping = True
        if self._in_work and self.life.failure is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), _DRAIN_SECONDS)
        await self.life.end_tasks()
        if self._started:
            await self._inbox.stop()
        await self._publisher.stop()
        self.web.stop()
        if self.life.failure is not None:
            raise self.life.failure

    async def _run(self) -> None:
        while not self.life.stopping and (messages := await self._inbox.messages(self._settings.chunk_records)):
            self._idle.clear()
            self._in_work = len(messages)
            await self._write(messages)
            self._in_work = 0
            self._written += len(messages)
            self._idle.set()
        if self._inbox.failure is not None:
            raise self._inbox.failure

    async def _write(self, messages: Sequence[Message]) -> None:
        outputs: list[Output] = []
        tally = Tally()
        # In the order in which they came: those of one machine may have more than one topic.
        for name, group in groupby(messages, lambda message: first_match(self._filters, message.topic)):
            records = [self._record(message) for message in group]
            if name is None:
                tally.records[_NO_FILTER] += len(records)
                tally.without_use[_NO_FILTER] += len(records)
                continue
            rewritten, counts = self._rewriter.rewrite(records, self._forms[name], MQTT + name, origin=MQTT)
            outputs += rewritten
            tally.add(counts)
        await self._publisher.publish(outputs)
        await self._publisher.flush()
        self._inbox.acknowledge(messages)
        self.tally.add(tally)

    def _record(self, message: Message) -> Record:
        self._received += 1
        # An empty payload is how a retained message is deleted: as a record without a value is in Kafka.
        value = message.payload or None
        return Record(FOREIGN + message.topic, 0, self._received, message.arrived_ms, None, value)

    # -- status -------------------------------------------------------------------------------------------------

    def _mqtt_status(self) -> MqttStatus:
        return MqttStatus(self._inbox.connected, self._inbox.waiting + self._in_work, self._inbox.dropped)

    def _phase(self) -> Phase:
        if not self._started:
            return Phase(LifeState.STARTING, "start", f"connecting to {self._settings.broker} and the MQTT broker")
        if not self._inbox.connected:
            return Phase(LifeState.JOINING, None, "not connected to the MQTT broker")
        waiting = self._inbox.waiting + self._in_work
        return Phase(LifeState.WORKING, self._written if waiting else None, f"with {waiting:,} messages waiting")

    def _disconnected(self) -> str | None:
        return None if self._inbox.connected else "not connected to the MQTT broker"
