"""Wrong clocks on a real Kafka: of a machine, of a worker's host, and of a worker that was there before."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agents.kafka.publisher import KafkaPublisher
from agents.worker.worker import Worker
from pipeline.wire import messages
from pipeline.wire.letters import origin_of
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, reading
from tests.support.commands import faultline
from tests.support.delivery_apps import run
from tests.support.kafka_plant import FRAME_MS, KafkaSite, ends, metric

pytestmark = pytest.mark.kafka

MACHINES = ("p1", "p2", "p6", "p7", "p8", "p9")  # in both partitions
IN_2099 = 4_080_000_000_000
TEN_DAYS_S = 864_000
PLANT = f"{ONE_SOURCE.rstrip()}\n    state_ttl: 1h\n"


class Site(KafkaSite):
    """A plant whose readings are of these minutes, and a worker that ticks often."""

    def __init__(self, kafka: str, folder: Path) -> None:
        self.file = folder / "plant.yaml"
        self.file.write_text(PLANT)
        super().__init__(kafka, text=PLANT, tick_interval_ms=100)
        self.begin_ms = int(time.time() * 1000) // FRAME_MS * FRAME_MS - 60 * FRAME_MS
        self.frames = 0
        for topic in ("sensors", "control"):
            self.configure(topic, {"message.timestamp.after.max.ms": str(2**63 - 1)})  # as a topic that others made

    def next_readings(self, frames: int, machines: Sequence[str] = MACHINES) -> list[Record]:
        """So many frames that go on where the last ended."""
        first = self.begin_ms + self.frames * FRAME_MS
        self.frames += frames
        times = range(first, first + frames * FRAME_MS, 2_500)
        return [reading(machine, time_ms, [1.0, 2.0]) for time_ms in times for machine in machines]

    def wanted(self, frames: int) -> list[int]:
        return [self.begin_ms + n * FRAME_MS for n in range(1, frames + 1)]

    async def write(self, outputs: Sequence[Output]) -> None:
        publisher = KafkaPublisher(self.bootstrap, self.settings.topic_prefix)
        await publisher.start()
        await publisher.publish(outputs)
        await publisher.flush()
        await publisher.stop()

    async def seen(self, worker: Worker, frames: int, machines: Sequence[str] = MACHINES) -> None:
        """Wait until these machines are diagnosed frame by frame, from the first to this one."""
        deadline = time.monotonic() + 60
        while True:
            found = await self.diagnoses()
            if all(ends(found, machine)[:frames] == self.wanted(frames) for machine in machines):
                return
            assert worker.life.failure is None, worker.life.failure
            assert time.monotonic() < deadline, {m: ends(found, m)[-3:] for m in machines}
            await asyncio.sleep(0.2)

    def command(self, *arguments: str) -> Any:
        environment = {"FAULTLINE_TOPIC_PREFIX": self.settings.topic_prefix, "FAULTLINE_GROUP": self.settings.group}
        return faultline(*arguments, "--broker", self.settings.broker, "--profile", str(self.file), env=environment)

    def assert_proven(self) -> None:
        """No diagnosis is missing, none has two contents, and every reading is accounted for."""
        done = self.command("verify", "--inputs", "--json")
        assert done.returncode == 0, done.stdout + done.stderr

    def assert_ticks_are_of_now(self) -> None:
        """What workers have written to the control topic, they say of the present."""
        ticks = [r for r in self.records("control") if b"tick" in (r.value or b"") and r.timestamp_ms < IN_2099]
        assert ticks
        assert max(tick.timestamp_ms for tick in ticks) < time.time() * 1000 + 60_000


def test_records_and_ticks_of_2099_move_nobodys_clock(kafka: str, tmp_path: Path) -> None:
    run(_in_2099(Site(kafka, tmp_path)), 180)


async def _in_2099(site: Site) -> None:
    await site.send(site.next_readings(10))
    wild = [reading("p1", IN_2099, [9.0, 9.0]), reading("p2", IN_2099 + 1, [9.0, 9.0])]
    async with site.working() as worker:
        await site.seen(worker, 9)
        await site.write([messages.tick(IN_2099 + 2, partition) for partition in range(2)])
        await site.send(wild)
        await site.send(site.next_readings(10))
        await site.seen(worker, 19)
        assert metric(worker, "faultline_machines_evicted_total") == 0
        assert metric(worker, "faultline_dead_letters_total", reason="future_time") == 4
    # What is in the topics for good does no harm to the next worker either, and what it begins with is right.
    await site.write([messages.tick(IN_2099 + 3, partition) for partition in range(2)])
    async with site.working() as worker:
        await site.send(site.next_readings(10))
        await site.seen(worker, 29)
        await asyncio.sleep(1.0)  # ten ticks
        assert metric(worker, "faultline_machines_evicted_total") == 0
        assert metric(worker, "faultline_machines") == len(MACHINES)
    letters = await asyncio.to_thread(site.records, "dead-letter")
    reasons = [origin.reason for one in letters if (origin := origin_of(one.headers)) is not None]
    assert reasons == ["future_time"] * 6
    site.assert_ticks_are_of_now()
    site.assert_proven()


@pytest.mark.parametrize("step_s", [TEN_DAYS_S, -TEN_DAYS_S], ids=["ahead", "back"])
def test_a_host_whose_clock_steps_by_ten_days_diagnoses_as_ever(kafka: str, tmp_path: Path, step_s: int) -> None:
    run(_stepped(Site(kafka, tmp_path), step_s), 180)


async def _stepped(site: Site, step_s: int) -> None:
    ahead_s = [0]
    await site.send(site.next_readings(10))
    async with site.working(wall_seconds=lambda: time.time() + ahead_s[0]) as worker:
        await site.seen(worker, 9)
        ahead_s[0] = step_s
        await asyncio.sleep(1.0)  # ten ticks by a wrong clock
        await site.send(site.next_readings(10))
        await site.seen(worker, 19)
        ahead_s[0] = 0
        await asyncio.sleep(0.5)
        await site.send(site.next_readings(5))
        await site.seen(worker, 24)
        assert metric(worker, "faultline_machines_evicted_total") == 0
        assert worker.life.failure is None
    async with site.working(wall_seconds=lambda: time.time() + step_s) as worker:  # one that begins with it
        await site.send(site.next_readings(5))
        await site.seen(worker, 29)
        assert metric(worker, "faultline_machines_evicted_total") == 0
    assert await asyncio.to_thread(site.records, "dead-letter") == []
    site.assert_ticks_are_of_now()
    site.assert_proven()


def test_a_machine_that_was_ahead_is_freed_by_a_reset(kafka: str, tmp_path: Path) -> None:
    run(_freed(Site(kafka, tmp_path)), 180)


async def _freed(site: Site) -> None:
    others = [machine for machine in MACHINES if machine != "p1"]
    fifty_minutes = 3_000_000
    right = site.next_readings(10)
    sent = []
    for one in right:
        if one.key == b"p1":
            body = json.loads(one.value or b"")
            ahead_ms = body["time"] + fifty_minutes
            sent.append(reading("p1", ahead_ms, [1.0, 2.0]))  # its record's stamp is its own clock's as well
        else:
            sent.append(one)
    await site.send(sent)
    async with site.working() as worker:
        await site.seen(worker, 9, others)
        await site.send(site.next_readings(5))  # p1's clock is right again
        await site.seen(worker, 14, others)
        late = metric(worker, "faultline_late_total", topic="sensors")
        assert late > 0
        # The others are told of as they are: the furthest behind of them is minutes behind, not ahead.
        lags = [
            sample.value
            for family in worker.registry.collect()
            for sample in family.samples
            if sample.name == "faultline_oldest_event_time_lag_seconds"
        ]
        assert lags and min(lags) > 0, lags
        done = await asyncio.to_thread(site.command, "machines", "reset", "p1")
        assert done.returncode == 0, done.stderr
        before = site.frames
        await asyncio.sleep(1.0)
        await site.send(site.next_readings(10))
        await site.seen(worker, before + 9, others)
        found = [end for end in ends(await site.diagnoses(), "p1") if end <= site.wanted(site.frames)[-1]]
        assert found[-8:] == site.wanted(site.frames - 1)[-8:], found
        assert metric(worker, "faultline_machines_evicted_total") == 0
    # Its frames went back to the present, as they should; none of any machine has two contents or is missing.
    verified = json.loads(site.command("verify", "--inputs", "--json").stdout)
    assert verified["problems"].keys() <= {"order"}
    assert all(text.startswith("order: p1:") for text in verified["first_problems"])
