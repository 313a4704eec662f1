"""Input topics that are deleted and created again while saved states live on, or are given more partitions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from agents.delivery.topic_logs import TopicLog
from agents.kafka.admin import topic_logs
from agents.worker.worker import Worker
from pipeline.errors import TopicMismatchError
from tests.support.delivery_apps import run
from tests.support.kafka_plant import FRAME_MS, KafkaSite, T, ends, event, metric, processed, readings

pytestmark = pytest.mark.kafka

OLD_FRAMES, NEW_FRAMES = 25, 20
LATER = T + 3_600_000


def recreated(worker: Worker, topic: str = "sensors") -> float:
    return metric(worker, "faultline_topics_recreated_total", topic=topic)


async def wait_for(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def seen(
    site: KafkaSite, worker: Worker, machine: str, start_ms: int, frames: int, *, rebalanced: bool = False
) -> None:
    """Wait until these frames of a machine are diagnosed, and nothing is skipped.

    After a rebalance, records come again that are in the saved states already.
    """
    wanted = [start_ms + n * FRAME_MS for n in range(1, frames + 1)]
    deadline = time.monotonic() + 60
    while [end for end in ends(await site.diagnoses(), machine) if end > start_ms][:frames] != wanted:
        assert worker.life.failure is None, worker.life.failure
        assert time.monotonic() < deadline, ends(await site.diagnoses(), machine)
        await asyncio.sleep(0.2)
    assert rebalanced or metric(worker, "faultline_skipped_total", topic="sensors") == 0
    assert metric(worker, "faultline_records_lost_total", topic="sensors") == 0


MACHINES = ("p1", "p2", "p6", "p7")  # in both partitions


async def first_log(site: KafkaSite) -> int:
    """What every machine has sent before."""
    records = [one for machine in MACHINES for one in readings(machine, OLD_FRAMES)]
    await site.send(records)
    return len(records)


async def second_log(site: KafkaSite, frames: int = NEW_FRAMES, start_ms: int = LATER) -> None:
    await site.send(one for machine in MACHINES for one in readings(machine, frames, start_ms=start_ms, value=3.0))


@pytest.mark.parametrize("frames", [NEW_FRAMES, OLD_FRAMES + 10], ids=["shorter", "longer"])
def test_a_topic_recreated_while_the_worker_is_stopped_is_read_from_its_beginning(
    kafka: str, frames: int, caplog: pytest.LogCaptureFixture
) -> None:
    run(recreated_while_stopped(kafka, frames, caplog), 120)


async def recreated_while_stopped(bootstrap: str, frames: int, caplog: pytest.LogCaptureFixture) -> None:
    site = KafkaSite(bootstrap)
    count = await first_log(site)
    async with site.working() as worker:
        await processed(worker, count)
        assert recreated(worker) == 0
    await asyncio.to_thread(site.recreate, "sensors")
    await second_log(site, frames)
    caplog.clear()
    async with site.working() as worker:
        for machine in MACHINES:
            await seen(site, worker, machine, LATER, frames)
        assert recreated(worker) == 1
        lines = [one for one in caplog.messages if "created again" in one]
        assert len(lines) == 1 and site.name("sensors") in lines[0], lines
    # A restart goes on from here, and nothing old comes back.
    more = LATER + frames * FRAME_MS
    await second_log(site, 2, start_ms=more + FRAME_MS)
    async with site.working() as worker:
        await seen(site, worker, "p1", more, 3)
        assert recreated(worker) == 0


def test_a_topic_recreated_under_a_running_worker_is_read_from_its_beginning(
    kafka: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("agents.worker.stateful.LOOK_SECONDS", 1.0)
    run(recreated_while_running(kafka, caplog), 120)


async def recreated_while_running(bootstrap: str, caplog: pytest.LogCaptureFixture) -> None:
    site = KafkaSite(bootstrap)
    count = await first_log(site)
    async with site.working() as worker:
        await processed(worker, count)
        await asyncio.to_thread(site.recreate, "sensors")
        await second_log(site)
        for machine in MACHINES:
            await seen(site, worker, machine, LATER, NEW_FRAMES)
        assert recreated(worker) == 1, caplog.messages
        assert worker.life.failure is None
        # Once more, while nothing has come from the new log yet.
        await asyncio.to_thread(site.recreate, "sensors")
        await wait_for(lambda: recreated(worker) == 2)
        await second_log(site, start_ms=LATER + 3_600_000)
        await seen(site, worker, "p1", LATER + 3_600_000, NEW_FRAMES)
    async with site.working() as worker:
        await asyncio.sleep(1.0)
        assert recreated(worker) == 0


def test_a_longer_log_is_noticed_under_a_running_worker_that_has_read_on_in_it(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.worker.stateful.LOOK_SECONDS", 3.0)
    run(_longer(kafka), 120)


async def _longer(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    count = await first_log(site)
    async with site.working() as worker:
        await processed(worker, count)
        await asyncio.to_thread(site.recreate, "sensors")
        await second_log(site, OLD_FRAMES + 10)
        for machine in MACHINES:
            await seen(site, worker, machine, LATER, OLD_FRAMES + 10)
        assert recreated(worker) == 1


def test_older_times_in_the_new_log_are_not_late(kafka: str) -> None:
    run(_older(kafka))


async def _older(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    count = await first_log(site)
    async with site.working() as worker:
        await processed(worker, count)
    await asyncio.to_thread(site.recreate, "sensors")
    earlier = T - 7 * 86_400_000
    await second_log(site, start_ms=earlier)
    async with site.working() as worker:
        await seen(site, worker, "p2", earlier, NEW_FRAMES)
        assert metric(worker, "faultline_late_total", topic="sensors") == 0


def test_only_the_events_are_created_again(kafka: str) -> None:
    run(_events(kafka))


async def _events(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    count = await first_log(site)
    await site.send([event("p1", T + 1_000 + n, f"pump leaks {n}") for n in range(5)])
    async with site.working() as worker:
        await processed(worker, count)
    await asyncio.to_thread(site.recreate, "events")
    more = T + OLD_FRAMES * FRAME_MS
    await site.send([event("p1", more + 8_000, "bearing is hot")])
    await site.send(readings("p1", 3, start_ms=more + 7_000))
    async with site.working() as worker:
        await seen(site, worker, "p1", more, 3)
        assert recreated(worker, "events") == 1
        assert recreated(worker, "sensors") == 0
        assert metric(worker, "faultline_skipped_total", topic="events") == 0
        assert metric(worker, "faultline_duplicates_total", kind="texts") == 0
    (last,) = [one for one in await site.diagnoses() if one.machine == "p1" and one.frame_end == more + FRAME_MS]
    assert [one.text for one in last.evidence.texts] == ["bearing is hot"]
    # Readings are not affected: the machine's state lives on.
    assert last.reset is None


def test_only_the_control_topic_is_created_again(kafka: str) -> None:
    run(_control(kafka))


async def _control(bootstrap: str) -> None:
    site = KafkaSite(bootstrap, tick_interval_ms=50)
    count = await first_log(site)
    async with site.working() as worker:
        await processed(worker, count)
        await processed(worker, 10, topic="control")
        # Saved again, with the ticks that came until then.
        more = readings("p1", 1, start_ms=T + OLD_FRAMES * FRAME_MS + 7_000)
        await site.send(more)
        await processed(worker, count + len(more))
    await asyncio.to_thread(site.recreate, "control")
    async with site.working() as worker:
        await processed(worker, 5, topic="control")
        assert recreated(worker, "control") == 1
        assert metric(worker, "faultline_skipped_total", topic="control") == 0
        assert metric(worker, "faultline_machines") == len(MACHINES)


def test_an_offset_of_the_old_log_that_was_committed_late_does_not_count(kafka: str) -> None:
    run(_late_commit(kafka))


async def _late_commit(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    # Of records that cannot be used there are no states either, which would show it.
    rubbish = [one._replace(value=b"{}") for one in readings("p1", 2)]
    await site.send(rubbish)
    async with site.working() as worker:
        await processed(worker, len(rubbish))
    place = TopicPartition(site.name("sensors"), site.partition_of(b"p1"))
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=site.settings.group, enable_auto_commit=False)
    try:
        consumer.assign([place])
        old = consumer.committed(place, metadata=True)
        assert old.offset == len(rubbish)
        await asyncio.to_thread(site.recreate, "sensors")
        await second_log(site)
        consumer.commit({place: old})
    finally:
        consumer.close()
    async with site.working() as worker:
        await seen(site, worker, "p1", LATER, NEW_FRAMES)
        assert recreated(worker) == 1


@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_a_broker_that_gives_no_ids_shows_it_by_a_shorter_log(
    kafka: str, running: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_ids(*arguments: Any) -> dict[str, TopicLog]:
        return {name: log._replace(id="") for name, log in topic_logs(*arguments).items()}

    monkeypatch.setattr("agents.worker.service.topic_logs", without_ids)
    monkeypatch.setattr("agents.worker.stateful.LOOK_SECONDS", 1.0)
    recreate = recreated_while_running if running else recreated_while_stopped
    run(
        recreate(kafka, caplog) if recreate is recreated_while_running else recreated_while_stopped(kafka, 20, caplog),
        120,
    )


def test_each_of_two_workers_notices_it(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.worker.stateful.LOOK_SECONDS", 1.0)
    run(_two(kafka), 120)


async def _two(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    await first_log(site)
    async with site.working() as one, site.working() as other:
        await wait_for(lambda: all(one_.life.ready().ok for one_ in (one, other)))
        await wait_for(
            lambda: all(len({place.partition for place in w.app.consumer.assignment()}) == 1 for w in (one, other))
        )
        await wait_for(lambda: not any((*one.lag().values(), *other.lag().values())))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(site.recreate, "sensors")
        await second_log(site)
        for machine in MACHINES:
            await seen(site, one, machine, LATER, NEW_FRAMES, rebalanced=True)
        assert recreated(one) + recreated(other) >= 2
        assert other.life.failure is None


def test_a_topic_that_is_deleted_is_waited_for(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.worker.stateful.LOOK_SECONDS", 0.5)
    run(_deleted(kafka))


async def _deleted(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    count = await first_log(site)
    async with site.working() as worker:
        await processed(worker, count)
        await asyncio.to_thread(site.delete, "sensors")
        await wait_for(lambda: site.name("sensors") in worker.life.ready().text)
        await asyncio.sleep(2.0)
        await asyncio.to_thread(site.create)
        await second_log(site)
        await seen(site, worker, "p1", LATER, NEW_FRAMES)
        assert worker.life.ready().ok


def test_more_partitions_end_a_running_worker_and_keep_one_from_starting(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.worker.stateful.LOOK_SECONDS", 0.5)
    run(_altered(kafka))


async def _altered(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    count = await first_log(site)
    with pytest.raises(TopicMismatchError, match=r"sensors has 8 partitions now, and had 2 .*FAULTLINE_PARTITIONS"):
        async with site.working() as worker:
            await processed(worker, count)
            await asyncio.to_thread(site.widen, 8, "sensors")
            await asyncio.wait_for(worker.life.wait_failed(), 20)
    # With the same number everywhere machines go on in their new partitions, with fresh states.
    wider = KafkaSite(bootstrap, partitions=8, topic_prefix=site.settings.topic_prefix, group=site.settings.group)
    wider.widen(8)
    await second_log(wider)
    async with wider.working() as worker:
        for machine in MACHINES:
            await seen(wider, worker, machine, LATER, NEW_FRAMES)
    assert wider.records("dead-letter") == []
