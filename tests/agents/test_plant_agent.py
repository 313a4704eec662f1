"""The plant agent on memory://: workers' diagnoses become areas' frames, and no death of an agent changes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.audit.certificate import CertificateBuilder
from agents.replay.areas import PlantReplay, replay_areas
from pipeline.areas.messages import AreaDiagnosis
from pipeline.areas.progress import Progress, progress_output
from pipeline.config.topics import ALARMS, AREAS, DIAGNOSES, PLANT
from pipeline.engine.reports.lifecycle.records import decode_alarm
from pipeline.wire.records import Record
from tests.support.area_plant import (
    FRAME_MS,
    MACHINES,
    T0_MS,
    AreaPlant,
    VoteRunner,
    area_record,
    area_story,
    diagnosis,
    work_recorded,
)
from tests.support.builders import event, reading
from tests.support.chaos import POINTS, compare, differing_states
from tests.support.delivery_apps import run, until

PARTITIONS = 2
FRAMES = 100


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Agents die here, and each says so."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def small(**settings: Any) -> AreaPlant:
    options: dict[str, Any] = {"chunk_records": 30, "checkpoint_records": 60, "checkpoint_interval_ms": 20}
    return AreaPlant(partitions=PARTITIONS, **options | settings)


def told(plant: AreaPlant, frames: int = FRAMES, seed: int = 0) -> AreaPlant:
    plant.place(area_story(frames, plant.partition_of, PARTITIONS, seed=seed))
    return plant


def ends(said: list[AreaDiagnosis]) -> list[int]:
    return [(one.frame_end - T0_MS) // FRAME_MS for one in said]


def test_what_workers_diagnose_comes_to_its_area_and_is_diagnosed_there() -> None:
    async def test() -> None:
        plant = AreaPlant(partitions=3)
        readings = [
            reading(machine, T0_MS + second * 1000, [0.0 if machine == "pump-7" else 1.5, 0.0])
            for second in range(0, 200, 5)
            for machine in (*MACHINES["hall"], *MACHINES["yard"], "pump-7")
        ]
        plant.append(readings)
        await plant.work()
        copies, said = plant.log(AREAS), plant.log(DIAGNOSES)
        in_areas = {machine.encode(): area.encode() for area, machines in MACHINES.items() for machine in machines}
        assert {(one.key, one.value) for one in copies} == {
            (in_areas[one.key], one.value) for one in said if one.key in in_areas
        }
        assert all(one.partition == plant.partition_of(one.key or b"") for one in copies)
        await plant.live_agent()
        hall = plant.areas("hall")
        assert ends(hall) == list(range(1, len(hall) + 1)) and len(hall) > 15
        assert hall[0].reset and not any(one.reset for one in hall[1:])
        assert set(hall[0].machines) == set(MACHINES["hall"])
        assert {answer.presence for one in hall for answer in one.machines.values()} == {"active"}

    run(test(), seconds=60)


def test_a_worker_that_is_killed_leaves_no_diagnosis_out_of_its_area() -> None:
    async def test() -> None:
        plant = small()
        readings = [
            reading(machine, T0_MS + second * 1000, [second % 7 / 3, 0.0])
            for second in range(0, 300, 5)
            for machine in MACHINES["hall"]
        ]
        plant.append([*readings, event("hall/water", T0_MS + 95_000, "low pressure")])
        for hit in (3, 2):
            worker = await plant.live(at={"output_send": hit})
            assert plant.probes(worker).dead
        await plant.live()
        copies = {record.value for record in plant.log(AREAS) if not record.headers}
        assert copies == {record.value for record in plant.log(DIAGNOSES)} and len(copies) > 100
        await plant.live_agent()
        hall = plant.areas("hall")
        assert ends(hall) == list(range(1, len(hall) + 1))
        assert [text.text for one in hall for text in one.texts] == ["low pressure"]

    run(test(), seconds=60)


def test_a_utility_is_named_with_its_evidence_and_its_alarm_is_raised_and_cleared() -> None:
    async def test() -> None:
        plant = small()
        for frame in range(30):
            for machine in MACHINES["hall"]:
                share = 0.9 if 10 <= frame < 20 and machine != "pump-4" else 0.05
                plant.place([area_record(diagnosis(machine, frame, share), plant.partition_of)])
        await plant.live_agent()
        causes = [(one.cause.kind, one.cause.name, one.cause.fault) for one in plant.areas("hall")]
        assert set(causes) == {("none", None, None), ("utility", "water", "leak")}
        named = next(one for one in plant.areas("hall") if one.cause.kind == "utility")
        assert 10 < ends([named])[0] <= 13
        assert {one.name: round(one.weight, 2) for one in named.evidence} == {
            "pump-1": 0.33,
            "pump-2": 0.33,
            "pump-3": 0.33,
        }
        alarms = [decode_alarm(record.value or b"") for record in plant.log("alarms")]
        assert [(one.machine, one.fault, one.state) for one in alarms] == [
            ("hall/water", "leak", "raised"),
            ("hall/water", "leak", "cleared"),
        ]

    run(test(), seconds=60)


async def _check_deaths(point: str, expected: AreaPlant, states: dict[str, bytes]) -> None:
    disturbed = told(small())
    deaths = 0
    # How many commits a life has depends on its speed; each has one, which is hit before and after.
    for hit in (1, 2, 2) if point == "commit" else (3, 5, 4):
        agent = await disturbed.live_agent(at={point: hit})
        deaths += disturbed.died(agent)
    assert deaths >= 2
    await disturbed.live_agent()
    verdict = compare(expected.said_of_areas(), disturbed.said_of_areas())
    assert verdict.good, str(verdict)
    assert verdict.verified > 150
    assert not (different := differing_states(states, await disturbed.agent_states())), "\n".join(different[:10])


def test_an_agent_may_die_at_any_point() -> None:
    async def test() -> None:
        expected = told(small())
        await expected.live_agent()
        states = await expected.agent_states()
        assert set(states) == set(MACHINES)
        await asyncio.gather(*(_check_deaths(point, expected, states) for point in POINTS))

    run(test(), seconds=90)


def test_what_a_worker_repeats_after_a_crash_changes_nothing() -> None:
    async def test() -> None:
        plain, repeated = small(), small()
        records = area_story(60, plain.partition_of, PARTITIONS, seed=4)
        plain.place(records)
        # The worker goes on from an older state: it writes once more what it had written, while others go on.
        again = [one for one in records[100:180] if one.key is not None and not one.headers and one.value != b"{"]
        repeated.place([*records[:200], *again, *records[200:]])
        agent = None
        for plant in (plain, repeated):
            agent = await plant.live_agent()
        said = {topic: plain.log(topic) for topic in (PLANT, ALARMS)}  # letters name offsets, which are others here
        verdict = compare(said, repeated.said_of_areas())
        assert verdict.good and verdict.verified > 50, str(verdict)
        assert agent is not None and agent.engine.stats.duplicates["diagnoses"] >= len(again)

    run(test(), seconds=60)


def test_ticks_close_frames_of_an_idle_area_without_the_machine_that_stays_away() -> None:
    passed_seconds = 0.0

    async def test() -> None:
        nonlocal passed_seconds
        plant = small(tick_interval_ms=20)
        before = [diagnosis(machine, frame) for frame in range(5) for machine in MACHINES["yard"]]
        plant.place([area_record(one, plant.partition_of) for one in (*before, diagnosis("pump-5", 5))])
        agent = plant.agent(ticks=True, monotonic_seconds=lambda: passed_seconds)
        await agent.start()
        try:
            await until(lambda: len(plant.areas("yard")) == 5 and not any(agent.lag().values()))
            passed_seconds += 5 * FRAME_MS / 1000
            await until(lambda: len(plant.areas("yard")) == 6)
        finally:
            await agent.stop()
        last = plant.areas("yard")[-1]
        assert {name: one.presence for name, one in last.machines.items()} == {"pump-5": "active", "pump-6": "late"}

    run(test(), seconds=60)


def test_areas_wait_for_the_worker_that_is_behind_the_others() -> None:
    async def test() -> None:
        plant = AreaPlant(partitions=4, tick_interval_ms=20)
        readings = [
            reading(machine, T0_MS + second * 1000, [0.5, 0.0])
            for second in range(0, 600, 5)
            for machine in MACHINES["hall"]
        ]
        of_machine = {plant.partition_of(machine.encode()) for machine in MACHINES["hall"]}
        assert len(of_machine) > 1, "they are in several partitions"
        workers = [plant.worker(ticks=True, chunk_records=400) for _ in range(2)]
        agent = plant.agent(ticks=True)
        for one in (*workers, agent):
            await one.start()
        await until(lambda: all(worker.life.ready().ok and worker._owned() for worker in workers))
        assert all(worker._owned() & of_machine for worker in workers)
        async with workers[0]._working:  # stands still while the other one works
            plant.append(readings)
            await until(lambda: any(record.headers for record in plant.log(AREAS)))
            await until(lambda: sum(not record.headers for record in plant.log(AREAS)) > 50)
            await until(lambda: not any(agent.lag().values()))
        await until(lambda: len(plant.areas("hall")) > 50)
        for one in (agent, *workers):
            await one.stop()
        assert {answer.presence for one in plant.areas("hall")[:50] for answer in one.machines.values()} == {"active"}
        assert agent.engine.stats.late["hall"] == 0

    run(test(), seconds=60)


def test_an_area_goes_on_without_a_worker_that_says_nothing_for_long() -> None:
    passed_seconds = 0.0

    async def test() -> None:
        nonlocal passed_seconds
        plant = small(tick_interval_ms=20, area_patience_ms=60_000)
        said = progress_output("yard", Progress(["pump-5"], T0_MS + 9 * FRAME_MS), T0_MS)
        spoken = Record(AREAS, plant.partition_of(b"yard"), 0, T0_MS, said.key, said.value, said.headers)
        plant.place([area_record(diagnosis("pump-5", frame), plant.partition_of) for frame in range(9)])
        plant.place([spoken, area_record(diagnosis("pump-5", 9), plant.partition_of)])
        plant.place([area_record(diagnosis("pump-5", frame), plant.partition_of) for frame in range(10, 20)])
        agent = plant.agent(ticks=True, monotonic_seconds=lambda: passed_seconds)
        await agent.start()
        try:
            await until(lambda: bool(agent.engine.held()) and not any(agent.lag().values()))
            held = len(plant.areas("yard"))
            await asyncio.sleep(0.1)  # some ticks, which do not end the wait
            assert len(plant.areas("yard")) == held < 15
            passed_seconds += 61
            await until(lambda: len(plant.areas("yard")) == 20)
        finally:
            await agent.stop()
        away = [record for record in plant.log(AREAS) if b'"away":true' in (record.value or b"")]
        assert away and agent.engine.held() == {}

    run(test(), seconds=60)


def test_a_recording_of_what_an_agent_has_read_replays_to_the_same_certificate(tmp_path: Path) -> None:
    async def test() -> None:
        plant = told(small())
        path = tmp_path / "areas.parquet"
        agent = plant.agent()
        live = CertificateBuilder({"areas": VoteRunner()})
        await work_recorded(agent, path, live)
        live.add(agent.engine.finish())
        live.finish_areas(agent.engine)
        replayed = CertificateBuilder({"areas": VoteRunner()})
        replay = PlantReplay(plant.profile, VoteRunner(), builder=replayed)
        await replay_areas(path, plant.settings, plant.profile, replay, plant.partition_of)
        assert replayed.certificate.differences(live.certificate) == []
        assert len(replayed.certificate.areas) > 150 and replayed.certificate.digest == live.certificate.digest
        assert replay.report()["hall"]["frames"] == sum(name.startswith("hall:") for name in live.certificate.areas)

    run(test(), seconds=60)


def test_states_of_another_rule_are_refused_and_kept() -> None:
    async def test() -> None:
        plant = told(small(), frames=40)
        await plant.live_agent()
        agent = await plant.live_agent(runner=VoteRunner("8" * 64))
        assert agent.engine.stats.states_refused == len(MACHINES)
        assert agent.restored == 0
        again = await plant.live_agent()
        assert again.restored == len(MACHINES)

    run(test(), seconds=60)
