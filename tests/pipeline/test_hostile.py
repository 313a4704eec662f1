"""Hostile input: whatever comes, the worker goes on, diagnoses are as ever, and every bad record is kept."""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.delivery.partitioning import partition_of
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.states import KafkaStateStore
from agents.worker.worker import Worker
from pipeline.config.profile import parse_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import DEAD_LETTER, DIAGNOSES, LABELS, LATE, full_topic_name
from pipeline.engine.engine import Engine
from pipeline.errors import DeliveryError
from pipeline.wire import messages
from pipeline.wire.letters import dead_letter, fit_letter
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.records import Output, Record
from tests.support.builders import SumRunner, control, event, profile, reading, reasons
from tests.support.delivery_apps import run
from tests.support.hostile import (
    INPUT_BYTES,
    PUMPS,
    Fuzz,
    Ledger,
    Sent,
    Target,
    create_wide_topics,
    mixed_traffic,
    record_of,
)
from tests.support.hostile_foreign import ALL_KINDS
from tests.support.hostile_forms import CHANGES, FORMS, Schemas, foreign_plant
from tests.support.plant import Plant

TARGET = Target(large_bytes=2_000_000)
FOREIGN = TARGET._replace(forms=FORMS)
TICKING = TARGET._replace(forms=(*FORMS, CHANGES), ticks=True)
INPUT_TOPICS = 4  # sensors, events, control, labels

LABELS_WRONG = [
    (None, None, "empty"),
    (b"m", b"\xff", "not_json"),
    (b"m", b'{"machine":"m","start":1}', "schema"),
    (b"", b'{"machine":"","start":1,"fault":"leak"}', "schema"),
    (b"m", b'{"machine":"m","start":1,"fault":"%s"}' % (b"x" * 100_000), "schema"),
    (b"n", b'{"machine":"m","start":1,"fault":"leak"}', "key_mismatch"),
    (b"m", b'{"machine":"m","start":2,"end":1,"fault":"leak"}', "bad_time"),
    (b"m", b'{"machine":"m","start":"9999-12-31T23:59:59-14:00","fault":"leak"}', "bad_time"),
]


def letters(ledger: Ledger, records: Sequence[Record] | Sequence[Output]) -> None:
    for record in records:
        ledger.letter(record.key, record.value, record.headers)


def said(records: Sequence[Record] | Sequence[Output]) -> dict[str, bytes]:
    """What was diagnosed of the machines with good traffic, by id."""
    found = {}
    for record in records:
        if record.value and record.value.startswith(b'{"id":"') and b"decoy" not in (record.key or b""):
            found[messages.decode_diagnosis(record.value).id] = record.value
    return found


def new_engine(target: Target) -> Engine:
    plant = parse_profile(foreign_plant(PUMPS, target.forms, target.prefix), where="test")
    runners = {kind.name: SumRunner() for kind in plant.machine_types}
    return Engine(plant, runners, partition_of=target.partition_of, schemas=Schemas())


def undisturbed(sent: Sequence[Sent], target: Target = TARGET) -> dict[str, bytes]:
    """What the engine says of the good records alone, in one go."""
    ledger = Ledger()
    good = [record_of(one, ledger.sent(one)) for one in sent if one.kind == "good"]
    good.sort(key=attrgetter("timestamp_ms"))
    return said([out for out in new_engine(target).process(good) if out.topic == DIAGNOSES])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "hostile", "per_good"),
    [(TARGET, 2_000, 1.0), (FOREIGN, 3_000, 1.0), (FOREIGN, 60, 0.02), (TICKING, 1_000, 1.0)],
    ids=["native", "foreign", "few among blocks", "with ticks"],
)
def test_thousands_of_hostile_records_change_nothing_and_are_all_kept(
    target: Target, hostile: int, per_good: float
) -> None:
    sent = list(mixed_traffic(target, hostile, per_good=per_good, kinds=ALL_KINDS if target.forms else None))
    text = foreign_plant(PUMPS, target.forms, target.prefix)
    ledger, plant = Ledger(), Plant(text, target.partitions, chunk_records=1_000)
    for key, value, reason in LABELS_WRONG:
        sent.append(Sent("label", Output(LABELS, 0, key, value, 1), frozenset({reason})))
    for one in sent:
        place = ledger.sent(one)
        output = one.output._replace(topic=full_topic_name("", one.output.topic))
        assert plant.broker.append(*output) == place[2]
    worker = asyncio.run(plant.work(seconds=120, schemas=Schemas()))
    letters(ledger, plant.log(DEAD_LETTER) + plant.log(LATE))
    assert ledger.close() == []
    assert sum(ledger.kinds.values()) - ledger.kinds["good"] == hostile + len(LABELS_WRONG)
    assert said(plant.log(DIAGNOSES)) == undisturbed(sent, target) != {}
    stats = worker.engine.stats
    assert sum(stats.dead_letters.values()) == len(plant.log(DEAD_LETTER))
    assert sum(stats.values_unused.values()) == ledger.unused > 0


def test_each_kind_alone_is_kept_whatever_the_seed() -> None:
    for seed in range(3):
        fuzz, ledger = Fuzz(FOREIGN, seed, ALL_KINDS), Ledger()
        engine = new_engine(FOREIGN)
        start = [one for one in mixed_traffic(FOREIGN, 0) if one.kind == "good"]
        outputs = engine.process([record_of(one, ledger.sent(one)) for one in start])
        now = start[-1].output.timestamp_ms
        waiting = {"event", "foreign_alarm"}  # a text from long ago is late only when its machine's next frame closes
        kinds = [name for name in fuzz._names if name not in waiting]
        for kind in kinds:
            for _ in range(3):
                one = fuzz.of_kind(kind, now)
                outputs += engine.process([record_of(one, ledger.sent(one))])
        letters(ledger, [out for out in outputs if out.topic in (DEAD_LETTER, LATE)])
        assert ledger.close() == []


def test_the_ledger_notices_what_goes_wrong() -> None:
    """The checks above can fail: a letter that is missing, twice, altered, or wrongly explained is found."""
    fuzz = Fuzz(TARGET, 3)

    def problems(change: dict[str, object], times: int = 1, reason: bytes = b"empty") -> str:
        ledger = Ledger()
        one = fuzz.sent(5, b"k", None, "empty")
        place = ledger.sent(one._replace(kind="empty"))
        rejected = RejectedError(Reason(reason.decode()), "it is")
        letter = dead_letter(record_of(one, place), rejected)._replace(**change)  # type: ignore[arg-type]
        for _ in range(times):
            ledger.letter(letter.key, letter.value, letter.headers)
        return " ".join(ledger.close())

    assert problems({}) == ""
    assert "has no letter" in problems({}, times=0)
    assert "a second one" in problems({}, times=2)
    assert "is not as it was" in problems({"value": b""})
    assert "is not as it was" in problems({"key": b"other"})
    assert "was refused as late" in problems({}, reason=b"late")
    assert "gives no reason" in problems({"headers": ()})


def test_a_flood_of_machine_ids_is_forgotten_after_their_time_to_live_and_leaves_its_room_to_others() -> None:
    engine = Engine(profile(), {"pump": SumRunner()}, partition_of=lambda key: 0)
    group, day, offset = engine.groups["pump"], 86_400_000, 0
    sizes = []
    for wave in range(3):
        now = (100 + 10 * wave) * day
        ids = [f"flood-{wave}-{number}" for number in range(2_000)]
        offset += len(ids)
        engine.process([reading(id_, now, [1.0, 2.0], offset=offset + at) for at, id_ in enumerate(ids)])
        assert engine.machines == 2_000
        sizes.append(len(group.machines))
        engine.process([control("tick", time_ms=now + 8 * day, offset=offset + 1)])
        assert engine.machines == 0
        assert len(engine.checkpoint()) == 2_000  # the tombstones of their states
    assert sizes[1:] == sizes[:-1] == [2_000, 2_000]


def test_a_record_that_makes_no_sense_makes_no_machine() -> None:
    engine = Engine(profile(), {"pump": SumRunner()}, partition_of=lambda key: 0)
    engine.process([reading("p1", 5, [1.0, 2.0])])
    engine.process([reading(f"new-{number}", 5, [1.0], offset=number) for number in range(50)])
    assert engine.machines == 1


@pytest.mark.parametrize("stamp", [-1, 2**42, 2**63 - 1])
def test_a_forged_time_stamp_among_many_good_records_is_found(stamp: int) -> None:
    engine = Engine(profile(), {"pump": SumRunner()}, partition_of=lambda key: 0)
    good = [reading("p1", 1_000 + at, [1.0, 2.0], offset=at) for at in range(2_000)]
    engine.process(good[:1])
    good[1_000] = good[1_000]._replace(timestamp_ms=stamp)
    assert reasons(engine.process(good[1:])) == ["bad_time"]
    assert engine.clock_ms(0) == 2_999


def test_headers_of_an_event_are_bounded_since_they_are_kept_with_its_machines_state() -> None:
    engine = Engine(profile(), {"pump": SumRunner()}, partition_of=lambda key: 0)
    heavy = event("p1", 5, "smells")._replace(headers=(("pad", b"x" * 70_000),))
    assert reasons(engine.process([heavy])) == ["too_large"]


# -- dead letters that are too large --------------------------------------------------------------------------------


def letter(key: bytes, value: bytes | None, headers: tuple[tuple[str, bytes], ...] = ()) -> Output:
    record = Record("sensors", 0, 41, 5, key, value, headers)
    return dead_letter(record, RejectedError(Reason.NOT_JSON, "no"))


@pytest.mark.parametrize(
    ("key", "value", "headers"),
    [
        (b"k", b"v" * 50_000, ()),
        (b"k" * 50_000, b"v" * 50_000, ()),
        (b"k" * 50_000, None, ()),
        (b"k", b"v", (("h", b"x" * 50_000),)),
        (b"k" * 50_000, b"v" * 50_000, (("faultline-reason", b"x" * 50_000), ("h" * 50_000, b""))),
    ],
)
def test_a_letter_larger_than_its_topic_takes_is_cut_and_says_so(
    key: bytes, value: bytes | None, headers: tuple[tuple[str, bytes], ...]
) -> None:
    cut = fit_letter(letter(key, value, headers), 10_000)
    own = dict(cut.headers)
    size = len(cut.key or b"") + len(cut.value or b"") + sum(len(name) + len(text) for name, text in cut.headers)
    assert 1_000 < size < 10_000 or len(value or b"") + len(key) < 1_000
    assert size < 10_000
    assert own["faultline-truncated"] == b"true"
    assert (own["faultline-reason"], own["faultline-offset"]) == (b"not_json", b"41")
    assert own["faultline-value-sha256"].decode() == hashlib.sha256(value or b"").hexdigest()
    assert own["faultline-value-bytes"] == b"%d" % len(value or b"")
    assert own["faultline-key-bytes"] == b"%d" % len(key)
    assert key.startswith(cut.key or b"") and (value is None) == (cut.value is None)
    assert (value or b"").startswith(cut.value or b"")
    if headers:
        assert own["faultline-headers-dropped"] == b"%d" % len(headers)


# -- on a real Kafka ------------------------------------------------------------------------------------------------


class KafkaYard:
    """The pumps' topics on a real broker, whose input topics take records of 11 MiB."""

    def __init__(self, bootstrap: str, **settings: object) -> None:
        name = uuid.uuid4().hex[:8]
        self.bootstrap = bootstrap
        self.settings: Settings = load_settings(
            broker=f"kafka://{bootstrap}",
            topic_prefix=f"h{name}.",
            group=f"h{name}",
            partitions=TARGET.partitions,
            checkpoint_interval_ms=100,
            **settings,
        )
        self.profile = parse_profile(PUMPS, where="test")
        create_wide_topics(bootstrap, self.settings, self.profile)

    def worker(self) -> Worker:
        prefix = self.settings.topic_prefix

        def where(key: bytes) -> int:
            return partition_of(key, TARGET.partitions)

        return Worker(
            self.settings,
            self.profile,
            {"pump": SumRunner()},
            KafkaPublisher(self.bootstrap, prefix),
            partition_of=where,
            wall_seconds=time.time,
            store=KafkaStateStore(self.bootstrap, prefix, where),
            ticks=False,
        )

    async def send(self, outputs: Sequence[Output]) -> None:
        producer = KafkaPublisher(self.bootstrap, self.settings.topic_prefix, record_bytes=INPUT_BYTES)
        await producer.start()
        try:
            await producer.publish(outputs)
            await producer.flush()
        finally:
            await producer.stop()

    async def work(self, seconds: float = 60.0) -> None:
        """Let a worker read everything."""
        worker = self.worker()
        await worker.start()
        try:
            async with asyncio.timeout(seconds):
                while len(lag := worker.lag()) < INPUT_TOPICS * TARGET.partitions or any(lag.values()):
                    assert worker.life.failure is None, worker.life.failure
                    await asyncio.sleep(0.05)
        finally:
            await worker.stop()

    async def read(self, topic: str) -> list[Record]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        places = [TopicPartition(self.settings.topic_prefix + topic, number) for number in range(TARGET.partitions)]
        consumer.assign(places)
        try:
            missing = sum((await consumer.end_offsets(places)).values())
            records: list[Record] = []
            while len(records) < missing:
                for found in (await consumer.getmany(timeout_ms=1_000)).values():
                    for r in found:
                        place = topic, r.partition, r.offset, r.timestamp
                        records.append(Record(*place, r.key, r.value, tuple(r.headers)))
            return records
        finally:
            await consumer.stop()


@pytest.mark.kafka
def test_hostile_records_and_values_of_ten_megabytes_on_kafka(kafka: str) -> None:
    yard, ledger = KafkaYard(kafka), Ledger()
    sent = list(mixed_traffic(TARGET, 2_000))
    fuzz = Fuzz(TARGET._replace(large_bytes=10_000_000), 5)
    now = sent[-1].output.timestamp_ms
    half = len(sent) // 2
    sent[half:half] = [fuzz.of_kind("huge_value", sent[half].output.timestamp_ms) for _ in range(4)]
    sent.append(fuzz.of_kind("huge_value", now))
    # Kafka has headers without a value, and a record may be as large as a topic takes by default.
    no_value: Any = (("trace", None), ("", b""))
    sent.append(fuzz.sent(now, "pump-00001", b"{", "not_json", headers=no_value)._replace(kind="null_header"))
    sent.append(fuzz.sent(now, "pump-00001", b"x" * 1_048_400, "not_json")._replace(kind="default_limit"))
    for one in sent:
        ledger.sent(one)

    async def test() -> None:
        await yard.send([one.output for one in sent])
        await yard.work()
        letters(ledger, await yard.read(DEAD_LETTER) + await yard.read(LATE))
        assert ledger.close() == []
        assert said(await yard.read(DIAGNOSES)) == undisturbed(sent) != {}

    run(test(), seconds=120)


@pytest.mark.kafka
def test_a_letter_beyond_the_limit_arrives_cut_and_an_impossible_time_stamp_is_told(kafka: str) -> None:
    yard = KafkaYard(kafka)

    async def test() -> None:
        publisher = KafkaPublisher(kafka, yard.settings.topic_prefix, letter_bytes=2_000_000)
        await publisher.start()
        await publisher.publish([letter(b"k", b"v" * 1_900_000), letter(b"k", b"v" * 2_100_000)])
        await publisher.flush()
        whole, cut = await yard.read(DEAD_LETTER)
        assert whole.value == b"v" * 1_900_000
        assert 1_900_000 < len(cut.value or b"") < 2_000_000
        assert dict(cut.headers)["faultline-value-bytes"] == b"2100000"
        with pytest.raises(DeliveryError, match="dead-letter"):
            await publisher.publish([letter(b"k", b"v")._replace(timestamp_ms=2**70)])
            await publisher.flush()
        await publisher.stop()

    run(test())
