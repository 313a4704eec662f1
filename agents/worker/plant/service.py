"""`faultline plant`: one plant agent as a process, from checking its topics to its last commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from agents.kafka.admin import topic_logs
from agents.kafka.codecs import WORKER_MODULES, require_codecs
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.security import client_security, faust_credentials, require_plant_rights
from agents.kafka.states import KafkaStateStore
from agents.kafka.topics import WANTED_LIMITS, RecordLimits, require_plant_topics
from agents.worker.plant.agent import PlantAgent
from agents.worker.process import Guard, in_thread, live, work
from agents.worker.states.engine import Observer
from agents.worker.states.run_record import RunRecord
from pipeline.areas.frames import AreaRunner
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import AREAS, PLANT_STATE, full_topic_name, require_names
from pipeline.errors import SettingsError
from pipeline.wire.recording import RecordingWriter

log = logging.getLogger("faultline.plant")


def kafka_plant(
    settings: Settings,
    profile: PlantProfile,
    runner: AreaRunner,
    partition_of: Callable[[bytes], int],
    observer: Observer | None = None,
    limits: RecordLimits = WANTED_LIMITS,
    wall_seconds: Callable[[], float] = time.time,
) -> PlantAgent:
    """A plant agent with everything that it needs of a Kafka broker; it connects when it starts.

    `settings` are those of the plant agent (`Settings.of_plant`).
    """
    security, prefix = client_security(settings), settings.topic_prefix
    require_names(prefix, profile)
    names = [full_topic_name(prefix, AREAS)]
    store = KafkaStateStore(
        settings.address, prefix, partition_of, topic=PLANT_STATE, state_bytes=limits.state_bytes, **security
    )
    return PlantAgent(
        settings,
        profile,
        runner,
        KafkaPublisher(settings.address, prefix, letter_bytes=limits.letter_bytes, **security),
        partition_of=partition_of,
        wall_seconds=wall_seconds,
        credentials=faust_credentials(settings),
        observer=observer,
        store=store,
        topic_logs=lambda: in_thread(topic_logs, settings.address, names, security),
    )


async def serve(
    settings: Settings,
    profile: PlantProfile,
    runner: AreaRunner,
    partition_of: Callable[[bytes], int],
    *,
    recorder: RecordingWriter | None = None,
    certify: Path | None = None,
) -> None:
    """Run a plant agent until SIGTERM or SIGINT; raises FaultlineError if it cannot start or continue.

    `recorder` takes the engine's inputs in the order in which they were processed, `certify` is a file for the
    certificate of the outputs: replaying the one must reproduce the other.
    """
    if settings.is_memory:
        raise SettingsError(
            "a plant agent needs FAULTLINE_BROKER=kafka://host:port; memory:// is for `faultline replay --plant`"
        )
    if not profile.areas:
        raise SettingsError(
            f"profile {profile.plant} has no areas, so there is nothing for a plant agent to do; declare them in its "
            "section `areas` (docs/operations/areas.md)"
        )
    require_codecs(*WORKER_MODULES)
    settings = settings.of_plant

    async def serve_guarded(guard: Guard) -> None:
        limits = await in_thread(require_plant_topics, settings, profile)
        for note in limits.notes:
            log.warning("%s", note)
        await in_thread(require_plant_rights, settings, profile)
        run = RunRecord({"areas": runner}, recorder, certify)
        plant = kafka_plant(settings, profile, runner, partition_of, run.observer, limits)
        if await work(plant, guard, settings, settings.broker):
            run.certify(lambda builder: builder.finish_areas(plant.engine), plant.restored, "areas")

    await live(settings, serve_guarded)
