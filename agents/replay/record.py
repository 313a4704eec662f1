"""The input topics of a real Kafka written to a recording, in the order of time stamps: to replay, and to train on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.kafka.log import kafka_log
from pipeline.config.hints import shown_time
from pipeline.config.profile import NORMAL, PlantProfile
from pipeline.config.settings import Settings
from pipeline.config.topics import CONTROL, EVENTS, FOREIGN, LABELS, input_topics, short_topic_name
from pipeline.errors import RecordingError
from pipeline.wire.labels import LabelledSpan, read_label
from pipeline.wire.messages import RejectedError
from pipeline.wire.recording import new_recording
from pipeline.wire.records import OnProgress, Record


def record_topics(
    settings: Settings,
    profile: PlantProfile,
    out: Path,
    *,
    follow_seconds: float | None,
    on_progress: OnProgress = lambda *_: None,
) -> int:
    """Write the topics from their beginning to `out`; returns how many records were written.

    `out` appears when it is complete. Without `follow_seconds` recording stops where the topics ended when it began.
    `on_progress` gets how many records were read, and about how many there are.
    Raises BrokerUnavailableError, TopicMismatchError or RecordingError.
    """
    topics = [*(topic.name for topic in input_topics(profile)), CONTROL]
    # Ctrl-C ends a recording that follows the topics, and what is recorded is kept.
    ending = contextlib.nullcontext() if follow_seconds is None else contextlib.suppress(KeyboardInterrupt)
    with kafka_log(settings, topics, on_progress=on_progress) as log, new_recording(out) as writer, ending:
        writer.write(log.merged(*topics, follow_seconds=follow_seconds))
    return writer.count


@dataclass(frozen=True, slots=True)
class Span:
    """Which records: those from one time stamp on and until before another, where given."""

    since_ms: int | None = None
    until_ms: int | None = None

    def __str__(self) -> str:
        """As it stands behind what happened in it."""
        since = "" if self.since_ms is None else f" since {shown_time(self.since_ms)}"
        return since if self.until_ms is None else f"{since} until {shown_time(self.until_ms)}"

    def has(self, record: Record) -> bool:
        """Whether a record is of this time."""
        is_before = self.since_ms is not None and record.timestamp_ms < self.since_ms
        return not is_before and (self.until_ms is None or record.timestamp_ms < self.until_ms)

    def overlaps(self, label: LabelledSpan) -> bool:
        """Whether a label is about this time."""
        is_before = self.since_ms is not None and label.end_ms <= self.since_ms
        return not is_before and (self.until_ms is None or label.start_ms < self.until_ms)


@dataclass(frozen=True, slots=True)
class SpanRecorded:
    """What was recorded of a span of time."""

    records: int
    labels: int
    other_labels: int
    """Labels about other times, which were left out."""
    unreadable_labels: int
    missing: tuple[str, ...]
    """Topics that the worker would read and that do not exist yet, by their short names."""


def record_span(
    settings: Settings,
    profile: PlantProfile,
    out: Path,
    span: Span,
    *,
    labels_from: str | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> SpanRecorded:
    """Write what a worker's input topics got in a span of time, to train on it; read committed, outside of any group.

    Labels may have been written at any time: all that are about the span are taken, from the topic `labels_from` if one
    is named as the broker names it. Topics of Faultline's own that need not exist before the first worker runs may be
    missing. `on_progress` gets how many records were read, and about how many there are. `out` appears when it is
    complete. Raises BrokerUnavailableError, TopicMismatchError, or RecordingError if no reading came in that time.
    """
    labels_topic = LABELS if labels_from is None else short_topic_name(settings.topic_prefix, labels_from)
    inputs = [topic.name for topic in input_topics(profile) if topic.name != LABELS]
    optional = [EVENTS, CONTROL, *([LABELS] if labels_from is None else [])]
    needed = [topic for topic in inputs if topic != EVENTS] + ([] if labels_from is None else [labels_topic])
    with kafka_log(settings, needed, optional, on_progress) as log:
        missing = tuple(topic for topic in optional if not log.partitions(topic))
        data = [topic for topic in (*inputs, CONTROL) if topic not in missing]
        newest = [record.timestamp_ms for topic in profile.sensor_topics for record in log.last(topic, 1)]
        if span.since_ms is not None:
            log.begin_at(data, span.since_ms)
        labels = _Labels(span)
        if LABELS not in missing:
            labels.read(log.merged(labels_topic))
        with new_recording(out) as writer:
            writer.write(labels.taken)
            sensors = frozenset(profile.sensor_topics)
            readings = 0
            for record in log.merged(*data):
                if span.has(record):
                    writer.write([record])
                    readings += record.topic in sensors
            if not readings:
                raise RecordingError(_nothing_came(profile, span, newest))
    return SpanRecorded(writer.count, len(labels.taken), labels.others, labels.unreadable, missing)


class _Labels:
    """The label records about a span of time."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.taken: list[Record] = []
        self.others = 0
        self.unreadable = 0

    def read(self, records: Iterable[Record]) -> None:
        """Take the labels about the span, in their order."""
        told: Record | None = None  # of another time, that somebody labels the normal state
        says_normal = False
        for record in (one._replace(topic=LABELS) for one in records):
            try:
                label = read_label(record)
            except RejectedError:
                self.unreadable += 1
                continue
            if self._span.overlaps(label):
                self.taken.append(record)
                says_normal |= label.fault == NORMAL
            else:
                self.others += 1
                told = record if label.fault == NORMAL else told
        if self.taken and not says_normal and told is not None:
            # Where any label says `normal`, time without one is unknown: that must hold for the recording too.
            self.taken.insert(0, told)
            self.others -= 1


def _nothing_came(profile: PlantProfile, span: Span, newest: Sequence[int]) -> str:
    """Why there is nothing to record."""
    topics = ", ".join(topic.removeprefix(FOREIGN) for topic in profile.sensor_topics)
    if not newest:
        return f"topic {topics} has no readings; `faultline sources check` shows what arrives"
    return f"no reading came to topic {topics}{span}; the newest is of {shown_time(max(newest))}: name another time"
