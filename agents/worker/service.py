"""`faultline run`: one worker as a process, from checking its topics to its last commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agents.kafka.admin import topic_logs
from agents.kafka.codecs import WORKER_MODULES, require_codecs
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.schema_registry import schema_registry
from agents.kafka.security import client_security, faust_credentials, require_rights
from agents.kafka.states import KafkaStateStore
from agents.kafka.topics import WANTED_LIMITS, RecordLimits, require_topics
from agents.worker.process import Guard, in_thread, live, work
from agents.worker.states.engine import Observer
from agents.worker.states.run_record import RunRecord
from agents.worker.worker import Worker
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import LABELS, engine_topics, full_topic_name, require_names
from pipeline.errors import SettingsError
from pipeline.frames import StepRunner
from pipeline.wire.recording import RecordingWriter

log = logging.getLogger("faultline.service")


def kafka_worker(
    settings: Settings,
    profile: PlantProfile,
    runners: Mapping[str, StepRunner],
    partition_of: Callable[[bytes], int],
    observer: Observer | None = None,
    limits: RecordLimits = WANTED_LIMITS,
    wall_seconds: Callable[[], float] = time.time,
) -> Worker:
    """A worker with everything that it needs of a Kafka broker; it connects when it starts."""
    security, prefix = client_security(settings), settings.topic_prefix
    require_names(prefix, profile)
    names = [full_topic_name(prefix, topic) for topic in (*engine_topics(profile), LABELS)]
    return Worker(
        settings,
        profile,
        runners,
        KafkaPublisher(settings.address, prefix, letter_bytes=limits.letter_bytes, **security),
        partition_of=partition_of,
        wall_seconds=wall_seconds,
        credentials=faust_credentials(settings),
        observer=observer,
        schemas=schema_registry(settings),
        store=KafkaStateStore(settings.address, prefix, partition_of, state_bytes=limits.state_bytes, **security),
        topic_logs=lambda: in_thread(topic_logs, settings.address, names, security),
    )


async def serve(
    settings: Settings,
    profile: PlantProfile,
    runners: Mapping[str, StepRunner],
    partition_of: Callable[[bytes], int],
    *,
    recorder: RecordingWriter | None = None,
    certify: Path | None = None,
) -> None:
    """Run a worker until SIGTERM or SIGINT; raises FaultlineError if it cannot start or continue.

    `recorder` takes the engine's inputs in the order in which they were processed, `certify` is a file
    for the certificate of the outputs: replaying the one must reproduce the other.
    """
    if settings.is_memory:
        raise SettingsError("a worker needs FAULTLINE_BROKER=kafka://host:port; memory:// is for `faultline replay`")
    require_codecs(*WORKER_MODULES)

    async def serve_guarded(guard: Guard) -> None:
        limits = await in_thread(require_topics, settings, profile)
        for note in limits.notes:
            log.warning("%s", note)
        await in_thread(require_rights, settings, profile)
        run = RunRecord(runners, recorder, certify)
        worker = kafka_worker(settings, profile, runners, partition_of, run.observer, limits)
        if await work(worker, guard, settings, settings.broker):
            run.certify(lambda builder: builder.finish(worker.engine), worker.restored, "machines")

    await live(settings, serve_guarded)
