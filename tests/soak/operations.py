"""Part of `make soak`: clocks that step, damaged saved states, and a group id that another application takes."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.bench.local_kafka.broker import KafkaBroker
from agents.kafka.publisher import KafkaPublisher
from pipeline.wire.letters import origin_of
from pipeline.wire.records import Output, Record
from tests.soak.soak import PARTITIONS, KafkaPlant, Report, judge, undisturbed, wait_until
from tests.support.chaos import compare, differing_states, story
from tests.support.worker_processes import consuming, ended, error_lines, running, text

CLOCK_STEPS_S = (864_000, -864_000, 0, 63_072_000, -63_072_000)
"""By ten days and by two years: after the last one, all that was ever sent is of a time that has not come."""


def step_the_clock(broker: KafkaBroker, folder: Path, report: Report, seed: int) -> None:
    """One worker after the other, each on a host with another clock, and killed in the middle of its work."""
    plant = KafkaPlant(broker.bootstrap, folder)
    records = story(1_800, plant.partition_of, PARTITIONS, machines=8, seed=seed)
    plant.write(records)
    for step_s in CLOCK_STEPS_S:
        before = sum(plant.said_so_far().values())
        with running(plant, {"CHAOS_CLOCK_S": step_s}, pace_s=0.05, group_instance_id="one") as worker:
            wait_until(lambda before=before: sum(plant.said_so_far().values()) > before + 50)  # type: ignore[misc]
            assert worker.alive, text(worker)[-2000:]
        report.kills["a host with another clock"] += 1
        report.restarts += 1
    plant.finish(300, ["one"])
    report.judged(*judge(plant, records))


def damage_states(broker: KafkaBroker, folder: Path, report: Report, seed: int) -> None:
    """Saved states are damaged between two workers: all other machines are diagnosed as if nothing had happened."""
    rng = random.Random(seed)
    plant = KafkaPlant(broker.bootstrap, folder)
    records = story(2_400, plant.partition_of, PARTITIONS, machines=12, seed=seed)
    half = len(records) // 2
    plant.write(records[:half])
    plant.finish(300)
    states = plant.states()
    damaged = {name: _damaged(states[name], rng) for name in rng.sample(sorted(states), len(states) // 3)}
    asyncio.run(_overwrite(plant, damaged))
    plant.write(records[half:])
    plant.finish(300)
    outputs, wanted_states = undisturbed(records)
    said, found_states = plant.said(), plant.states()
    kept = [one for one in said["dead-letter"] if (origin := origin_of(one.headers)) and origin.place.topic == "state"]
    lost = [name for name in damaged if name.encode() not in {one.key for one in kept}]
    report.problems += [f"{name}: its damaged state is not kept" for name in lost]
    report.lost += len(lost)
    keys = {name.encode() for name in damaged}

    def others(topics: Mapping[str, list[Record]]) -> dict[str, list[Record]]:
        return {topic: [one for one in found if one.key not in keys] for topic, found in topics.items()}

    different = differing_states(_without(wanted_states, damaged), _without(found_states, damaged))
    report.judged(compare(others(outputs), others(said)), different)
    report.kills["damaged states"] += len(damaged)


def _damaged(state: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(state) - 4)
    return rng.choice([state[:at], state[:at] + bytes([state[at] ^ 0xFF]) + state[at + 1 :], rng.randbytes(len(state))])


async def _overwrite(plant: KafkaPlant, states: Mapping[str, bytes]) -> None:
    publisher = KafkaPublisher(plant.bootstrap, plant.settings.topic_prefix)
    await publisher.start()
    now_ms = int(time.time() * 1000)
    keys = [name.encode() for name in states]
    await publisher.publish(
        [Output("state", plant.partition_of(key), key, states[key.decode()], now_ms) for key in keys]
    )
    await publisher.flush()
    await publisher.stop()


def _without(states: Mapping[str, bytes], names: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: state for name, state in states.items() if name not in names}


def steal_the_group(broker: KafkaBroker, folder: Path, report: Report, seed: int) -> None:
    """Another application has the group id: workers end with one line, and go on when it has gone."""
    plant = KafkaPlant(broker.bootstrap, folder, session_timeout_ms=6_000)
    records = story(1_200, plant.partition_of, PARTITIONS, machines=8, seed=seed)
    plant.write(records)
    for _ in range(3):
        before = sum(plant.said_so_far().values())
        with running(plant, pace_s=0.1) as worker:
            wait_until(lambda before=before: sum(plant.said_so_far().values()) > before + 50)  # type: ignore[misc]
            worker.signal(signal.SIGTERM)
            assert ended(worker, 20)[0] == 0, text(worker)[-2000:]
        with (
            consuming(broker.bootstrap, plant.settings.group, f"{plant.settings.topic_prefix}late"),
            running(plant) as worker,
        ):
            code, _ = ended(worker, 60)
            assert code == 1 and "another application" in _only(error_lines(worker)), text(worker)[-2000:]
        report.kills["a stolen group id"] += 1
        report.restarts += 1
    plant.finish(300)
    report.judged(*judge(plant, records))


def _only(lines: Sequence[str]) -> str:
    (line,) = lines
    return line
