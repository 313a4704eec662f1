"""Time under a worker, whose ticks say that it passes: wild clocks, sources that report changes, machines that lag."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

import pytest

from agents.worker.worker import Worker
from pipeline.wire.messages import decode_diagnosis
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, control, reading
from tests.support.delivery_apps import run, until
from tests.support.plant import Plant

pytestmark = pytest.mark.slow

WILD = 1_930_000_000_000
TEN = [f"p{number}" for number in range(9)] + ["pump-x"]
ON_CHANGE = ONE_SOURCE.replace("frame_period: 10s", "frame_period: 200ms").replace(
    "{topic: sensors, allowed_disorder: 5s, idle_after: 30s}",
    "{topic: sensors, allowed_disorder: 100ms, report: on_change, heartbeat: 3s}",
)


def now_ms() -> int:
    return int(time.time() * 1_000)


def ticks_of(plant: Plant) -> int:
    return sum(record.value is not None and b'"tick"' in record.value for record in plant.log("control"))


def rounds(begin_ms: int, count: int, machines: list[str] = TEN) -> list[Record]:
    times = [begin_ms + 1_000 * at for at in range(count)]
    return [reading(machine, moment, [1.0, 2.0]) for moment in times for machine in machines]


def has_diagnosed(plant: Plant, count: int) -> bool:
    return len(plant.log("diagnoses")) >= count


def status_of(plant: Plant) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in plant.log("diagnoses"):
        diagnosis = decode_diagnosis(record.value or b"")
        found.setdefault(diagnosis.machine, set()).add(diagnosis.status)
    return found


def metric(worker: Worker, name: str, **labels: str) -> float | None:
    return worker.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("wild", [["pump-x"], [f"w{number}" for number in range(15)]], ids=["one", "a gateway"])
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_a_wild_clock_with_a_stamp_to_match_moves_nobody_else(wild: list[str], first: bool) -> None:
    """Case 7: the machines behind it are told, go on when it is right, and all others are as ever."""

    async def test() -> None:
        begin = now_ms() - 120_000
        plant = Plant(ONE_SOURCE, partitions=1, tick_interval_ms=20)
        wild_records = [reading(machine, WILD, [9.0, 9.0]) for machine in wild]
        good = rounds(begin, 60)
        plant.append([*wild_records, *good] if first else [*good, *wild_records])
        worker = plant.worker(ticks=True)
        async with plant.running(worker):
            await until(lambda: plant.read_by(worker) and ticks_of(plant) > 5)
            plant.append(rounds(begin + 60_000, 50, sorted({*TEN, *wild})))
            known = ticks_of(plant)
            await until(lambda: plant.read_by(worker) and ticks_of(plant) > known + 5)
            assert metric(worker, "faultline_machines_evicted_total") == 0
            clock = worker.engine.clock_ms(0)
        assert clock is not None and abs(clock - (begin + 109_000)) < 60_000
        others = {machine: found for machine, found in status_of(plant).items() if machine not in wild}
        assert others == {machine: {"active"} for machine in TEN if machine not in wild}
        starts = [decode_diagnosis(one.value or b"") for one in plant.log("diagnoses")]
        assert sum(one.reset == "start" for one in starts if one.machine not in wild) == len(others)
        # Every wild record is in one of two places: told as a dead letter, or in the state of a machine of which all
        # that follows is late until somebody frees it.
        told = {record.key for record in plant.log("dead-letter") + plant.log("late")}
        assert told == {machine.encode() for machine in wild}

    run(test(), seconds=120)


def test_a_source_that_reports_changes_is_diagnosed_between_them_until_it_is_silent() -> None:
    """Case 8; the worker's clock goes on only when the test says so."""
    passed_seconds = 0.0

    async def pass_time(plant: Plant, worker: Worker, over: Callable[[], bool]) -> None:
        nonlocal passed_seconds
        while not over():
            passed_seconds += 0.2
            goal = ticks_of(plant) + 2
            while ticks_of(plant) < goal or not plant.read_by(worker):
                await asyncio.sleep(0.005)

    async def test() -> None:
        plant = Plant(ON_CHANGE, partitions=1, tick_interval_ms=20)
        worker = plant.worker(ticks=True, monotonic_seconds=lambda: passed_seconds)
        begin = now_ms() - 60_000
        async with plant.running(worker):
            told: list[dict[str, float | None]] = [{"flow": 1.0, "load": 2.0}, {"flow": None}, {"flow": 3.0}]
            for number, values in enumerate(told):
                plant.append([reading("p1", begin + 2_000 * number, values)])
                await until(lambda: plant.read_by(worker))
                await pass_time(plant, worker, partial(has_diagnosed, plant, 9 * (number + 1)))
            before = [decode_diagnosis(record.value or b"") for record in plant.log("diagnoses")]
            await pass_time(plant, worker, lambda: "stale" in status_of(plant).get("p1", set()))
        assert {one.status for one in before} == {"active"}
        assert [one.reset for one in before] == ["start"] + [None] * (len(before) - 1)
        starts = [one.frame_start for one in before]
        assert starts == list(range(starts[0], starts[-1] + 1, 200))
        assert plant.log("dead-letter") == plant.log("late") == []

    run(test(), seconds=60)


def test_a_machine_that_is_forgotten_while_its_readings_are_late_goes_on_behind_what_was_said_of_it() -> None:
    async def test() -> None:
        begin = (now_ms() - 600_000) // 10_000 * 10_000
        plant = Plant(ONE_SOURCE, partitions=1)
        ahead = rounds(begin + 50_000, 20, ["p1"])
        behind = rounds(begin, 20, ["p1"])
        corrected = [one._replace(timestamp_ms=begin + 71_000 + at) for at, one in enumerate(behind)]
        plant.append([*ahead, *corrected])
        await plant.work()
        assert len(plant.log("late")) == 20
        plant.place([control("forget", machine="p1")._replace(timestamp_ms=begin + 72_000, key=b"p1")])
        again = rounds(begin + 20_000, 80, ["p1"])
        plant.append([one._replace(timestamp_ms=begin + 73_000 + at) for at, one in enumerate(again)])
        worker = await plant.work()
        assert metric(worker, "faultline_machines_forgotten_total") == 1
        assert len(plant.log("late")) == 20 + 40 and plant.log("dead-letter") == []  # 60 s had closed
        found = [decode_diagnosis(record.value or b"") for record in plant.log("diagnoses")]
        assert [one.frame_start - begin for one in found] == [50_000, 60_000, 70_000, 80_000]
        assert [one.reset for one in found] == ["start", "start", None, None]

    run(test(), seconds=60)
