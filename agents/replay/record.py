"""`faultline record`: the input topics of a real Kafka written to a recording, in the order of time stamps."""

from __future__ import annotations

import contextlib
from pathlib import Path

from agents.kafka.log import kafka_log
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import CONTROL, input_topics
from pipeline.wire.recording import new_recording


def record_topics(settings: Settings, profile: PlantProfile, out: Path, *, follow_seconds: float | None) -> int:
    """Write the topics from their beginning to `out`; returns how many records were written.

    `out` appears when it is complete. Without `follow_seconds` recording stops where the topics ended when it began.
    Raises BrokerUnavailableError, TopicMismatchError or RecordingError.
    """
    topics = [*(topic.name for topic in input_topics(profile)), CONTROL]
    # Ctrl-C ends a recording that follows the topics, and what is recorded is kept.
    ending = contextlib.nullcontext() if follow_seconds is None else contextlib.suppress(KeyboardInterrupt)
    with kafka_log(settings, topics) as log, new_recording(out) as writer, ending:
        writer.write(log.merged(*topics, follow_seconds=follow_seconds))
    return writer.count
