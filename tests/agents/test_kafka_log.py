"""Reading Kafka topics to their end: order over partitions, ends that move, and a broker that falls silent."""

from __future__ import annotations

import pytest
from kafka import TopicPartition

from agents.kafka import log as kafka_log
from agents.kafka.log import KafkaLog, Unread
from pipeline.errors import BrokerUnavailableError
from pipeline.wire.records import Place
from tests.support.consumers import Consumer, Entry, stamped

ONE, TWO = TopicPartition("x.sensors", 0), TopicPartition("x.events", 0)


def opened(consumer: Consumer) -> KafkaLog:
    return KafkaLog(consumer, "broker:9092", "x.", {"sensors": 1, "events": 1})


def test_a_log_ends_where_its_topics_ended_when_it_was_opened() -> None:
    log = opened(Consumer(stamped({ONE: [1, 2, 3], TWO: [4]}), {ONE: 2, TWO: 1}))
    for _ in range(2):
        assert [(record.topic, record.offset) for record in log.records("sensors")] == [("sensors", 0), ("sensors", 1)]
    assert [record.headers for record in log.records("events")] == [(("h", b""),)]
    assert [*log.at([Place("sensors", 0, 1)])] == [Place("sensors", 0, 1)]


def test_partitions_are_merged_by_time_stamp_and_equal_ones_by_topic() -> None:
    log = opened(Consumer(stamped({ONE: [10, 30, 50], TWO: [10, 20, 60]})))
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
    stamps = stamped({ONE: [10, 30, 50], TWO: [20, 40]})
    known = {ONE: 1, TWO: 0}
    assert [record.timestamp_ms for record in opened(Consumer(stamps, known)).merged("sensors", "events")] == [10]
    followed = opened(Consumer(stamps, known)).merged("sensors", "events", follow_seconds=0)
    assert [record.timestamp_ms for record in followed] == [10, 20, 30, 40, 50]


def test_a_log_can_begin_at_a_time() -> None:
    progress: list[tuple[int, int | None]] = []
    log = opened(Consumer(stamped({ONE: [10, 30, 20, 50], TWO: [40, 60]})))
    log.on_progress = lambda done, total: progress.append((done, total))
    log.begin_at(["sensors"], 25)
    # A record behind the first one of that time may be older.
    assert [record.timestamp_ms for record in log.records("sensors")] == [30, 20, 50]
    assert progress[-1] == (3, 3)
    assert [record.timestamp_ms for record in log.merged("sensors", "events")] == [30, 20, 40, 50, 60]
    log.begin_at(["events"], 61)
    assert list(log.records("events")) == []


def test_a_partition_that_is_ahead_in_time_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "_WAITING_RECORDS", 40)
    monkeypatch.setattr(kafka_log, "_POLL_RECORDS", 10)
    # For each time of TWO there are many records of ONE, and as many of both come with each poll.
    stamps = {ONE: range(4_000), TWO: range(0, 4_000, 8)}
    consumer = Consumer(stamped(stamps), records=10, fair=True)
    most = 0
    merged = []
    for record in opened(consumer).merged("sensors", "events"):
        merged.append(record.timestamp_ms)
        most = max(most, sum(consumer.position(place) for place in stamps) - len(merged))
    assert merged == sorted([*stamps[ONE], *stamps[TWO]])
    assert most < 80


def test_a_broker_that_falls_silent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "_SILENT_SECONDS", 0.0)
    consumer = Consumer(stamped({ONE: [1, 2], TWO: []}))
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
