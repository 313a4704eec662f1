"""Another model takes over a plant on a real Kafka, and the first one comes back."""

from __future__ import annotations

from collections import Counter

import pytest

from agents.delivery.kept_states import is_kept
from agents.kafka.states import KafkaStateStore
from agents.worker.service import kafka_worker
from tests.support.builders import SumRunner
from tests.support.delivery_apps import run
from tests.support.kafka_plant import FRAME_MS, KafkaSite, T, processed, readings

pytestmark = pytest.mark.kafka

MACHINES = ("p1", "p2", "p6", "p7")  # in both partitions
FRAMES = 20


class OtherModel(SumRunner):
    hash = "6" * 64


def test_a_model_that_comes_back_goes_on_from_its_states(kafka: str) -> None:
    run(back_and_forth(kafka), 120)


async def back_and_forth(bootstrap: str) -> None:
    site = KafkaSite(bootstrap)
    runners = (SumRunner, OtherModel, SumRunner, OtherModel)
    for number, runner in enumerate(runners):
        start_ms = T + number * FRAMES * FRAME_MS
        count = await send(site, start_ms)
        worker = kafka_worker(site.settings, site.profile, {"pump": runner()}, site.partition_of)
        await worker.start()
        try:
            await processed(worker, count)
            assert worker.restored == (len(MACHINES) if number >= 2 else 0)
            assert worker.engine.stats.records["sensors"] == count
        finally:
            await worker.stop()
    said = await site.diagnoses()
    assert set(Counter(one.id for one in said).values()) == {1}
    for hash_ in (SumRunner.hash, OtherModel.hash):
        starts = [one for one in said if one.model.hash == hash_ and one.reset == "start"]
        assert sorted(one.machine for one in starts) == sorted(MACHINES), "each has begun once"
    ends = {one.frame_end for one in said if one.machine == "p1"}
    assert ends >= {T + n * FRAME_MS for n in range(1, len(runners) * FRAMES)}, "no frame is missing"
    states = await stored(site)
    assert {name for name in states if not is_kept(name)} == set(MACHINES)
    assert {name.split("\0")[0] for name in states if is_kept(name)} == set(MACHINES)


async def send(site: KafkaSite, start_ms: int) -> int:
    records = [one for machine in MACHINES for one in readings(machine, FRAMES, start_ms=start_ms)]
    await site.send(records)
    return len(records)


async def stored(site: KafkaSite) -> dict[str, bytes]:
    store = KafkaStateStore(site.bootstrap, site.settings.topic_prefix, site.partition_of)
    return await store.read(range(site.settings.partitions))
