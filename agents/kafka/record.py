"""`faultline record`: the input topics of a real Kafka written to a recording, in the order of time stamps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agents.kafka.admin import partition_counts, translated_errors
from agents.kafka.security import client_security
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import CONTROL, input_topics
from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Record

_POLL_MS = 200


def record_topics(settings: Settings, profile: PlantProfile, out: Path, *, follow_seconds: float | None) -> int:
    """Write the topics from their beginning to `out`; returns how many records were written.

    Without `follow_seconds` it stops where the topics ended when it began. Raises BrokerUnavailableError,
    TopicMismatchError or RecordingError.
    """
    from kafka import KafkaConsumer, TopicPartition

    prefix, security = settings.topic_prefix, client_security(settings)
    names = [prefix + topic.name for topic in input_topics(profile)] + [prefix + CONTROL]
    counts = partition_counts(settings.address, names, security)
    places = [TopicPartition(name, partition) for name in names for partition in range(counts[name])]
    with translated_errors(settings.address), RecordingWriter(out) as writer:
        consumer = KafkaConsumer(
            bootstrap_servers=settings.address.split(","),
            enable_auto_commit=False,
            group_id=None,
            auto_offset_reset="earliest",  # should the beginning be deleted meanwhile
            check_crcs=False,  # in pure Python, it takes twenty times as long as all else
            **security,
        )
        try:
            consumer.assign(places)
            consumer.seek_to_beginning(*places)
            until = time.monotonic() + follow_seconds if follow_seconds is not None else None
            writer.write(_merged(consumer, places, len(prefix), until))
        finally:
            consumer.close()
    return writer.count


def _merged(consumer: Any, places: list[Any], prefix_length: int, until: float | None) -> Iterator[Record]:
    """Records of all partitions by time stamp: the least head goes first, once every partition has shown its own."""
    ends = consumer.end_offsets(places)
    waiting: dict[Any, deque[Any]] = {place: deque() for place in places}
    rank = {place: number for number, place in enumerate(places)}
    while True:
        for place, found in consumer.poll(timeout_ms=_POLL_MS).items():
            waiting[place].extend(entry for entry in found if until is not None or entry.offset < ends[place])
        if until is not None:
            ends = consumer.end_offsets(places)
        behind = {place for place in places if not waiting[place] and consumer.position(place) < ends[place]}
        while not behind:
            full = [place for place in places if waiting[place]]
            if not full:
                break
            place = min(full, key=lambda p: (waiting[p][0].timestamp, rank[p]))
            entry = waiting[place].popleft()
            yield Record(
                entry.topic[prefix_length:],
                entry.partition,
                entry.offset,
                entry.timestamp,
                entry.key,
                entry.value,
                tuple((name, value or b"") for name, value in entry.headers),
            )
            if not waiting[place] and consumer.position(place) < ends[place]:
                behind.add(place)
        finished = not behind and not any(waiting.values())
        if finished and (until is None or time.monotonic() >= until):
            return
