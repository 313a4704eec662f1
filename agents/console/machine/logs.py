"""Where machines' records are read from when somebody asks for them: Kafka, or the broker in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from agents.audit.log import PartitionLog
from agents.kafka.log import kafka_log, require_kafka
from agents.memory.broker import MemoryBroker
from agents.memory.log import MemoryLog
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import ALARMS, CONTROL, DIAGNOSES, DRIFT, LABELS, LATE, event_topics

OpenLog = Callable[[], AbstractContextManager[PartitionLog]]
"""Opens the topics for one read; raises FaultlineError."""


def kafka_logs(settings: Settings, profile: PlantProfile) -> OpenLog:
    """The topics of a real Kafka; raises SettingsError where the broker is one in another process."""
    require_kafka(settings)
    optional = [*event_topics(profile), CONTROL, ALARMS, DRIFT, LABELS, LATE]
    return lambda: kafka_log(settings, [*profile.sensor_topics, DIAGNOSES], optional)


def memory_logs(broker: MemoryBroker, prefix: str = "") -> OpenLog:
    """The topics of a broker in this process."""

    @contextmanager
    def opened() -> Iterator[PartitionLog]:
        yield MemoryLog(broker, prefix)

    return opened
