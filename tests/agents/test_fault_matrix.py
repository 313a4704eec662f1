"""Whatever happens to workers on memory://, the outputs and states in the end are those of an undisturbed run."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import pytest

from agents.memory.states import MemoryStateStore
from agents.worker.worker import Worker
from pipeline.errors import DeliveryError
from pipeline.wire.records import Record
from tests.support.chaos import (
    POINTS,
    STATE_TTL_S,
    STORY_PLANT,
    T0_MS,
    LaggingPublisher,
    compare,
    differing_states,
    story,
)
from tests.support.delivery_apps import run, until
from tests.support.plant import Plant

pytestmark = pytest.mark.slow

PARTITIONS = 3
OFTEN = {"decode": 9, "after_engine": 9, "output_send": 9, "flush": 5, "state_write": 14, "ack": 14, "commit": 6}
"""How often a worker comes by each point in about the same time."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Hundreds of workers die here, and each says so."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def plant(**settings: Any) -> Plant:
    options: dict[str, Any] = {"chunk_records": 30, "checkpoint_records": 100, "checkpoint_interval_ms": 50}
    return Plant(STORY_PLANT, PARTITIONS, **options | settings)


@cache
def records(seed: int, seconds: int = 900) -> tuple[Record, ...]:
    return tuple(story(seconds, plant().partition_of, PARTITIONS, seed=seed))


_expected: dict[int, tuple[dict[str, list[Record]], dict[str, bytes]]] = {}


async def expected(seed: int) -> tuple[dict[str, list[Record]], dict[str, bytes]]:
    """Outputs and states of a run in which nothing happens."""
    if seed not in _expected:
        one = plant()
        one.place(records(seed))
        worker = await one.live()
        assert worker.engine.stats.evicted > 0
        _expected[seed] = one.said(), await one.states()
    return _expected[seed]


async def verify(disturbed: Plant, seed: int) -> None:
    outputs, states = await expected(seed)
    verdict = compare(outputs, disturbed.said())
    assert verdict.good, str(verdict)
    assert verdict.verified > 700
    assert not (different := differing_states(states, await disturbed.states())), "\n".join(different[:10])


async def finish(disturbed: Plant, **options: Any) -> None:
    """A last worker, which nothing happens to."""
    worker = await disturbed.live(**options)
    assert not disturbed.probes(worker).dead and worker.life.failure is None
    assert disturbed.read_by(worker)


async def die_at(point: str, seed: int, lives: int) -> None:
    rng = random.Random(f"{point} {seed}")
    disturbed = plant()
    disturbed.place(records(seed))
    deaths = 0
    for life in range(lives):
        publisher = LaggingPublisher(disturbed.broker, rng.randrange(1000)) if life % 2 else None
        worker = await disturbed.live(publisher=publisher, at={point: rng.randint(1, OFTEN[point])})
        deaths += disturbed.probes(worker).died_at == point
    assert deaths >= min(lives, 2)
    await finish(disturbed)
    await verify(disturbed, seed)


def test_a_worker_may_die_at_any_point() -> None:
    async def test() -> None:
        await expected(0)
        await asyncio.gather(*(die_at(point, 0, lives=4) for point in POINTS))

    run(test(), 120)


def test_two_workers_may_die_and_join_at_any_time() -> None:
    async def test(seed: int) -> None:
        rng = random.Random(seed)
        disturbed = plant()
        rest = list(records(seed))
        working: dict[Worker, asyncio.Task[Worker]] = {}

        def join() -> None:
            point = rng.choice(POINTS)
            worker = disturbed.worker(
                publisher=LaggingPublisher(disturbed.broker, rng.randrange(1000)),
                at={point: rng.randint(OFTEN[point] // 2, 2 * OFTEN[point])},
            )
            working[worker] = asyncio.create_task(disturbed.live(lambda: False, worker=worker))

        deaths = 0
        while rest or deaths < 3:
            # Producers go on meanwhile; what they write comes in the order of time.
            disturbed.place(rest[:150])
            del rest[:150]
            for worker in [worker for worker, task in working.items() if task.done()]:
                await working.pop(worker)
                deaths += 1
            if len(working) < 2:
                join()
            await asyncio.sleep(0.15)
            if not rest and disturbed.read_by(*working):
                break
        for worker, task in working.items():
            await disturbed.kill(worker)
            await task
        assert deaths >= 1
        await finish(disturbed)
        await verify(disturbed, seed)

    async def both() -> None:
        await expected(1)
        await asyncio.gather(test(1), test(1))

    run(both(), 120)


def test_the_broker_may_be_away_and_sends_and_commits_may_fail() -> None:
    async def away(seed: int) -> None:
        disturbed = plant()
        disturbed.place(records(seed))
        faults = disturbed.broker.faults
        for _ in range(3):
            worker = disturbed.worker()
            at_work = asyncio.create_task(disturbed.live(worker=worker))
            begun = worker.engine.stats.records.total()
            while not at_work.done() and worker.engine.stats.records.total() < begun + 300:
                await asyncio.sleep(0.002)
            faults.connected = False
            await asyncio.sleep(0.3)
            faults.connected = True
            await at_work
        await finish(disturbed)
        await verify(disturbed, seed)

    async def failing_sends(seed: int) -> None:
        rng = random.Random(seed)
        disturbed = plant()
        disturbed.place(records(seed))
        for _ in range(4):
            disturbed.broker.faults.fail_sends = {disturbed.broker.faults.sends + rng.randint(1, 200)}
            worker = await disturbed.live()
            assert isinstance(worker.life.failure, DeliveryError), "a send that failed was only logged"
        await finish(disturbed)
        await verify(disturbed, seed)

    async def failing_commits(seed: int) -> None:
        disturbed = plant()
        disturbed.place(records(seed))
        commits = disturbed.broker.faults.commits
        disturbed.broker.faults.fail_commits = set(range(commits + 1, commits + 10_000, 2))
        await finish(disturbed)
        await verify(disturbed, seed)

    async def test() -> None:
        await expected(0)
        await asyncio.gather(away(0), failing_sends(0), failing_commits(0))

    run(test(), 120)


class FailingStore(MemoryStateStore):
    """The n-th state that is written is refused, as by a broker with a full disk."""

    def __init__(self, plant: Plant, fail_at: int) -> None:
        super().__init__(plant.broker, "", plant.partition_of)
        self._plant = plant
        self._left = fail_at

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        faults = self._plant.broker.faults
        if self._left <= len(states):
            faults.fail_sends = {faults.sends + self._left}
        self._left -= len(states)
        await super().write(states)


def test_a_state_that_cannot_be_written_stops_the_worker() -> None:
    async def test() -> None:
        disturbed = plant()
        disturbed.place(records(0))
        for fail_at in (1, 4, 9, 17):
            committed = disturbed.broker.committed("faultline")
            worker = await disturbed.live(store=FailingStore(disturbed, fail_at))
            with pytest.raises(DeliveryError, match="cannot publish to state"):
                raise worker.life.failure or AssertionError("the worker went on")
            if fail_at == 1:
                assert disturbed.broker.committed("faultline") == committed, "acknowledged without a state"
        await finish(disturbed)
        await verify(disturbed, 0)

    run(test(), 120)


# -- cases of their own ---------------------------------------------------------------------------------------


def spoken(begin_s: int, end_s: int, *machines: str) -> list[Record]:
    """Readings of these machines on both of their topics, in one partition."""
    lines = []
    for second in range(begin_s, end_s, 5):
        for machine in machines:
            now = T0_MS + second * 1000
            for topic, values in (("sensors.fast", [1.0 + second % 7, 2.0]), ("sensors.slow", [second / 100])):
                value = b'{"machine": "%s", "time": %d, "values": %s}' % (machine.encode(), now, str(values).encode())
                lines.append(Record(topic, 0, 0, now, machine.encode(), value))
    return lines


def told(second: int, machine: str, text: str) -> Record:
    now = T0_MS + second * 1000
    value = b'{"machine": "%s", "time": %d, "text": "%s"}' % (machine.encode(), now, text.encode())
    return Record("events", 0, 0, now, machine.encode(), value)


def ticked(second: int) -> Record:
    now = T0_MS + second * 1000
    return Record("control", 0, 0, now, None, b'{"kind": "tick", "time": %d}' % now)


RETURNS_S = 100 + STATE_TTL_S + 60
RETURN = [
    *spoken(0, 100, "mill-1", "mill-2"),
    told(60, "mill-1", "before it was forgotten"),
    *spoken(100, RETURNS_S - 10, "mill-2"),
    ticked(RETURNS_S - 10),
    *spoken(RETURNS_S, RETURNS_S + 100, "mill-1", "mill-2"),
]
RETURN.sort(key=lambda record: record.timestamp_ms)
TOMBSTONE_S = RETURNS_S + STATE_TTL_S + 30
"""By then nothing has to be known any more of a machine that was evicted."""
LATE_RETURN = [
    *spoken(0, 100, "mill-1", "mill-2"),
    *spoken(100, TOMBSTONE_S, "mill-2"),
    ticked(RETURNS_S - 10),
    ticked(TOMBSTONE_S),
    *spoken(TOMBSTONE_S + 10, TOMBSTONE_S + 100, "mill-1", "mill-2"),
]
LATE_RETURN.sort(key=lambda record: record.timestamp_ms)


def one_partition(**settings: Any) -> Plant:
    return Plant(STORY_PLANT, 1, checkpoint_interval_ms=20, **settings)


async def same_as_undisturbed(disturbed: Plant, lines: list[Record]) -> None:
    undisturbed = one_partition()
    undisturbed.place(lines)
    await undisturbed.live()
    verdict = compare(undisturbed.said(), disturbed.said())
    assert verdict.good, str(verdict)
    different = differing_states(await undisturbed.states(), await disturbed.states())
    assert not different, "\n".join(different[:10])


class NoTombstones(MemoryStateStore):
    """The broker dies before it takes a tombstone."""

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        if None in states.values():
            raise DeliveryError("died before the tombstone")
        await super().write(states)


def test_a_worker_may_die_before_it_writes_a_tombstone() -> None:
    async def test() -> None:
        disturbed = one_partition()
        ticks = max(at for at, record in enumerate(LATE_RETURN) if record.topic == "control") + 1
        disturbed.place(LATE_RETURN[:ticks])
        store = NoTombstones(disturbed.broker, "", disturbed.partition_of)
        worker = await disturbed.live(lambda: False, store=store)
        assert worker.engine.stats.evicted == 1 and worker.life.failure is not None
        disturbed.place(LATE_RETURN[ticks:])
        await finish(disturbed)
        await same_as_undisturbed(disturbed, LATE_RETURN)

    run(test())


def test_a_machine_that_was_forgotten_and_came_back_does_not_take_its_old_records_twice() -> None:
    async def test() -> None:
        disturbed = one_partition(checkpoint_records=100_000, commit_interval_ms=60_000)
        disturbed.place(RETURN)
        # All in one checkpoint, which has the states written and nothing acknowledged.
        worker = await disturbed.live(at={"ack": 1}, checkpoint_interval_ms=300)
        assert disturbed.probes(worker).dead and worker.engine.stats.evicted == 1
        assert not disturbed.broker.committed("faultline")
        await finish(disturbed)
        await same_as_undisturbed(disturbed, RETURN)

    run(test())


def test_a_forgotten_machine_is_not_revived_by_a_record_that_makes_no_sense() -> None:
    async def test() -> None:
        disturbed = one_partition(checkpoint_records=100_000, commit_interval_ms=60_000)
        ticks = next(at for at, record in enumerate(RETURN) if record.topic == "control") + 1
        wrong = RETURN[0]._replace(
            timestamp_ms=RETURN[ticks].timestamp_ms, value=b'{"machine": "mill-1", "time": %d, "values": [1]}' % T0_MS
        )
        reset = ticked(RETURNS_S)._replace(key=b"mill-1", value=b'{"kind": "reset", "machine": "mill-1"}')
        later = [*spoken(RETURNS_S + 1, TOMBSTONE_S, "mill-2"), ticked(TOMBSTONE_S)]
        lines = [*RETURN[:ticks], wrong, reset, *later]
        disturbed.place(lines)
        worker = await disturbed.live(at={"ack": 1}, checkpoint_interval_ms=300)
        assert disturbed.probes(worker).dead and worker.engine.stats.evicted == 1
        assert worker.engine.machines == 1
        worker = await disturbed.live()
        assert worker.engine.stats.states_refused == 0 and worker.engine.machines == 1
        await same_as_undisturbed(disturbed, lines)
        assert sorted(await disturbed.states()) == ["mill-2"], "the tombstone came in its time"

    run(test())


class SlowStore(MemoryStateStore):
    """Takes its time, and tells what it is at."""

    def __init__(self, plant: Plant, *, read_s: float = 0.0, write_s: float = 0.0) -> None:
        super().__init__(plant.broker, "", plant.partition_of)
        self.reading = self.writing = False
        self._read_s, self._write_s = read_s, write_s

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        self.writing = True
        await asyncio.sleep(self._write_s)
        await super().write(states)
        self.writing = False

    async def read(self, partitions: Any) -> dict[str, bytes]:
        self.reading = True
        await asyncio.sleep(self._read_s)
        return await super().read(partitions)


def test_a_worker_may_be_told_to_stop_while_it_writes_states() -> None:
    async def test() -> None:
        lines = spoken(0, 300, *(f"mill-{number}" for number in range(9)))
        disturbed = one_partition()
        disturbed.place(lines[:700])
        store = SlowStore(disturbed, write_s=0.2)
        worker = disturbed.worker(store=store)
        await worker.start()
        await until(lambda: disturbed.read_by(worker) and store.writing)
        await worker.stop()
        disturbed.place(lines[700:])
        await finish(disturbed)
        await same_as_undisturbed(disturbed, lines)

    run(test())


def test_a_worker_may_be_told_to_stop_while_it_reads_states() -> None:
    async def test() -> None:
        lines = spoken(0, 300, *(f"mill-{number}" for number in range(9)))
        disturbed = one_partition()
        disturbed.place(lines[:700])
        await finish(disturbed)
        store = SlowStore(disturbed, read_s=0.5)
        worker = disturbed.worker(store=store)
        await worker.start()
        await until(lambda: store.reading)
        disturbed.place(lines[700:])
        await worker.stop()
        await finish(disturbed)
        await same_as_undisturbed(disturbed, lines)

    run(test())
