"""Operators ask about machines and sources on a real Kafka: who is blind or absent, what cannot be used, and why."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from agents.delivery.partitioning import partition_function
from agents.kafka.admin import create_topics
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.states import KafkaStateStore
from agents.kafka.topic_settings import TopicSpec
from agents.kafka.topics import topic_specs
from agents.worker.worker import Worker
from pipeline.config.profile import parse_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.wire.records import Output
from tests.support.builders import SumRunner
from tests.support.commands import assert_one_line, faultline

pytestmark = pytest.mark.kafka

PARTITIONS = 2
WILD = 1_930_000_000_000
ANY_TIME = {"message.timestamp.after.max.ms": str(2**63 - 1)}  # as brokers before 3.6 have it
PLANT = """
plant: yard
machine_types:
  - name: pump
    match: "pump-*"
    frame_period: 1s
    max_gap_frames: 3
    sources:
      sensors: {topic: SITE.values, form: {machine: dev, time: {path: ts, unit: ms}, values: m}, idle_after: 30s}
    faults: [normal, leak, jam]
    variables: [{name: flow, tag: F}, {name: load, tag: L, valid: [0, 10]}]
ingest:
  - topic: SITE.gateway
    form: {machine: dev, time: {path: ts, unit: s}, name: tag, value: v}
"""


class Yard:
    """A plant with a foreign topic that the worker reads directly, and one for ingest."""

    def __init__(self, kafka: str, folder: Path) -> None:
        self.name = f"yard-{time.time_ns()}"
        text = PLANT.replace("SITE", self.name)
        self.file = folder / "yard.yaml"
        self.file.write_text(text)
        self.profile = parse_profile(text, where="test")
        self.settings: Settings = load_settings(
            broker=f"kafka://{kafka}", topic_prefix=f"{self.name}.", group=self.name, partitions=PARTITIONS
        )
        create_topics(kafka, topic_specs(self.settings, self.profile))
        create_topics(
            kafka, [TopicSpec(f"{self.name}.values", PARTITIONS, config=ANY_TIME), TopicSpec(f"{self.name}.gateway", 3)]
        )
        self.partition_of = partition_function(PARTITIONS)

    def reading(self, machine: str, time_ms: int, values: object, stamp_ms: int | None = None) -> Output:
        body = json.dumps({"dev": machine, "ts": time_ms, "m": values}).encode()
        stamp = time_ms if stamp_ms is None else stamp_ms
        topic = f"/{self.name}.values"
        return Output(topic, self.partition_of(machine.encode()), machine.encode(), body, stamp)

    def write(self, outputs: Sequence[Output]) -> None:
        async def publish() -> None:
            publisher = KafkaPublisher(self.settings.address, self.settings.topic_prefix)
            await publisher.start()
            await publisher.publish(outputs)
            await publisher.flush()
            await publisher.stop()

        asyncio.run(publish())

    def work(self) -> Worker:
        """A worker's life until everything is read."""

        async def live() -> Worker:
            address, prefix = self.settings.address, self.settings.topic_prefix
            worker = Worker(
                self.settings,
                self.profile,
                {"pump": SumRunner()},
                KafkaPublisher(address, prefix),
                partition_of=self.partition_of,
                wall_seconds=time.time,
                store=KafkaStateStore(address, prefix, self.partition_of),
                ticks=False,
            )
            await worker.start()
            deadline = time.monotonic() + 30
            while not worker.lag() or any(worker.lag().values()):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            await worker.stop()
            return worker

        return asyncio.run(live())

    def command(self, *arguments: str) -> tuple[int, str, str]:
        environment = {"COLUMNS": "250", "FAULTLINE_TOPIC_PREFIX": self.settings.topic_prefix}
        environment |= {"FAULTLINE_GROUP": self.name}
        return faultline(*arguments, "--broker", self.settings.broker, "--profile", str(self.file), env=environment)


def test_a_machine_with_a_wild_clock_is_seen_and_freed(kafka: str, tmp_path: Path) -> None:
    yard, now = Yard(kafka, tmp_path), int(time.time() * 1000)
    machines = [f"pump-{number}" for number in range(6)]
    good = [yard.reading(m, now - 60_000 + 1_000 * n, {"F": 1.0, "L": 2.0}) for n in range(50) for m in machines]
    yard.write([*good, yard.reading("pump-3", WILD, {"F": 1.0, "L": 2.0})])
    yard.work()
    code, out, _ = yard.command("machines", "list", "--json")
    listed = {one["machine"]: one for one in json.loads(out)["machines"]}
    assert code == 0 and listed.keys() == set(machines)
    assert listed["pump-3"]["newest_reading_ms"] == WILD
    assert listed["pump-1"]["state"] == "active"
    assert listed["pump-1"]["arrived_ms"] == {"sensors": now - 60_000 + 49_000}
    assert listed["pump-1"]["diagnosed_until_ms"] == (now - 60_000 + 49_000) // 1_000 * 1_000
    text = yard.command("machines", "list", "--state", "blind")[1]
    assert "pump-3" in text and "2031-" in text and "1 of 6 machines" in text

    assert yard.command("machines", "forget", "pump-3")[0] == 0
    later = int(time.time() * 1000)
    yard.write([yard.reading("pump-3", later + 1_000 * n, {"F": 1.0, "L": 2.0}) for n in range(5)])
    worker = yard.work()
    assert worker.engine.stats.forgotten == 1
    assert sum(worker.engine.stats.late.values()) == 0 and worker.engine.stats.frames == 4
    code, out, _ = yard.command("machines", "list", "--machine", "pump-3", "--json")
    (freed,) = json.loads(out)["machines"]
    assert (freed["state"], freed["newest_reading_ms"]) == ("active", later + 4_000)

    done = faultline(
        *("machines", "reset", "pump-99", "--broker", yard.settings.broker, "--profile", str(yard.file)),
        env={"FAULTLINE_TOPIC_PREFIX": yard.settings.topic_prefix},
    )
    assert_one_line(done, "no state of machine 'pump-99' is saved")


def test_sources_are_checked_by_the_workers_own_rules(kafka: str, tmp_path: Path) -> None:
    yard, now = Yard(kafka, tmp_path), int(time.time() * 1000)
    yard.write([yard.reading("pump-9", now - 10**6, {"F": 1.0, "L": 2.0})])
    yard.work()
    bad: list[object] = [{"F": "Bad", "L": 2.0}, {"F": 1.0, "L": 11.0}, {"F": 1.0, "rssi": -61}]
    records = [yard.reading("pump-1", now - 1_000 * n, bad[n % 3]) for n in range(30)]
    records += [yard.reading("pump-2", (now - 1_000 * n) // 1000, {"F": 1.0}, now - 1_000 * n) for n in range(10)]
    wrong = yard.reading("pump-1", now, {"F": 1.0})
    records += [wrong._replace(key=b"4711"), wrong._replace(partition=1 - (wrong.partition or 0))]
    gateway = [
        Output(f"/{yard.name}.gateway", 2, None, json.dumps(body).encode(), now)
        for body in (
            {"dev": "pump-1", "ts": now // 1000, "tag": "F", "v": 1.0},
            {"dev": "pump-1", "ts": now // 1000, "tag": "X", "v": 1.0},
            {"dev": "valve-7", "ts": now // 1000, "tag": "F", "v": 1.0},
        )
    ]
    yard.write(records + gateway)
    code, out, _ = yard.command("sources", "check", "--json")
    values, events, for_ingest = json.loads(out)
    assert code == 1
    assert (values["topic"], values["records"], values["lag"]) == (f"{yard.name}.values", 43, 42)
    assert values["reasons"] == {"bad_time": 10, "key_mismatch": 1, "wrong_partition": 1}
    assert values["share_used"] == pytest.approx(31 / 43)
    assert values["values_unused"] == {"flow not_a_number": 10, "load out_of_range": 10}
    assert values["unknown_names"] == {"rssi": 10}
    assert values["absent"] == ["pump-9"]
    assert (events["topic"], events["records"], events["lag"]) == ("events", 0, 0)
    assert for_ingest["reasons"] == {"unknown_machine": 1}
    assert for_ingest["unknown_names"] == {"X": 1}
    assert (for_ingest["machines"], for_ingest["lag"], for_ingest["share_used"]) == (2, 3, pytest.approx(2 / 3))
    text = yard.command("sources", "check")[1]
    assert "records not used: bad_time (10), " in text
    assert "key_mismatch (1)" in text and "names of no variable: rssi (10)" in text
    assert "absent: pump-9" in text
