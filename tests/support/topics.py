"""Topics without a broker: what commands read of a Kafka, from records in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from kafka import TopicPartition

from agents.kafka.log import KafkaLog
from pipeline.config.settings import Settings
from pipeline.config.topics import full_topic_name
from pipeline.errors import TopicMismatchError
from pipeline.wire.records import OnProgress, Record
from tests.support.consumers import Consumer, Entry


def topics_of(records: Iterable[Record], partitions: int = 2) -> Callable[..., object]:
    """A stand-in for `kafka_log`: topics with these records, in which a machine's records are in one partition."""
    rows: dict[str, list[list[Record]]] = defaultdict(lambda: [[] for _ in range(partitions)])
    for record in sorted(records, key=lambda one: one.timestamp_ms):
        rows[record.topic][sum(record.key or b"") % partitions].append(record)

    @contextmanager
    def log(
        settings: Settings,
        topics: Sequence[str],
        optional: Sequence[str] = (),
        on_progress: OnProgress = lambda *_: None,
    ) -> Iterator[KafkaLog]:
        if missing := [topic for topic in topics if topic not in rows]:
            raise TopicMismatchError(f"topic {', '.join(missing)} does not exist")
        entries: dict[TopicPartition, list[Entry]] = {}
        there = [topic for topic in (*topics, *optional) if topic in rows]
        for topic in there:
            for number, part in enumerate(rows[topic]):
                place = TopicPartition(full_topic_name(settings.topic_prefix, topic), number)
                entries[place] = [
                    Entry(*place, offset, one.timestamp_ms, one.key, one.value) for offset, one in enumerate(part)
                ]
        consumer = Consumer(entries, records=50, fair=True)
        log = KafkaLog(consumer, settings.address, settings.topic_prefix, dict.fromkeys(there, partitions))
        log.on_progress = on_progress
        yield log

    return log
