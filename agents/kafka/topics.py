"""How the plant's topics have to be set up on a Kafka broker."""

from __future__ import annotations

from agents.kafka.admin import TopicSpec, check_topics, partition_counts
from agents.kafka.security import client_security
from agents.kafka.states import COMPACTION_LAG_MS, SEGMENT_BYTES, STATE_BYTES
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import all_topics, full_topic_name, ingest_outputs, ingest_topics
from pipeline.errors import TopicMismatchError
from pipeline.wire.letters import LETTER_BYTES, LETTER_TOPICS


def topic_specs(settings: Settings, profile: PlantProfile) -> list[TopicSpec]:
    """How every topic of the plant has to be set up on the broker.

    Retention is by size, not by time: a broker uses the records' own time stamps and would delete a replayed old
    recording within minutes.
    """
    kept = {
        "retention.ms": "-1",
        "retention.bytes": str(settings.retention_bytes),
        # The broker must not refuse diagnoses of a machine whose clock is ahead; max_skew checks clocks.
        "message.timestamp.after.max.ms": str(2**63 - 1),
    }
    letters = kept | {"max.message.bytes": str(LETTER_BYTES + 1024)}
    compacted = {
        "cleanup.policy": "compact",
        "retention.ms": "-1",
        "segment.bytes": str(SEGMENT_BYTES),
        # A late state of a suspended worker must not be the only one left of a machine (agents/delivery/states.py).
        "min.compaction.lag.ms": str(COMPACTION_LAG_MS),
        "max.message.bytes": str(STATE_BYTES + 1024),
    }
    return [
        TopicSpec(
            full_topic_name(settings.topic_prefix, topic.name),
            settings.partitions,
            settings.replication,
            compacted if topic.compacted else letters if topic.name in LETTER_TOPICS else kept,
        )
        for topic in all_topics(profile)
        if not topic.is_foreign
    ]


def foreign_specs(settings: Settings, profile: PlantProfile) -> list[TopicSpec]:
    """What a worker needs of the topics that others have created."""
    names = [full_topic_name(settings.topic_prefix, topic.name) for topic in all_topics(profile) if topic.is_foreign]
    return [TopicSpec(name, settings.partitions) for name in names]


def require_topics(settings: Settings, profile: PlantProfile) -> None:
    """Raise TopicMismatchError unless every topic exists with the right partition count and settings."""
    security = client_security(settings)
    if problems := check_topics(settings.address, topic_specs(settings, profile), security):
        raise TopicMismatchError(f"{'; '.join(problems)}; create missing topics with `faultline topics create`")
    if problems := check_topics(settings.address, foreign_specs(settings, profile), security):
        raise TopicMismatchError(
            f"{'; '.join(problems)}; a topic with other keys or another partition count is read by `faultline ingest` "
            "(docs/guide/connecting.md)"
        )


def require_ingest_topics(settings: Settings, profile: PlantProfile, *, from_kafka: bool) -> None:
    """Raise TopicMismatchError unless the topics that ingest writes are set up, and those that it reads exist."""
    security = client_security(settings)
    names = {full_topic_name(settings.topic_prefix, topic) for topic in ingest_outputs(profile)}
    outputs = [spec for spec in topic_specs(settings, profile) if spec.name in names]
    if problems := check_topics(settings.address, outputs, security):
        raise TopicMismatchError(f"{'; '.join(problems)}; create missing topics with `faultline topics create`")
    if from_kafka:
        inputs = [full_topic_name(settings.topic_prefix, topic) for topic in ingest_topics(profile)]
        partition_counts(settings.address, inputs, security, hint="correct `ingest` in the profile, or create it")
