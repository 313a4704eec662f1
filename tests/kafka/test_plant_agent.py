"""Plant agents on a real Kafka are killed and followed; what they say and their states are those of a quiet run."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from pathlib import Path

import pytest

from agents.audit.reports.area_check import check_areas
from agents.bench.local_kafka.broker import KafkaBroker
from agents.kafka.log import committed_offsets, kafka_log
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.states import KafkaStateStore
from pipeline.config.topics import ALARMS, AREAS, DEAD_LETTER, LATE, PLANT, PLANT_STATE
from pipeline.wire.records import Output, Record
from tests.support.area_plant import WITH_AREAS, AreaPlant, area_story
from tests.support.chaos import compare, differing_states
from tests.support.forked_processes import ForkedProcess
from tests.support.kafka_plant import KafkaSite
from tests.support.mortal_plant import run_forked

pytestmark = pytest.mark.kafka

PARTITIONS = 2
DEATHS = {"output_send": 3, "state_write": 4, "commit": 2}
"""Points of death, and at which hit; tests/agents/test_plant_agent.py has all of them."""


def write(site: KafkaSite, records: list[Record]) -> None:
    """All of it before an agent gets there."""

    async def publish() -> None:
        publisher = KafkaPublisher(site.bootstrap, site.settings.topic_prefix)
        await publisher.start()
        await publisher.publish(
            [Output(r.topic, r.partition, r.key, r.value, r.timestamp_ms, r.headers) for r in records]
        )
        await publisher.flush()
        await publisher.stop()

    asyncio.run(publish())


def start(site: KafkaSite, folder: Path, point: str = "") -> ForkedProcess:
    wanted = site.settings.model_dump(exclude_none=True, exclude_defaults=True) | {"group_instance_id": "one"}
    environment = {
        f"FAULTLINE_{name.upper()}": f"{value}ms" if name.endswith("_ms") else str(value)
        for name, value in wanted.items()
    }
    if point:
        environment |= {"CHAOS_POINT": point, "CHAOS_HIT": str(DEATHS[point])}
    return ForkedProcess(run_forked, environment, folder / f"agent-{point}.log")


def left(site: KafkaSite, total: int) -> int:
    """Records that no agent has committed yet."""
    committed = committed_offsets(site.settings.of_plant, [AREAS])
    return total - sum(committed.values())


def states(site: KafkaSite) -> dict[str, bytes]:
    async def read() -> dict[str, bytes]:
        store = KafkaStateStore(site.bootstrap, site.settings.topic_prefix, site.partition_of, topic=PLANT_STATE)
        return await store.read(range(PARTITIONS))

    return asyncio.run(read())


def test_an_agent_is_killed_while_it_publishes_saves_and_commits(broker: KafkaBroker, tmp_path: Path) -> None:
    site = KafkaSite(broker.bootstrap, partitions=PARTITIONS, text=WITH_AREAS, chunk_records=30, checkpoint_records=60)
    records = area_story(200, site.partition_of, PARTITIONS, seed=6)
    write(site, records)
    for point in DEATHS:
        agent = start(site, tmp_path, point)
        try:
            assert agent.wait(60) == -signal.SIGKILL, f"{point}: {agent.text[-2000:]}"
        finally:
            agent.kill()
    last = start(site, tmp_path)
    try:
        until = time.monotonic() + 60
        while left(site, len(records)):
            assert last.alive and time.monotonic() < until, last.text[-2000:]
            time.sleep(0.1)
        last.signal(signal.SIGTERM)
        assert last.wait(20) == 0, last.text[-2000:]
    finally:
        last.kill()
    assert "restored the states of" in last.text

    async def undisturbed() -> tuple[dict[str, list[Record]], dict[str, bytes]]:
        plant = AreaPlant(partitions=PARTITIONS)
        plant.place(records)
        await plant.live_agent()
        return plant.said_of_areas(), await plant.agent_states()

    logging.disable(logging.ERROR)
    try:
        expected, expected_states = asyncio.run(undisturbed())
    finally:
        logging.disable(logging.NOTSET)
    found = {topic: site.records(topic) for topic in (PLANT, ALARMS, LATE, DEAD_LETTER)}
    verdict = compare(expected, found)
    assert verdict.good, str(verdict)
    assert verdict.verified > 350
    assert not (different := differing_states(expected_states, states(site))), "\n".join(different[:10])
    with kafka_log(site.settings, [AREAS, PLANT]) as log:
        check = check_areas(log, site.profile)
    assert check.proven and check.frames > 350 and check.unchecked == [], check
