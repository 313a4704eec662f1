"""A diagnosis replayed from the topics that its machine's records are in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from agents.audit.log import PartitionLog
from agents.audit.why.replayed import DiagnosisId, Replayed, records_of_machine, replay_until
from agents.delivery.partitioning import partition_of
from pipeline.compiled import Notify
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import DIAGNOSES, engine_topics
from pipeline.frames import StepRunner
from pipeline.mapping.schemas import Schemas
from pipeline.wire.messages import Diagnosis, RejectedError, decode_diagnosis
from pipeline.wire.records import Record


def replay_from_log(
    log: PartitionLog,
    plant: PlantProfile,
    runners: Mapping[str, StepRunner],
    wanted: DiagnosisId,
    *,
    frames: int,
    history_ms: int | None = None,
    schemas: Schemas | None = None,
    notify: Notify = lambda _: None,
    watch: Callable[[Iterator[Record]], Iterator[Record]] = iter,
) -> tuple[Diagnosis | None, Replayed]:
    """The diagnosis as it was published, if it is still there, and as it comes out again.

    Inputs are read from so long before the frame, or else from the beginning of the topics; `watch` sees all records,
    and may raise. Raises as `replay_until`, and as the log.
    """
    topics = [topic for topic in engine_topics(plant) if log.partitions(topic)]
    partition = partition_of(wanted.machine.encode(errors="replace"), log.partitions(DIAGNOSES))
    log.begin_at([DIAGNOSES], wanted.end_ms)  # a diagnosis has the end of its frame for a time stamp
    published = published_diagnosis(watch(log.records_of(DIAGNOSES, partition)), wanted)
    if history_ms is not None:
        log.begin_at(topics, max(0, wanted.end_ms - history_ms))
    records = watch(log.merged(*topics, partition=partition))
    own = records_of_machine(records, plant, wanted.machine, partition)
    return published, replay_until(own, plant, runners, wanted, frames=frames, schemas=schemas, notify=notify)


def published_diagnosis(records: Iterable[Record], wanted: DiagnosisId) -> Diagnosis | None:
    """The published diagnosis, if it is still there."""
    mark = str(wanted).encode(errors="replace")
    for record in records:
        if record.topic == DIAGNOSES and record.value is not None and mark in record.value:
            try:
                found = decode_diagnosis(record.value)
            except RejectedError:
                continue
            if found.id == str(wanted):
                return found
    return None
