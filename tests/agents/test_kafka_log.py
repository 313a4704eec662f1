"""Reading Kafka topics to their end: order over partitions, ends that move, and a broker that falls silent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pytest
from kafka import TopicPartition

from agents.kafka import log as kafka_log
from agents.kafka.log import KafkaLog, Unread
from pipeline.errors import BrokerUnavailableError
from pipeline.wire.records import Place

ONE, TWO = TopicPartition("x.sensors", 0), TopicPartition("x.events", 0)


class Entry(NamedTuple):
    """A record as kafka-python has it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


class Consumer:
    """A consumer that gives one record of one partition with each poll."""

    def __init__(self, stamps: Mapping[TopicPartition, list[int]], known: Mapping[TopicPartition, int]) -> None:
        """`stamps` holds time stamps by partition; `known` is where the topics end at first."""
        self.entries = {
            place: [Entry(*place, offset, stamp, headers=(("h", None),)) for offset, stamp in enumerate(row)]
            for place, row in stamps.items()
        }
        self.silent = False
        self._ends = dict(known)
        self._positions = dict.fromkeys(stamps, 0)
        self._assigned: list[TopicPartition] = []
        self._paused: set[TopicPartition] = set()

    def assign(self, places: Iterable[TopicPartition]) -> None:
        self._assigned = list(places)

    def pause(self, *places: TopicPartition) -> None:
        self._paused.update(places)

    def paused(self) -> set[TopicPartition]:
        return set(self._paused)

    def resume(self, *places: TopicPartition) -> None:
        self._paused.difference_update(places)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._positions[place] = offset

    def position(self, place: TopicPartition) -> int:
        return self._positions[place]

    def beginning_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(places, 0)

    def end_offsets(self, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        ends = {place: self._ends[place] for place in places}
        self._ends = {place: len(row) for place, row in self.entries.items()}
        return ends

    def poll(self, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Entry]]:
        for place in self._assigned:
            at = self._positions[place]
            if not self.silent and place not in self._paused and at < len(self.entries[place]):
                self._positions[place] += 1
                return {place: self.entries[place][at : at + 1]}
        return {}


def opened(consumer: Consumer) -> KafkaLog:
    return KafkaLog(consumer, "broker:9092", "x.", {"sensors": 1, "events": 1})


def test_a_log_ends_where_its_topics_ended_when_it_was_opened() -> None:
    log = opened(Consumer({ONE: [1, 2, 3], TWO: [4]}, {ONE: 2, TWO: 1}))
    for _ in range(2):
        assert [(record.topic, record.offset) for record in log.records("sensors")] == [("sensors", 0), ("sensors", 1)]
    assert [record.headers for record in log.records("events")] == [(("h", b""),)]
    assert [*log.at([Place("sensors", 0, 1)])] == [Place("sensors", 0, 1)]


def test_partitions_are_merged_by_time_stamp_and_equal_ones_by_topic() -> None:
    log = opened(Consumer({ONE: [10, 30, 50], TWO: [10, 20, 60]}, {ONE: 3, TWO: 3}))
    merged = [(record.timestamp_ms, record.topic) for record in log.merged("events", "sensors")]
    assert merged == [
        (10, "events"),
        (10, "sensors"),
        (20, "events"),
        (30, "sensors"),
        (50, "sensors"),
        (60, "events"),
    ]


def test_who_follows_reads_what_came_after_the_log_was_opened() -> None:
    stamps = {ONE: [10, 30, 50], TWO: [20, 40]}
    known = {ONE: 1, TWO: 0}
    assert [record.timestamp_ms for record in opened(Consumer(stamps, known)).merged("sensors", "events")] == [10]
    followed = opened(Consumer(stamps, known)).merged("sensors", "events", follow_seconds=0)
    assert [record.timestamp_ms for record in followed] == [10, 20, 30, 40, 50]


def test_a_broker_that_falls_silent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "_SILENT_SECONDS", 0.0)
    consumer = Consumer({ONE: [1, 2], TWO: []}, {ONE: 2, TWO: 0})
    log = opened(consumer)
    consumer.silent = True
    with pytest.raises(BrokerUnavailableError, match="has sent nothing"):
        list(log.records("sensors"))
    with pytest.raises(BrokerUnavailableError, match="has sent nothing"):
        log.at([Place("sensors", 0, 0)])


def test_what_is_unread_shrinks_to_nothing() -> None:
    unread = Unread({"a": 0, "b": 5}, {"a": 2, "b": 5}, silent_seconds=60)
    assert unread.partitions == {"a"}
    assert unread.before_end("a", [Entry("a", 0, 1, 0), Entry("a", 0, 2, 0)]) == [Entry("a", 0, 1, 0)]
    assert unread.finish({"a": 1}) == set() and unread.finish({"a": 3}) == {"a"}
    assert not unread.partitions
