"""How the plant's topics have to be set up on a Kafka broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from agents.kafka.admin import check_topics, examine_topics, partition_counts
from agents.kafka.security import client_security
from agents.kafka.states import COMPACTION_LAG_MS, SEGMENT_BYTES, STATE_BYTES
from agents.kafka.topic_settings import MAX_MESSAGE_BYTES, POLICY, TopicSpec
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import (
    ALARMS,
    AREAS,
    CONTROL,
    DEAD_LETTER,
    INCIDENTS,
    LATE,
    PLANT,
    PLANT_STATE,
    STATE,
    Topic,
    all_topics,
    full_topic_name,
    ingest_outputs,
    ingest_topics,
    input_topics,
    require_names,
)
from pipeline.errors import TopicMismatchError
from pipeline.wire.letters import LETTER_BYTES, LETTER_TOPICS

_BATCH_OVERHEAD = 1024
"""What a batch has beyond the keys, values and headers of its records."""

_LEAST_BYTES = 1_000_000
"""A limit of records that is enough to work with; Kafka's default is a little more."""


class RecordLimits(NamedTuple):
    """How large records may be."""

    letter_bytes: int = LETTER_BYTES
    state_bytes: int = STATE_BYTES
    notes: tuple[str, ...] = ()
    """Where this is less than was wanted, and what follows, one sentence each."""


WANTED_LIMITS = RecordLimits()


def topic_specs(settings: Settings, profile: PlantProfile) -> list[TopicSpec]:
    """How every topic of the plant has to be set up on the broker; raises SettingsError if two have one name.

    Retention is by size, not by time: a broker uses the records' own time stamps and would delete a replayed old
    recording within minutes.
    """
    prefix, inputs = settings.topic_prefix, _input_names(profile)
    require_names(prefix, profile)
    own = {CONTROL, AREAS, *(ingest_outputs(profile) if profile.ingest else ())}
    given = {"retention.ms": "-1", "retention.bytes": str(settings.retention_bytes)}
    # Brokers since Kafka 3.6 refuse records of the future, and inputs should be. What Faultline writes must not be: a
    # clock that is ahead by less, or that was ahead before, leads to outputs that are.
    kept = given | {"message.timestamp.after.max.ms": str(2**63 - 1)}
    letters = kept | {MAX_MESSAGE_BYTES: str(LETTER_BYTES + _BATCH_OVERHEAD)}
    compacted = {
        POLICY: "compact",
        "retention.ms": "-1",
        "segment.bytes": str(SEGMENT_BYTES),
        # A late state of a suspended worker must not be the only one left of a machine (agents/delivery/states.py).
        "min.compaction.lag.ms": str(COMPACTION_LAG_MS),
        MAX_MESSAGE_BYTES: str(STATE_BYTES + _BATCH_OVERHEAD),
    }

    def spec(topic: Topic) -> TopicSpec:
        name, count = full_topic_name(prefix, topic.name), (settings.partitions, settings.replication)
        if topic.name == INCIDENTS:
            wanted = kept | {POLICY: "compact"}
            del wanted["retention.bytes"]
            return TopicSpec(name, *count, wanted)
        if topic.compacted:
            larger = "a machine with a larger state begins with a fresh one after a restart"
            return TopicSpec(name, *count, compacted, least_bytes=_LEAST_BYTES, larger_records=larger)
        if topic.name in LETTER_TOPICS:
            larger = "larger dead letters and late records are cut"
            return TopicSpec(name, *count, letters, least_bytes=_LEAST_BYTES, larger_records=larger)
        is_guarded = topic.name in inputs and topic.name not in own
        return TopicSpec(name, *count, given if is_guarded else kept, is_input=topic.name in inputs)

    return [spec(topic) for topic in all_topics(profile) if not topic.is_foreign]


def _input_names(profile: PlantProfile) -> frozenset[str]:
    return frozenset((*(topic.name for topic in input_topics(profile)), CONTROL, AREAS))


def foreign_specs(settings: Settings, profile: PlantProfile) -> list[TopicSpec]:
    """What a worker needs of the topics that others have created."""
    names = [full_topic_name(settings.topic_prefix, topic.name) for topic in all_topics(profile) if topic.is_foreign]
    return [TopicSpec(name, settings.partitions, is_input=True, is_foreign=True) for name in names]


def require_topics(settings: Settings, profile: PlantProfile) -> RecordLimits:
    """Raise TopicMismatchError unless every topic of a worker exists with the right partition count and settings.

    Returns how large records may be, which is less than was wanted where the broker allows no more.
    """
    prefix = settings.topic_prefix
    of_others = {full_topic_name(prefix, topic) for topic in (PLANT, PLANT_STATE)}
    specs = [spec for spec in topic_specs(settings, profile) if spec.name not in of_others]
    found = _require(settings, specs)
    if problems := check_topics(settings.address, foreign_specs(settings, profile), client_security(settings)):
        raise TopicMismatchError(
            f"{'; '.join(problems)}; a topic with other keys or another partition count is read by `faultline ingest` "
            "(docs/guide/connecting.md)"
        )
    return _limits(prefix, specs, found, STATE)


def require_plant_topics(settings: Settings, profile: PlantProfile) -> RecordLimits:
    """Raise TopicMismatchError unless every topic of a plant agent exists with the right partition count and settings.

    Returns how large records may be, which is less than was wanted where the broker allows no more.
    """
    prefix = settings.topic_prefix
    own = {
        full_topic_name(prefix, topic) for topic in (AREAS, PLANT, PLANT_STATE, ALARMS, INCIDENTS, LATE, DEAD_LETTER)
    }
    specs = [spec for spec in topic_specs(settings, profile) if spec.name in own]
    return _limits(prefix, specs, _require(settings, specs), PLANT_STATE)


def _require(settings: Settings, specs: Sequence[TopicSpec]) -> Mapping[str, int]:
    """How large the records of these topics may be; raises TopicMismatchError."""
    report = examine_topics(settings.address, specs, client_security(settings))
    if report.problems:
        raise TopicMismatchError(f"{'; '.join(report.problems)}; create missing topics with `faultline topics create`")
    return report.max_message_bytes


def _limits(prefix: str, specs: Sequence[TopicSpec], found: Mapping[str, int], states: str) -> RecordLimits:
    """How large records may be where the topics allow so much; `states` is the topic of states."""
    unknown = STATE_BYTES + _BATCH_OVERHEAD
    letters = min(found.get(full_topic_name(prefix, topic), unknown) for topic in (DEAD_LETTER, LATE))
    state = found.get(full_topic_name(prefix, states), unknown)
    notes = [
        f"topic {spec.name!r} has {MAX_MESSAGE_BYTES} {found[spec.name]} instead of {wanted}: {spec.larger_records}"
        for spec in specs
        if (wanted := int(spec.config.get(MAX_MESSAGE_BYTES, 0))) > found.get(spec.name, wanted)
    ]
    return RecordLimits(
        min(letters - _BATCH_OVERHEAD, LETTER_BYTES), min(state - _BATCH_OVERHEAD, STATE_BYTES), tuple(notes)
    )


def require_ingest_topics(settings: Settings, profile: PlantProfile, *, from_kafka: bool) -> int:
    """Raise TopicMismatchError unless the topics that ingest writes are set up, and those that it reads exist.

    Returns how large dead letters may be.
    """
    security = client_security(settings)
    names = {full_topic_name(settings.topic_prefix, topic) for topic in ingest_outputs(profile)}
    outputs = [spec for spec in topic_specs(settings, profile) if spec.name in names]
    limits = _require(settings, outputs)
    if from_kafka:
        inputs = [full_topic_name(settings.topic_prefix, topic) for topic in ingest_topics(profile)]
        hint = "correct `ingest` in the profile, or create it"
        counts = partition_counts(settings.address, inputs, security, hint=hint)
        specs = [TopicSpec(name, count, is_input=True, is_foreign=True) for name, count in counts.items()]
        if problems := check_topics(settings.address, specs, security):
            raise TopicMismatchError("; ".join(problems))
    letters = limits[full_topic_name(settings.topic_prefix, DEAD_LETTER)]
    return min(letters - _BATCH_OVERHEAD, LETTER_BYTES)
