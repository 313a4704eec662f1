"""`faultline dead-letters`: what could not be used is shown, sent again as it was, and never in circles."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from typer.testing import CliRunner

from agents.audit.dead_letters import (
    REPLAY_OF,
    REPLAY_ORIGIN,
    REPLAYS,
    DeadLetter,
    Filters,
    as_dict,
    parse_since_ms,
    shown_time,
    summarize,
)
from agents.audit.letter_replay import ReplayedLetters, replay_dead_letters
from agents.audit.log import RecordLog
from agents.cli.main import app
from agents.kafka.admin import create_topics
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.topic_settings import TopicSpec
from agents.memory.broker import MemoryBroker
from agents.memory.publisher import MemoryPublisher
from pipeline.config.settings import load_settings
from pipeline.engine.engine import Engine
from pipeline.errors import DeliveryError, SettingsError, TopicMismatchError
from pipeline.wire.letters import dead_letter, fit_letter, late_record
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.records import Headers, Output, Place, Record
from tests.support.builders import SumRunner, profile, reading
from tests.support.commands import assert_one_line, faultline

T0 = 1_763_600_000_000
NOW = T0 + 3_600_000
S = 1_000
PARTITIONS = 4
ALL = Filters()


def bad(second: int, key: bytes | None = b"p1", value: bytes | None = b"{", headers: Headers = ()) -> Record:
    return Record("sensors", 2, 100 + second, T0 + second * S, key, value, headers)


def letter(record: Record, reason: Reason = Reason.NOT_JSON, detail: str = "as a test") -> Output:
    return dead_letter(record, RejectedError(reason, detail))


class Plant:
    """Topics in memory, and what reads and writes them."""

    def __init__(self, *letters: Output) -> None:
        self.broker = MemoryBroker()
        for topic in ("sensors", "events", "dead-letter"):
            self.broker.create(topic, PARTITIONS)
        for one in letters:
            self.broker.append(*one)
        self.log = RecordLog(lambda: [record for topic in ("dead-letter", "sensors") for record in self.of(topic)])

    def of(self, topic: str) -> list[Record]:
        return [record for partition in range(PARTITIONS) for record in self.broker.log(topic, partition)]

    def replay(self, filters: Filters = ALL, **options: Any) -> ReplayedLetters:
        before = {topic: self.of(topic) for topic in ("dead-letter", "sensors")}
        fixed = RecordLog(lambda: [record for records in before.values() for record in records])
        publisher = MemoryPublisher(self.broker)
        return asyncio.run(
            replay_dead_letters(fixed, filters, publisher, self.partitions_of, now_ms=NOW, **options)
        )  # fmt: skip

    def partitions_of(self, topics: Sequence[str]) -> dict[str, int]:
        for topic in topics:
            if self.broker.partitions_for_topic(topic) is None:
                raise TopicMismatchError(f"topic {topic} does not exist")
        return dict.fromkeys(topics, PARTITIONS)


# -- showing ---------------------------------------------------------------------------------------------------


def test_dead_letters_are_counted_by_reason_and_the_newest_or_oldest_are_shown() -> None:
    plant = Plant(
        *(letter(bad(second)) for second in (30, 10, 20)),
        letter(bad(5, b"p2", b'{"machine": "p2"}'), Reason.SCHEMA, "Object missing required field `time`"),
    )
    found = summarize(plant.log, ALL, keep=2, from_oldest=True)
    assert [one.timestamp_ms for one in summarize(plant.log, ALL, keep=2).letters] == [T0 + 30 * S, T0 + 20 * S]
    assert found.matched == 4
    assert found.reasons == {
        "not_json": {"count": 3, "oldest_ms": T0 + 10 * S, "newest_ms": T0 + 30 * S},
        "schema": {"count": 1, "oldest_ms": T0 + 5 * S, "newest_ms": T0 + 5 * S},
    }
    first, second = found.letters
    assert as_dict(first, []) == {
        "reason": "schema",
        "detail": "Object missing required field `time`",
        "topic": "sensors",
        "partition": 2,
        "offset": 105,
        "time": "2025-11-20T00:53:25.000+00:00",
        "key": "p2",
        "first_bytes": '{"machine": "p2"}',
        "bytes": 17,
        "truncated": False,
        "dead_letter": {"partition": 2, "offset": 3},
        "replays_before": 0,
        "replayed_to": [],
    }
    assert second.timestamp_ms == T0 + 10 * S


@pytest.mark.parametrize(
    ("filters", "offsets"),
    [
        (Filters(), [101, 102, 103, 104]),
        (Filters(reason="schema"), [102, 104]),
        (Filters(machine="p2"), [102, 103, 104]),
        (Filters(machine="p3"), []),
        (Filters(topic="events"), []),
        (Filters(since_ms=T0 + 3 * S), [103, 104]),
        (Filters(reason="schema", since_ms=T0 + 3 * S, topic="sensors"), [104]),
    ],
)
def test_filters(filters: Filters, offsets: list[int]) -> None:
    """A machine is found by its key, or in the value where the key is wrong."""
    plant = Plant(
        letter(bad(1)),
        letter(bad(2, b"p2"), Reason.SCHEMA),
        letter(bad(3, None, b'{"machine": "p2"}'), Reason.KEY_MISMATCH),
        letter(bad(4, b"p9", b'{"machine": "p2"}'), Reason.SCHEMA),
    )
    found = summarize(plant.log, filters, keep=9, from_oldest=True)
    assert [one.origin.offset for one in found.letters] == offsets
    assert found.matched == len(offsets)


def test_late_records_are_listed_with_how_late_they_were() -> None:
    broker = MemoryBroker()
    broker.create("late", PARTITIONS)
    for second, late_by_ms in ((1, 500), (2, 90_000)):
        late = late_record(
            bad(second), "as a test", reason=Reason.LATE, frame_end_ms=T0, closed_ms=T0 + S, late_by_ms=late_by_ms
        )
        broker.append(*late)
    found = summarize(RecordLog(lambda: broker.log("late", 2)), ALL, keep=1, topic="late")
    assert found.reasons == {
        "late": {
            "count": 2,
            "oldest_ms": T0 + S,
            "newest_ms": T0 + 2 * S,
            "least_late_ms": 500,
            "most_late_ms": 90_000,
        }
    }
    shown = as_dict(found.letters[0], [])
    assert (shown["late_record"], shown["late_by_ms"]) == ({"partition": 2, "offset": 1}, 90_000)
    assert not shown.keys() & {"dead_letter", "replayed_to"}


@pytest.mark.parametrize("value", [None, b"", b"\xff\x00\x80", b"[" * 5_000, '{"machine": "ü"}'.encode("latin-1")])
def test_any_bytes_can_be_shown_and_filtered(value: bytes | None) -> None:
    plant = Plant(letter(bad(1, b"\xff\xfe", value), Reason.NOT_JSON, "\x00 'quoted' ü"))
    assert summarize(plant.log, Filters(machine="p1")).matched == 0
    (one,) = summarize(plant.log, ALL, keep=1).letters
    shown = as_dict(one, [], first_bytes=10)
    assert json.loads(json.dumps(shown)) == shown
    assert shown["key"] == "\\xff\\xfe"
    assert shown["bytes"] == (None if value is None else len(value))


def test_what_is_no_dead_letter_is_counted_apart() -> None:
    headers = letter(bad(1)).headers
    broken = tuple(("faultline-offset", b"many") if name == "faultline-offset" else (name, v) for name, v in headers)
    plant = Plant(
        letter(bad(1)),
        Output("dead-letter", 0, None, b"from elsewhere", T0),
        Output("dead-letter", 0, None, b"{", T0, broken),
        Output("dead-letter", 0, None, None, T0, (("faultline-replayed-offset", b"x"),)),
    )
    found = summarize(plant.log, ALL)
    assert (found.matched, found.foreign) == (1, 3)
    assert plant.replay().replayed == {"sensors": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-11-20T00:53:20Z", T0),
        (str(T0), T0),
        ("2h", NOW - 7_200_000),
        ("1.5d", NOW - 129_600_000),
    ],
)
def test_since(text: str, expected: int) -> None:
    assert parse_since_ms(text, NOW) == expected


def test_bad_filters_are_named() -> None:
    def parse(**words: str) -> Filters:
        known: dict[str, Any] = {"reason": None, "machine": None, "topic": None, "since": None} | words
        return Filters.parse(load_settings(), now_ms=NOW, **known)

    assert parse(topic="faultline.sensors.fast").topic == "sensors.fast"
    with pytest.raises(SettingsError, match="wrong_partition"):
        parse(reason="bad")
    for words in ("yesterday", "2025-11-20T00:53:20", "-3h", "2025-13-01T00:00:00Z"):
        with pytest.raises(SettingsError, match="--since"):
            parse(since=words)


def test_times_that_no_calendar_has() -> None:
    assert [shown_time(time_ms) for time_ms in (-1, 2**62)] == [None, None]


# -- sending again ---------------------------------------------------------------------------------------------


def test_a_replay_sends_what_there_was_and_says_so_in_headers() -> None:
    plant = Plant(letter(bad(7, headers=(("trace", b"abc"),))))
    report = plant.replay()
    assert report.as_dict() == {
        "dry_run": False,
        "matched": 1,
        "replayed": {"sensors": 1},
        "already_replayed": 0,
        "came_back": 0,
        "truncated": 0,
        "refused": 0,
        "notes": [],
    }
    (sent,) = plant.of("sensors")
    assert (sent.key, sent.value, sent.timestamp_ms) == (b"p1", b"{", T0 + 7 * S)
    assert sent.headers == (
        ("trace", b"abc"),
        (REPLAYS, b"1"),
        (REPLAY_OF, b"dead-letter/2/0"),
        (REPLAY_ORIGIN, b"sensors/2/107"),
    )


def test_what_came_from_mqtt_is_not_sent_again() -> None:
    plant = Plant(letter(bad(1)._replace(topic="mqtt:plant/p1/values")), letter(bad(2)))
    report = plant.replay()
    assert (report.matched, report.refused, report.replayed) == (2, 1, {"sensors": 1})
    assert report.notes == []


def test_a_second_replay_sends_nothing_unless_told() -> None:
    plant = Plant(*(letter(bad(second)) for second in range(3)))
    assert plant.replay(limit=2).replayed == {"sensors": 2}
    second = plant.replay()
    assert (second.replayed, second.already_replayed) == ({"sensors": 1}, 2)
    third = plant.replay()
    assert (third.replayed, third.already_replayed) == ({}, 3)
    assert [one.timestamp_ms for one in plant.of("sensors")] == [T0, T0 + S, T0 + 2 * S]
    found = summarize(plant.log, ALL, keep=3)
    assert [found.sent_to(one) for one in found.letters] == [["sensors"]] * 3
    assert plant.replay(again=True).replayed == {"sensors": 3}
    assert plant.replay(to="events").replayed == {"events": 3}  # elsewhere they have not been


def test_what_comes_back_is_known_and_left_alone_unless_told() -> None:
    plant = Plant(letter(bad(1)))
    for count in range(1, 4):
        assert plant.replay(again=count > 1).replayed == {"sensors": 1}
        (sent,) = plant.of("sensors")
        plant = Plant(letter(sent, Reason.SCHEMA))  # it fails again
        (back,) = summarize(plant.log, ALL, keep=1).letters
        assert (back.replays, back.headers) == (count, ())
        report = plant.replay()
        assert (report.replayed, report.came_back) == ({}, 1)


def test_a_dry_run_sends_nothing() -> None:
    plant = Plant(letter(bad(1)), letter(bad(2), Reason.SCHEMA))
    report = plant.replay(Filters(reason="schema"), dry_run=True)
    assert (report.matched, report.replayed) == (1, {"sensors": 1})
    assert plant.of("sensors") == []
    assert len(plant.of("dead-letter")) == 2


def test_a_key_finds_its_own_partition_and_no_key_the_one_it_had() -> None:
    """So what lay in the wrong partition lies in the right one after its replay."""
    plant = Plant(letter(bad(1)._replace(partition=3), Reason.WRONG_PARTITION), letter(bad(2, None)))
    right = Plant()
    right.broker.append("sensors", None, b"p1", b"", 0)
    plant.replay()
    assert [one.partition for one in plant.of("sensors") if one.key] == [right.of("sensors")[0].partition] != [3]
    assert [one.partition for one in plant.of("sensors") if not one.key] == [2]


def test_time_stamps_stay_and_what_follows_from_that_is_said() -> None:
    plant = Plant(letter(bad(1), Reason.FUTURE_TIME), letter(bad(2)._replace(timestamp_ms=-1)))
    report = plant.replay()
    assert sorted(one.timestamp_ms for one in plant.of("sensors")) == [T0 + S, NOW]
    assert ["max_skew" in note or "no time stamp" in note for note in report.notes] == [True, True]


def test_what_was_cut_off_is_not_sent() -> None:
    whole = letter(bad(1, value=b"x" * 5_000))
    plant = Plant(fit_letter(whole, 2_000), letter(bad(2)))
    report = plant.replay()
    assert (report.replayed, report.truncated) == ({"sensors": 1}, 1)
    shown = as_dict(summarize(plant.log, ALL, keep=1, from_oldest=True).letters[0], [])
    assert (shown["truncated"], shown["bytes"]) == (True, 5_000)


def test_where_nothing_may_be_sent() -> None:
    plant = Plant(letter(bad(1)._replace(topic="diagnoses")), letter(bad(2)))
    report = plant.replay()
    assert (report.replayed, report.refused) == ({"sensors": 1}, 1)
    with pytest.raises(SettingsError, match="input topic"):
        plant.replay(to="dead-letter")
    with pytest.raises(TopicMismatchError, match="nowhere"):
        plant.replay(to="nowhere", again=True)
    with pytest.raises(TopicMismatchError, match="gone"):
        Plant(letter(bad(2)._replace(topic="gone"))).replay()


def test_a_replay_that_breaks_off_says_how_far_it_came() -> None:
    plant = Plant(*(letter(bad(second)) for second in range(700)))

    class Failing(MemoryPublisher):
        published = 0

        async def publish(self, outputs: Sequence[Output]) -> None:
            self.published += len(outputs)
            if self.published > 1_000:  # the first batch and its notes, and no more
                raise DeliveryError("the broker is full")
            await super().publish(outputs)

    log = RecordLog(lambda: plant.of("dead-letter")[:700])
    with pytest.raises(DeliveryError, match="after 500 replayed dead letters: the broker is full"):
        asyncio.run(replay_dead_letters(log, ALL, Failing(plant.broker), plant.partitions_of, now_ms=NOW))
    report = plant.replay()
    assert (report.already_replayed, report.replayed) == (500, {"sensors": 200})
    assert len({one.timestamp_ms for one in plant.of("sensors")}) == len(plant.of("sensors")) == 700


def test_an_engine_takes_a_replayed_record_and_marks_one_that_fails_again() -> None:
    """The whole circle: bad input, dead letter, replay, a profile put right for one of them."""
    inputs = [
        reading("q1", T0, [1.0, 2.0]),
        Record("sensors", 0, 1, T0, b"p1", b"{"),
    ]
    narrow = profile(PROFILE.format("p*"))
    plant = Plant(*Engine(narrow, {"pump": SumRunner()}).process(inputs))
    assert plant.replay().replayed == {"sensors": 2}
    outputs = Engine(profile(PROFILE.format("*")), {"pump": SumRunner()}).process(plant.of("sensors"))
    (rejected,) = [out for out in outputs if out.topic == "dead-letter"]
    back = DeadLetter.of(Record("dead-letter", 0, 9, rejected.timestamp_ms, *rejected[2:4], rejected.headers))
    assert back is not None
    assert (back.reason, back.value, back.replays) == ("not_json", b"{", 1)
    assert back.place == Place("dead-letter", 0, 9)


PROFILE = """
plant: small
machine_types:
  - name: pump
    match: "{}"
    frame_period: 10s
    faults: [normal, leak, jam]
    variables: [{{name: flow}}, {{name: load}}]
"""

# -- the commands ----------------------------------------------------------------------------------------------


def command(*words: str) -> Any:
    return CliRunner().invoke(app, ["dead-letters", *words])


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--broker", "kafka://127.0.0.1:1"], "127.0.0.1:1"),
        (["--broker", "memory://x"], "kafka://host:port"),
        (["--since", "yesterday"], "--since"),
    ],
)
def test_why_late_records_cannot_be_listed_is_one_clear_error(options: list[str], word: str) -> None:
    assert_one_line(faultline("late", "list", *options), word)


@pytest.mark.parametrize("what", ["list", "replay"])
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--broker", "kafka://127.0.0.1:1"], "127.0.0.1:1"),
        (["--broker", "memory://x"], "kafka://host:port"),
        (["--reason", "bad"], "not_json"),
        (["--since", "yesterday"], "--since"),
    ],
)
def test_what_cannot_be_done_is_one_clear_error(what: str, options: list[str], word: str) -> None:
    done = command(what, *options)
    assert type(done.exception).__module__ == "pipeline.errors"
    assert word in str(done.exception)
    assert "\n" not in str(done.exception)


@pytest.mark.kafka
def test_dead_letters_of_a_real_broker(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"dead-{uuid.uuid4().hex[:8]}."
    monkeypatch.setenv("FAULTLINE_BROKER", f"kafka://{kafka}")
    monkeypatch.setenv("FAULTLINE_TOPIC_PREFIX", prefix)
    assert "topics create" in str(command("list").exception)
    create_topics(kafka, [TopicSpec(prefix + topic, PARTITIONS) for topic in ("sensors", "dead-letter")])
    assert "0 dead letters" in command("list").stdout
    assert "0 dead letters match" in command("replay").stdout

    inputs = [
        bad(1, headers=(("trace", b"abc"),)),
        bad(2, None),
        bad(3, b"p3", None),
        bad(4, b"p4", b"\x00\xff" * 300),
        reading("p5", T0 + 99_000 * S, [1.0, 2.0], offset=105, timestamp_ms=T0 + 5 * S),
    ]
    outputs = Engine(profile(), {"pump": SumRunner()}).process(inputs)
    assert [out.topic for out in outputs] == ["dead-letter"] * len(inputs)
    publish(kafka, prefix, outputs)

    done = command("list", "--limit", "2", "--oldest")
    assert done.exit_code == 0, done.exception
    assert "5 dead letters" in done.stdout and "future_time" in done.stdout and "offset 101, key 'p1'" in done.stdout
    found = json.loads(command("list", "--json", "--limit", "3").stdout)
    assert [one["offset"] for one in found["shown"]] == [105, 104, 103]
    found = json.loads(command("list", "--json", "--oldest").stdout)
    assert [one["offset"] for one in found["shown"]] == [101, 102, 103, 104, 105]
    assert found["shown"][3]["first_bytes"].startswith("\x00\\xff")

    assert "1  would be sent" in command("replay", "--dry-run", "--reason", "future_time").stdout
    assert read(kafka, f"{prefix}sensors") == []
    done = command("replay")
    assert done.exit_code == 0, done.exception
    assert f"5  sent to {prefix}sensors" in done.stdout and "max_skew" in done.stdout
    there = read(kafka, f"{prefix}sensors")
    assert sorted((one.timestamp_ms, one.key, one.value) for one in there) == [
        (one.timestamp_ms, one.key, one.value) for one in inputs
    ]
    assert next(one for one in there if one.key == b"p1").headers[0] == ("trace", b"abc")
    assert {dict(one.headers)[REPLAYS] for one in there} == {b"1"}
    assert json.loads(command("replay", "--json").stdout)["already_replayed"] == 5

    # The worker reads them again: what still is bad comes back, and stays.
    again = [one._replace(topic="sensors") for one in there]
    publish(kafka, prefix, Engine(profile(), {"pump": SumRunner()}).process(again))
    report = json.loads(command("replay", "--json").stdout)
    assert (report["matched"], report["already_replayed"], report["came_back"]) == (10, 5, 5)
    assert "5 from replays" in command("list").stdout
    assert len(read(kafka, f"{prefix}sensors")) == 5
    assert json.loads(command("replay", "--again", "--limit", "1", "--json").stdout)["replayed"] == {"sensors": 1}


def publish(bootstrap: str, prefix: str, outputs: list[Output]) -> None:
    async def send() -> None:
        publisher = KafkaPublisher(bootstrap, prefix)
        await publisher.start()
        try:
            await publisher.publish(outputs)
            await publisher.flush()
        finally:
            await publisher.stop()

    asyncio.run(send())


def read(bootstrap: str, topic: str) -> list[Record]:
    """Everything in a topic."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, group_id=None)
    try:
        places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        found: list[Record] = []
        while any(consumer.position(place) < ends[place] for place in places):
            for entries in consumer.poll(timeout_ms=200).values():
                found += [
                    Record(one.topic, one.partition, one.offset, one.timestamp, one.key, one.value, tuple(one.headers))
                    for one in entries
                ]
        return found
    finally:
        consumer.close()
