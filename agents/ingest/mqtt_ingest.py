"""Ingest from MQTT: messages are rewritten, and acknowledged to the MQTT broker when Kafka has confirmed them.

A message that was written and not yet acknowledged when a connection or a process ended comes again, and is written
again. The worker drops a reading or text that it has already: so nothing is lost, and nothing counts twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from itertools import groupby

from prometheus_client import CollectorRegistry

from agents.delivery.publisher import Publisher
from agents.ingest.metrics import IngestCollector, MqttStatus
from agents.ingest.mqtt import Message, MqttInbox, first_match
from agents.ingest.rewriting import OpenForm, Rewriter, Tally
from agents.worker.web import WebServer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import FOREIGN, MQTT
from pipeline.errors import FaultlineError
from pipeline.wire.records import Output, Record

log = logging.getLogger("faultline.ingest")

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
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        collector = IngestCollector(self.tally, [MQTT + name for name in forms], mqtt=self._mqtt_status)
        self.registry.register(collector)
        self.web = WebServer(self.registry, alive=self._alive, ready=self._ready)

    async def start(self) -> None:
        """Connect to both brokers and begin."""
        await self._publisher.start()
        await self._inbox.start()
        self._task = asyncio.create_task(self._run())

    async def wait_failed(self) -> None:
        """Return when it has failed and only a restart helps; `stop` raises the error."""
        await self._failed.wait()

    async def stop(self) -> None:
        """Write and acknowledge what is under way, disconnect; raises the error if it has failed."""
        self._stopping = True
        if self._task is not None:
            if self._in_work and self._failure is None:
                await asyncio.wait({self._task}, timeout=_DRAIN_SECONDS)
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self._inbox.stop()
        await self._publisher.stop()
        self.web.stop()
        if self._failure is not None:
            raise self._failure

    async def _run(self) -> None:
        try:
            while not self._stopping:
                messages = await self._inbox.messages(self._settings.chunk_records)
                if not messages:
                    break
                self._in_work = len(messages)
                await self._write(messages)
                self._in_work = 0
            if self._inbox.failure is not None:
                raise self._inbox.failure
        except FaultlineError as error:
            self._fail(error)
        except Exception as error:
            log.exception("unexpected error")
            self._fail(error)

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

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            log.error("ingest stops: %s", error)
            self._failure = error
        self._failed.set()

    def _alive(self) -> str | None:
        return None if self._failure is None else f"failed: {self._failure}"

    def _ready(self) -> str | None:
        if self._failure is not None:
            return f"failed: {self._failure}"
        return None if self._inbox.connected else "not connected to the MQTT broker"
