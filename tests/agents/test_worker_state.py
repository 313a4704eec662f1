"""Machines' states outlive the worker: stop, kill, hand-over, another model, eviction."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from agents.delivery.states import Span
from pipeline.wire.records import Record
from pipeline.wire.states import saved_at
from tests.support.builders import SumRunner, event, reading
from tests.support.delivery_apps import run, until
from tests.support.plant import Plant

pytestmark = pytest.mark.slow

T0 = 1_763_600_000_000
S = 1_000


def readings(begin_s: int, end_s: int, machines: int = 6) -> list[Record]:
    records = []
    for second in range(begin_s, end_s, 5):
        for number in range(5, 5 + machines):
            rng = np.random.default_rng([second, number])
            records.append(reading(f"p{number}", T0 + second * S, rng.normal(size=2).round(3).tolist()))
            if second % 60 == 10:
                records.append(event(f"p{number}", T0 + second * S, f"note {second}"))
    return records


async def undisturbed(*parts: list[Record]) -> Plant:
    plant = Plant()
    for part in parts:
        plant.append(part)
    await plant.work()
    return plant


def test_a_worker_that_stops_is_followed_by_one_that_goes_on() -> None:
    async def test() -> None:
        first, second = readings(0, 300), readings(300, 600)
        plant = Plant()
        plant.append(first)
        await plant.work()
        assert len(plant.log("state")) >= 6
        plant.append(second)
        worker = await plant.work()
        assert worker.restored == 6
        assert worker.engine.stats.records["sensors"] == len([r for r in second if r.topic == "sensors"])
        reference = await undisturbed(first, second)
        assert plant.outputs() == reference.outputs()
        assert len(plant.log("diagnoses")) == len(reference.log("diagnoses")), "nothing was said twice either"

    run(test())


def test_a_killed_worker_is_followed_by_one_that_says_the_same() -> None:
    async def test() -> None:
        first, second = readings(0, 900), readings(900, 1200)
        plant = Plant(chunk_records=64)
        plant.append(first)
        worker = plant.worker()
        await worker.start()
        await until(lambda: len(plant.log("diagnoses")) > 100)
        await plant.kill(worker)
        plant.append(second)
        await plant.work()
        reference = await undisturbed(first, second)
        assert plant.outputs() == reference.outputs()
        assert plant.outputs("alarms") == reference.outputs("alarms")

    run(test())


def test_partitions_that_move_take_their_states_along() -> None:
    async def test() -> None:
        plant = Plant()
        one, two = plant.worker(), plant.worker()
        parts = [readings(begin, begin + 200) for begin in range(0, 1000, 200)]
        async with plant.running(one):
            plant.append(parts[0])
            await until(lambda: plant.read_by(one))
            async with plant.running(two):
                await until(lambda: all(worker.app.consumer.assignment() for worker in (one, two)))
                plant.append(parts[1])
                await until(lambda: plant.read_by(one, two))
                assert 0 < one.engine.machines < 6 and one.engine.machines + two.engine.machines == 6
                plant.append(parts[2])
                await until(lambda: plant.read_by(one, two))
                plant.append(parts[3])
            plant.append(parts[4])
            await until(lambda: plant.read_by(one))
        reference = await undisturbed(*parts)
        assert plant.outputs() == reference.outputs()
        resets = [json.loads(record.value or b"")["reset"] for record in plant.log("diagnoses")]
        assert resets.count("start") == 6, "no machine started again when it moved"

    run(test())


class OtherModel(SumRunner):
    hash = "6" * 64


def test_states_of_another_model_are_refused_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        plant = Plant()
        plant.append(readings(0, 300))
        await plant.work()
        plant.append(readings(300, 400))
        worker = await plant.work(runner=OtherModel())
        assert worker.restored == 0
        assert worker.engine.stats.states_refused == 6
        assert (
            "state of a machine belongs to model 555555555555, not 666666666666: 6 machines start with empty states"
            in caplog.text
        )
        await plant.work(runner=OtherModel())

    run(test())


def test_machines_of_refused_states_can_be_warmed_up() -> None:
    async def test() -> None:
        plant = Plant(state_refused="warm_up", warm_up_frames=1000)
        first, second = readings(0, 600), readings(600, 900)
        plant.append(first)
        await plant.work()
        before = len(plant.log("diagnoses"))
        plant.append(second)
        worker = await plant.work(runner=OtherModel())
        assert worker.engine.stats.records["sensors"] == len([r for r in second if r.topic == "sensors"])
        new = {(record.key, json.loads(record.value or b"")["frame_end"]): record for record in plant.log("diagnoses")}
        assert len(plant.log("diagnoses")) == len(new), "nothing is said about frames that the other model diagnosed"
        # All of the past was read again: the answers are those of a model that had been there from the beginning.
        reference = Plant()
        reference.append(first + second)
        await reference.work(runner=OtherModel())
        expected = {(r.key, json.loads(r.value or b"")["frame_end"]): r for r in reference.log("diagnoses")}
        assert new.keys() == expected.keys()
        late = [place for place in new if place[1] > T0 + 610 * S]
        assert len(late) > 100
        assert all(new[place].value == expected[place].value for place in late)
        assert before == len(new) - len([p for p in new if p[1] > T0 + 590 * S])

    run(test())


def test_a_forgotten_machine_leaves_a_tombstone_behind_the_committed_offsets() -> None:
    async def test() -> None:
        plant = Plant()
        plant.append(readings(0, 100, machines=2))
        await plant.work()
        assert {record.value is None for record in plant.log("state")} == {False}
        ttl = plant.profile.machine_types[0].state_ttl_ms
        later = T0 + 100 * S + 2 * ttl
        for partition in range(plant.partitions):
            tick = json.dumps({"kind": "tick", "time": later}).encode()
            plant.broker.append("control", partition, None, tick, later)
        worker = await plant.work()
        assert worker.engine.stats.evicted == 2 and worker.engine.machines == 0
        newest = {record.key: record.value for record in plant.log("state")}
        assert newest == {b"p5": None, b"p6": None}
        worker = await plant.work()
        assert worker.restored == 0

    run(test())


def test_of_two_states_the_later_counts_unless_it_has_applied_less() -> None:
    async def test() -> None:
        plant = Plant()
        plant.append(readings(0, 100, machines=1))
        await plant.work()
        early = (await plant.store().read([0, 1]))["p5"]
        plant.append(readings(100, 200, machines=1))
        await plant.work()
        late = (await plant.store().read([0, 1]))["p5"]
        assert saved_at(early).applied["sensors"] < saved_at(late).applied["sensors"]
        await plant.store().write({"p5": early})  # by a worker that was suspended
        assert (await plant.store().read([0, 1]))["p5"] == late
        await plant.store().write({"p5": b"what is this"})
        assert (await plant.store().read([0, 1]))["p5"] == b"what is this"
        worker = await plant.work()
        assert worker.engine.stats.states_refused == 1 and worker.restored == 0

    run(test())


def test_history_is_what_lies_between_a_time_and_an_offset() -> None:
    async def test() -> None:
        plant = Plant(partitions=1)
        plant.append(readings(0, 100, machines=1))
        found = await plant.store().history(Span(0, T0 + 40 * S, {"sensors": 15, "events": 0}))
        assert [record.offset for record in found] == list(range(8, 15))
        assert {record.topic for record in found} == {"sensors"}

    run(test())


def test_a_worker_without_progress_becomes_unready_and_ends() -> None:
    async def test() -> None:
        plant = Plant(stall_timeout_ms=600)
        stuck = asyncio.Event()

        class Stuck(SumRunner):
            pass

        worker = plant.worker(Stuck())
        await worker.start()
        await until(lambda: worker.life.ready().ok)

        async def never(outputs: object) -> None:
            await stuck.wait()

        worker._publisher.publish = never  # type: ignore[method-assign]
        plant.append(readings(0, 200))
        await until(lambda: "no progress" in worker.life.ready().text)
        await asyncio.wait_for(worker.life.wait_failed(), 10)
        stuck.set()
        with pytest.raises(Exception, match=r"no progress in \d+ s, with \d+ records unread"):
            await worker.stop()

    run(test())
