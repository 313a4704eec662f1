"""`make soak`: workers on a real Kafka are killed for minutes, and all they said equals an undisturbed run.

tests/soak/operations.py holds what else may happen to them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from agents.bench.local_kafka.broker import KafkaBroker
from agents.bench.local_kafka.jars import ensure_jars
from agents.delivery.partitioning import partition_function
from agents.kafka.admin import create_topics
from agents.kafka.publisher import KafkaPublisher
from agents.kafka.states import KafkaStateStore
from agents.kafka.topics import topic_specs
from pipeline.config.profile import parse_profile
from pipeline.config.settings import load_settings
from pipeline.config.topics import engine_topics
from pipeline.wire.records import Output, Record
from tests.support.chaos import (
    OUTPUTS,
    POINTS,
    STORY_PLANT,
    LaggingPublisher,
    Verdict,
    compare,
    differing_states,
    story,
)
from tests.support.forked_processes import ForkedProcess
from tests.support.mortal_worker import run_forked
from tests.support.plant import Plant

PARTITIONS = 4
OFTEN = {"decode": 9, "after_engine": 9, "output_send": 9, "flush": 5, "state_write": 14, "ack": 14, "commit": 4}
"""How often a worker comes by each point in about the same time."""

BROKER = {"group.min.session.timeout.ms": "1000"}

_numbers = itertools.count()


class WorkerProcess(ForkedProcess):
    """One life of a worker."""

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        super().__init__(run_forked, environment, log)

    def logged(self, text: str) -> int:
        """How often this stands in its log."""
        return self.text.count(text)

    @property
    def partitions(self) -> list[int]:
        """What it was assigned last."""
        lines = [line for line in self.text.splitlines() if "faultline.mortal: assigned " in line]
        return list(json.loads(lines[-1].split("assigned ")[1])) if lines else []


class KafkaPlant:
    """The chaos plant's topics on a real broker, and worker processes."""

    def __init__(self, bootstrap: str, folder: Path, **settings: Any) -> None:
        self.connect(folder, **{"broker": f"kafka://{bootstrap}"} | settings)
        create_topics(bootstrap, topic_specs(self.settings, self.profile))

    def connect(self, folder: Path, **settings: Any) -> None:
        """Know the broker, without asking it for anything."""
        name = f"chaos-{os.getpid()}-{next(_numbers)}"
        self._folder = folder
        self.settings = load_settings(
            **{
                "topic_prefix": f"{name}.",
                "group": name,
                "partitions": PARTITIONS,
                "web_port": 0,
                "chunk_records": 30,
                "checkpoint_records": 100,
                "checkpoint_interval_ms": 200,
                "commit_interval_ms": 100,
                # Ticks are in the story: a worker's own come by its clock, and no run would be like another.
                "tick_interval_ms": 3_600_000,
            }
            | settings
        )
        self.profile = parse_profile(STORY_PLANT, where="tests/support/chaos.py")
        self.partition_of: Callable[[bytes], int] = partition_function(PARTITIONS)

    @property
    def bootstrap(self) -> str:
        return self.settings.address

    def write(self, records: Iterable[Record]) -> None:
        """Append to the topics, all of it before a worker gets there: else order would be a matter of chance."""

        async def publish() -> None:
            publisher = KafkaPublisher(self.bootstrap, self.settings.topic_prefix)
            await publisher.start()
            await publisher.publish([Output(r.topic, r.partition, r.key, r.value, r.timestamp_ms) for r in records])
            await publisher.flush()
            await publisher.stop()

        asyncio.run(publish())

    def worker(
        self,
        at: tuple[str, int] | None = None,
        *,
        pace_s: float = 0.0,
        disk_full: bool = False,
        chaos: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> WorkerProcess:
        """Start a worker; it dies when it comes to a point for the n-th time. With a full disk it has no log.

        `chaos` are more of mortal_worker's variables.
        """
        wanted: dict[str, Any] = self.settings.model_dump(exclude_none=True, exclude_defaults=True) | settings
        environment = {
            f"FAULTLINE_{name.upper()}": f"{value}ms" if name.endswith("_ms") else str(value)
            for name, value in wanted.items()
        }
        environment["CHAOS_PACE_S"] = str(pace_s)
        environment |= {name: str(value) for name, value in (chaos or {}).items()}
        if disk_full:
            environment["CHAOS_DISK_FULL"] = "1"
        if at is not None:
            environment |= {"CHAOS_POINT": at[0], "CHAOS_HIT": str(at[1])}
        return WorkerProcess(environment, self._folder / f"worker-{next(_numbers)}.log")

    def limit_states(self, most_bytes: int) -> None:
        """Let the broker refuse larger records of the state topic."""
        topic = f"{self.settings.topic_prefix}state"
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": str(most_bytes)})
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.alter_configs([resource])
        finally:
            admin.close()

    def _consumer(self, group: str | None = None) -> KafkaConsumer:
        return KafkaConsumer(bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False)

    def left(self) -> int:
        """Records of the input that are not committed yet."""
        consumer = self._consumer(self.settings.group)
        try:
            places = self._places(engine_topics(self.profile))
            ends = consumer.end_offsets(places)
            return sum(ends[place] - (consumer.committed(place) or 0) for place in places)
        finally:
            consumer.close()

    def _places(self, topics: Iterable[str]) -> list[TopicPartition]:
        prefix = self.settings.topic_prefix
        return [TopicPartition(prefix + topic, partition) for topic in topics for partition in range(PARTITIONS)]

    def said_so_far(self) -> dict[int, int]:
        """How many diagnoses there are in each partition."""
        consumer = self._consumer()
        try:
            return {place.partition: end for place, end in consumer.end_offsets(self._places(["diagnoses"])).items()}
        finally:
            consumer.close()

    def said(self) -> dict[str, list[Record]]:
        """All outputs by topic."""
        found: dict[str, list[Record]] = {topic: [] for topic in OUTPUTS}
        consumer = self._consumer()
        try:
            places = self._places(OUTPUTS)
            consumer.assign(places)
            ends = consumer.end_offsets(places)
            consumer.seek_to_beginning(*places)
            while any(consumer.position(place) < ends[place] for place in places):
                for place, records in consumer.poll(timeout_ms=500).items():
                    topic = place.topic.removeprefix(self.settings.topic_prefix)
                    found[topic] += [
                        Record(topic, r.partition, r.offset, r.timestamp, r.key, r.value, tuple(r.headers))
                        for r in records
                    ]
        finally:
            consumer.close()
        return found

    def states(self) -> dict[str, bytes]:
        """What the next worker would begin with."""

        async def read() -> dict[str, bytes]:
            store = KafkaStateStore(self.bootstrap, self.settings.topic_prefix, self.partition_of)
            return await store.read(range(PARTITIONS))

        return asyncio.run(read())

    def finish(self, seconds: float = 60.0, names: Sequence[str | None] = (None,)) -> None:
        """Let workers of these names work until everything is committed, then stop them in order."""
        if not self.left():
            return
        workers = []
        for name in names:
            options: dict[str, Any] = {"chunk_records": 1_000, "checkpoint_records": 5_000}
            if name is not None:
                options["group_instance_id"] = name
            workers.append(self.worker(**options))
        try:
            until = time.monotonic() + seconds
            while (left := self.left()) and all(worker.alive for worker in workers) and time.monotonic() < until:
                time.sleep(0.1)
            assert left == 0, f"{left} records left\n{workers[0].log.read_text()[-2000:]}"
            for worker in workers:
                worker.signal(signal.SIGTERM)
            for worker in workers:
                code = worker.wait(20)
                assert code == 0, f"exit code {code}\n{worker.log.read_text()[-2000:]}"
        finally:
            for worker in workers:
                worker.kill()


def undisturbed(records: Sequence[Record]) -> tuple[dict[str, list[Record]], dict[str, bytes]]:
    """Outputs and states of a run on memory:// in which nothing happens."""

    async def test() -> tuple[dict[str, list[Record]], dict[str, bytes]]:
        plant = Plant(STORY_PLANT, PARTITIONS, checkpoint_interval_ms=200, chunk_records=1_000)
        plant.place(records)
        worker = await plant.live(seconds=300)
        assert plant.read_by(worker)
        return plant.said(), await plant.states()

    return asyncio.run(test())


def judge(plant: KafkaPlant, records: Sequence[Record]) -> tuple[Verdict, list[str]]:
    """Compare outputs and states with those of the undisturbed run."""
    outputs, states = undisturbed(records)
    return compare(outputs, plant.said()), differing_states(states, plant.states())


def takeover_seconds(plant: KafkaPlant, partitions: Iterable[int], since: float, limit_s: float = 60.0) -> float:
    """Time from `since` to the first diagnosis in one of these partitions, in seconds of the monotonic clock."""
    time.sleep(0.3)  # what a dead worker sent last may be on its way
    before = plant.said_so_far()
    while time.monotonic() - since < limit_s:
        now = plant.said_so_far()
        if any(now[partition] > before[partition] for partition in partitions):
            return time.monotonic() - since
        time.sleep(0.02)
    raise TimeoutError(f"no diagnoses in partitions {list(partitions)} within {limit_s:.0f} s")


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for what worker processes bring about."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"not so within {seconds:.0f} s")
        time.sleep(0.05)


# -- the long form --------------------------------------------------------------------------------------------


class Report:
    """What has happened, and what was found."""

    def __init__(self) -> None:
        self.kills: Counter[str] = Counter()
        self.restarts = 0
        self.takeovers_s: list[float] = []
        self.verified = self.duplicates = self.lost = self.differing = self.states_differing = 0
        self.phases: dict[str, float] = {}
        self.problems: list[str] = []

    def judged(self, verdict: Verdict, states: Sequence[str]) -> None:
        """Add what a comparison has found."""
        self.verified += verdict.verified
        self.duplicates += verdict.duplicates
        self.lost += len(verdict.lost)
        self.differing += len(verdict.differing)
        self.states_differing += len(states)
        self.problems += [*verdict.lost[:5], *verdict.differing[:5], *states[:5]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kills": dict(self.kills),
            "restarts": self.restarts,
            "takeovers": len(self.takeovers_s),
            "takeover_median_s": round(statistics.median(self.takeovers_s), 1) if self.takeovers_s else None,
            "takeover_max_s": round(max(self.takeovers_s), 1) if self.takeovers_s else None,
            "outputs_verified": self.verified,
            "duplicates": self.duplicates,
            "lost": self.lost,
            "differing": self.differing,
            "states_differing": self.states_differing,
            "seconds": {name: round(seconds, 1) for name, seconds in self.phases.items()},
            "problems": self.problems,
        }

    def __str__(self) -> str:
        facts = self.as_dict()
        lines = ["kills:"]
        lines += [f"  {point:<24}{count:>6}" for point, count in facts["kills"].items()]
        for name in ("restarts", "takeovers", "takeover_median_s", "takeover_max_s", "outputs_verified", "duplicates"):
            lines.append(f"{name.replace('_', ' '):<26}{facts[name]!s:>6}")
        for name in ("lost", "differing", "states_differing"):
            lines.append(f"{name.replace('_', ' '):<26}{facts[name]:>6}{'' if facts[name] == 0 else '  <-- WRONG'}")
        lines += [f"took {seconds:>6.1f} s: {name}" for name, seconds in facts["seconds"].items()]
        return "\n".join([*lines, *self.problems])


def kill_at_points(broker: KafkaBroker, folder: Path, report: Report, times: int, seed: int) -> None:
    """Each point `times` times, one worker after the other, on topics that grow while none is there."""
    rng = random.Random(seed)
    plant = KafkaPlant(broker.bootstrap, folder)
    records = story(60 * times * len(POINTS), plant.partition_of, PARTITIONS, machines=8, seed=seed)
    rest = list(records)
    todo = [point for point in POINTS for _ in range(times)]
    rng.shuffle(todo)
    while todo:
        if plant.left() < 1_500 and rest:
            plant.write(rest[:3_000])
            del rest[:3_000]
        point = todo.pop()
        # Under one name, so that no successor has to wait until the group has given up its predecessor.
        worker = plant.worker((point, rng.randint(1, OFTEN[point])), group_instance_id="one")
        try:
            code = worker.wait(60)
            if code != -signal.SIGKILL:
                raise AssertionError(f"{point}: exit code {code}\n{worker.log.read_text()[-2000:]}")
        finally:
            worker.kill()
        report.kills[point] += 1
        report.restarts += 1
    plant.write(rest)
    plant.finish(300, ["one"])
    report.judged(*judge(plant, records))


def kill_one_of_two(broker: KafkaBroker, folder: Path, report: Report, seconds: float, seed: int) -> None:
    """Two workers of which one is killed or joins every few seconds, under the default session timeout."""
    rng = random.Random(seed)
    plant = KafkaPlant(broker.bootstrap, folder, chunk_records=10)
    records = story(40 * int(seconds + 60), plant.partition_of, PARTITIONS, machines=8, seed=seed)
    plant.write(records)
    until = time.monotonic() + seconds
    workers = [plant.worker(pace_s=0.3) for _ in range(2)]
    try:
        while time.monotonic() < until:
            wait_until(lambda: all(len(worker.partitions) == PARTITIONS // 2 for worker in workers))
            time.sleep(rng.uniform(1, 4))
            if plant.left() < 1_000:
                raise AssertionError("the story is too short for so long a time")
            victim = workers.pop(rng.randrange(2))
            orphaned = victim.partitions
            victim.kill()
            report.kills["one of two, any point"] += 1
            report.takeovers_s.append(takeover_seconds(plant, orphaned, time.monotonic()))
            workers.append(plant.worker(pace_s=0.3))
            report.restarts += 1
        wait_until(lambda: all(len(worker.partitions) == PARTITIONS // 2 for worker in workers))
        for worker in workers:
            worker.signal(signal.SIGTERM)
        for worker in workers:
            assert worker.wait(20) == 0, worker.log.read_text()[-2000:]
    finally:
        for worker in workers:
            worker.kill()
    plant.finish(300)
    report.judged(*judge(plant, records))


def stop_the_broker(broker: KafkaBroker, folder: Path, report: Report, away_s: float, seed: int) -> None:
    """The broker goes away under load and comes back; workers that end are started again."""
    plant = KafkaPlant(broker.bootstrap, folder)
    records = story(3_000, plant.partition_of, PARTITIONS, machines=8, seed=seed)
    plant.write(records)
    worker = plant.worker(pace_s=0.1)
    try:
        wait_until(lambda: sum(plant.said_so_far().values()) > 100)
        broker.stop()
        time.sleep(away_s)
        broker.restart()
        said = sum(plant.said_so_far().values())
        deadline = time.monotonic() + 60
        while sum(plant.said_so_far().values()) < said + 100 and time.monotonic() < deadline:
            if not worker.alive:
                worker = plant.worker(pace_s=0.1)
                report.restarts += 1
            time.sleep(0.2)
        worker.signal(signal.SIGTERM)
        worker.wait(20)
    finally:
        worker.kill()
    plant.finish(300)
    report.judged(*judge(plant, records))


def memory_matrix(report: Report, lives: int, seeds: Iterable[int]) -> None:
    """Every point on memory://, with part of the outputs lost at each death."""

    async def one(point: str, seed: int) -> None:
        rng = random.Random(f"{point} {seed}")
        plant = Plant(STORY_PLANT, PARTITIONS, checkpoint_interval_ms=50, chunk_records=30, checkpoint_records=100)
        records = story(150 * lives, plant.partition_of, PARTITIONS, seed=seed)
        plant.place(records)
        deaths = 0
        while deaths < lives:
            publisher = LaggingPublisher(plant.broker, rng.randrange(1_000_000))
            worker = await plant.live(publisher=publisher, at={point: rng.randint(1, OFTEN[point])})
            if not plant.probes(worker).dead:
                break  # there was too little left to come to the point so often
            deaths += 1
            report.kills[f"{point} (memory)"] += 1
        last = await plant.live()
        assert plant.read_by(last)
        reference = Plant(STORY_PLANT, PARTITIONS, checkpoint_interval_ms=50)
        reference.place(records)
        await reference.live()
        different = differing_states(await reference.states(), await plant.states())
        report.judged(compare(reference.said(), plant.said()), different)

    async def all_points(seed: int) -> None:
        await asyncio.gather(*(one(point, seed) for point in POINTS))

    logging.disable(logging.ERROR)  # hundreds of workers die, and each says so
    for seed in seeds:
        asyncio.run(all_points(seed))
    logging.disable(logging.NOTSET)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; the exit code is 1 if anything is lost or differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soak", description=main.__doc__)
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="how long one of two workers is killed, again and again"
    )
    parser.add_argument("--times", type=int, default=20, help="kills at each point")
    parser.add_argument("--away-seconds", type=float, default=20.0, help="how long the broker is stopped")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the report as JSON")
    options = parser.parse_args(arguments)
    from tests.soak.operations import damage_states, steal_the_group, step_the_clock  # which are made of this module

    logging.basicConfig(level=logging.ERROR)
    report = Report()
    with (
        tempfile.TemporaryDirectory(prefix="faultline-soak-") as name,
        KafkaBroker.start(ensure_jars(), overrides=BROKER) as broker,
    ):
        folder = Path(name)
        phases: dict[str, Callable[[], None]] = {
            "memory://, every point": lambda: memory_matrix(report, 20, [options.seed]),
            f"Kafka, every point {options.times} times": lambda: kill_at_points(
                broker, folder, report, options.times, options.seed
            ),
            "Kafka, one of two workers again and again": lambda: kill_one_of_two(
                broker, folder, report, 60 * options.minutes, options.seed + 1
            ),
            f"Kafka, the broker away for {options.away_seconds:g} s": lambda: stop_the_broker(
                broker, folder, report, options.away_seconds, options.seed + 2
            ),
            "Kafka, hosts with other clocks": lambda: step_the_clock(broker, folder, report, options.seed + 3),
            "Kafka, damaged states": lambda: damage_states(broker, folder, report, options.seed + 4),
            "Kafka, a stolen group id": lambda: steal_the_group(broker, folder, report, options.seed + 5),
        }
        for phase, run in phases.items():
            print(phase, flush=True)
            began = time.monotonic()
            run()
            report.phases[phase] = time.monotonic() - began
    print(report)
    if options.out is not None:
        options.out.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    return 1 if report.lost or report.differing or report.states_differing else 0


if __name__ == "__main__":
    sys.exit(main())
