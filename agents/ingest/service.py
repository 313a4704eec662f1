"""`faultline ingest`: one process, from checking topics and rights to its last transaction."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Protocol

from agents.ingest.forms import kafka_forms, mqtt_forms
from agents.ingest.ingest import Ingest
from agents.ingest.mqtt import MqttAddress, MqttInbox
from agents.ingest.mqtt_ingest import MqttIngest
from agents.kafka.codecs import WORKER_MODULES, require_codecs
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.schema_registry import schema_registry
from agents.kafka.security import client_security, faust_credentials, require_ingest_rights
from agents.kafka.topics import require_ingest_topics
from agents.kafka.transactions import KafkaTransactions
from agents.worker.web import WebServer
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.errors import SettingsError


class _Process(Protocol):
    web: WebServer

    async def start(self) -> None: ...

    async def wait_failed(self) -> None: ...

    async def stop(self) -> None: ...


async def serve(settings: Settings, profile: PlantProfile, mqtt: str | None = None) -> None:
    """Read the profile's Kafka topics, or its MQTT topics at this address, until SIGTERM or SIGINT.

    Raises FaultlineError if it cannot start or continue.
    """
    if settings.is_memory:
        raise SettingsError("ingest needs FAULTLINE_BROKER=kafka://host:port; memory:// is for `faultline replay`")
    require_codecs(*WORKER_MODULES)
    settings = settings.of_ingest
    address = None if mqtt is None else MqttAddress.parse(mqtt)
    schemas = schema_registry(settings)
    forms = kafka_forms(profile, schemas) if address is None else mqtt_forms(profile, schemas)
    require_codecs(*WORKER_MODULES)
    letter_bytes = await asyncio.to_thread(require_ingest_topics, settings, profile, from_kafka=address is None)
    await asyncio.to_thread(require_ingest_rights, settings, profile, from_kafka=address is None)
    security = client_security(settings)
    if address is not None:
        inbox = MqttInbox(address, tuple(forms), settings)
        publisher = KafkaPublisher(settings.address, settings.topic_prefix, letter_bytes=letter_bytes, **security)
        await _run(settings, MqttIngest(settings, profile, forms, inbox, publisher), str(address))
        return
    transactions = KafkaTransactions(
        settings.address, settings.topic_prefix, settings.group, letter_bytes=letter_bytes, **security
    )
    ingest = Ingest(
        settings,
        profile,
        forms,
        transactions.claim,
        monotonic_seconds=time.monotonic,
        credentials=faust_credentials(settings),
    )
    await transactions.start()
    try:
        await _run(settings, ingest, settings.broker)
    finally:
        await transactions.stop()


async def _run(settings: Settings, process: _Process, origin: str) -> None:
    stop_requested = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_requested.set)
    port = process.web.start(settings.web_host, settings.web_port)
    print(f"faultline: metrics on http://{settings.web_host}:{port}/metrics, reading {origin}", flush=True)
    try:
        await process.start()
        stopping = asyncio.create_task(stop_requested.wait())
        failing = asyncio.create_task(process.wait_failed())
        await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        failing.cancel()
    finally:
        await process.stop()
    print("faultline: stopped, everything committed", flush=True)
