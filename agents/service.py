"""`faultline run`: one worker as a process, from the check of its topics to its last commit."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping

from agents.kafka_admin import TopicSpec, check_topics
from agents.publish import KafkaPublisher
from agents.security import client_security, faust_credentials
from agents.worker import Worker
from pipeline.errors import SettingsError, TopicMismatchError
from pipeline.frames import StepRunner
from pipeline.profile import PlantProfile
from pipeline.settings import Settings
from pipeline.topics import all_topics

log = logging.getLogger("faultline.service")


def topic_specs(settings: Settings, profile: PlantProfile) -> list[TopicSpec]:
    """How every topic of the plant has to be set up on the broker."""
    specs = []
    for topic in all_topics(profile):
        config = {} if topic.retention_ms is None else {"retention.ms": str(topic.retention_ms)}
        specs.append(TopicSpec(settings.topic_prefix + topic.name, settings.partitions, settings.replication, config))
    return specs


def require_topics(settings: Settings, profile: PlantProfile) -> None:
    """Raise TopicMismatchError unless every topic is there with the right partition count."""
    problems = check_topics(settings.address, topic_specs(settings, profile), client_security(settings))
    if problems:
        raise TopicMismatchError(f"{'; '.join(problems)}; `faultline topics create` makes what is missing")


async def serve(
    settings: Settings,
    profile: PlantProfile,
    runners: Mapping[str, StepRunner],
    partition_of: Callable[[bytes], int],
) -> None:
    """Work until SIGTERM or SIGINT; raises FaultlineError if the worker cannot start or go on."""
    if settings.is_memory:
        raise SettingsError("a worker needs FAULTLINE_BROKER=kafka://host:port; memory:// is for `faultline replay`")
    await asyncio.to_thread(require_topics, settings, profile)
    publisher = KafkaPublisher(settings.address, settings.topic_prefix, **client_security(settings))
    worker = Worker(
        settings,
        profile,
        runners,
        publisher,
        partition_of=partition_of,
        wall_seconds=time.time,
        credentials=faust_credentials(settings),
    )
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told_to_stop.set)
    port = worker.web.start(settings.web_host, settings.web_port)
    print(f"faultline: metrics on http://{settings.web_host}:{port}/metrics, reading {settings.broker}", flush=True)
    try:
        await worker.start()
        stopping = asyncio.create_task(told_to_stop.wait())
        failing = asyncio.create_task(worker.wait_failed())
        await asyncio.wait({stopping, failing}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        failing.cancel()
    finally:
        await worker.stop()
    print("faultline: stopped, everything committed", flush=True)
