"""The long form of tests/pipeline/test_hostile.py: a worker on a real Kafka, hostile records by the million, a report.

    python -m tests.soak.soak_hostile --records 1000000 --json

The worker is `faultline run` with the shipped model, for machines whose records have Faultline's own form and for some
of each foreign form. Everything it writes to the topics of dead letters and late records is compared with what was
sent, and its diagnoses with those of the good records alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.bench.local_kafka.broker import KafkaBroker
from agents.bench.local_kafka.jars import ensure_jars
from agents.cli.options import load_runners
from agents.delivery.partitioning import partition_function
from agents.kafka.publisher import KafkaPublisher
from agents.replay.shipped import demo_model
from models.model_file import read_model, write_model
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.config.settings import Settings, load_settings
from pipeline.config.topics import DEAD_LETTER, DIAGNOSES, LATE
from pipeline.engine.engine import Engine
from pipeline.wire.messages import LAST_DECIMAL, decode_diagnosis
from pipeline.wire.records import Record
from tests.support.hostile import (
    INPUT_BYTES,
    Fuzz,
    Ledger,
    Sent,
    Target,
    create_wide_topics,
    good_traffic,
    mixed_traffic,
    record_of,
)
from tests.support.hostile_foreign import ALL_KINDS
from tests.support.hostile_forms import FORMS, SCHEMA, SCHEMA_NUMBER, Schemas, foreign_plant
from tests.support.probabilities import probability_difference
from tests.support.registries import small_registry

PLANT = "tennessee_eastman"
VARIABLES = load_profile(PLANT).machine_types[0].variable_names
TARGET = Target(
    "te-",
    40,
    len(VARIABLES),
    "xmeas_1",
    step_ms=180_000,
    frame_ms=180_000,
    max_skew_ms=3_600_000,
    variable_names=VARIABLES,
    forms=FORMS,
)
WAVE = 10_000
CHUNK = 4_096
SAMPLE_SECONDS = 0.5
PATIENCE_SECONDS = 120.0

_APART = ("huge_value", "odd_but_legal")
"""Not in rounds that are timed: one of the first is most of a round, and the second are diagnosed, with the good."""


class SoakError(Exception):
    """The soak did not come out as it has to."""


# -- what records cost, in one process without a broker -----------------------------------------------------------


def new_engine(profile: PlantProfile, settings: Settings, models: list[Path]) -> Engine:
    """An engine with the shipped model for each machine type."""
    runners = load_runners(settings, profile, models)
    return Engine(profile, runners, partition_of=partition_function(TARGET.partitions), schemas=Schemas())


def seconds_of(engine: Engine, records: Sequence[Record]) -> float:
    """Processor time that the engine takes for them, which others on the same machine do not lengthen."""
    began = time.process_time()
    engine.process(records)
    return time.process_time() - began


def costs(profile: PlantProfile, settings: Settings, models: list[Path], rounds: int, seed: int) -> dict[str, Any]:
    """Cost of a record by kind, and of good and hostile records together over the sum of each alone."""
    alone, beside, hostile_only = (new_engine(profile, settings, models) for _ in range(3))
    traffic, fuzz, ledger = good_traffic(TARGET, seed), Fuzz(TARGET, seed, ALL_KINDS), Ledger()
    per_chunk = CHUNK // (TARGET.machines + TARGET.form_machines * (len(FORMS) + 2))

    def good_chunk() -> list[Sent]:
        return [one for step in islice(traffic, per_chunk) for one in step]

    for engine in (alone, beside, hostile_only):  # machines are known and the model is warm
        engine.process([record_of(one, ledger.sent(one)) for one in good_chunk()])
    good_us, bad_us, ratios = [], [], []
    for _ in range(rounds):
        good = [record_of(one, ledger.sent(one)) for one in good_chunk()]
        now = good[-1].timestamp_ms
        mixed, bad = [], []
        for record in good:
            extra = fuzz.one(now)
            while extra.kind in _APART:
                extra = fuzz.one(now)
            bad.append(record_of(extra, ledger.sent(extra)))
            mixed += [record, bad[-1]]
        plain, both = seconds_of(alone, good), seconds_of(beside, mixed)
        own = seconds_of(hostile_only, bad)
        good_us.append(plain / len(good) * 1e6)
        bad_us.append(own / len(bad) * 1e6)
        ratios.append(both / (plain + own))
    now = good[-1].timestamp_ms
    by_kind = {}
    for kind in ALL_KINDS:
        count = 2 if kind == "huge_value" else 20 if kind in ("deep", "huge_text") else 400
        times, size = [], 0
        for _ in range(3):
            records = [record_of(one, ledger.sent(one)) for one in (fuzz.of_kind(kind, now) for _ in range(count))]
            size = sum(len(record.value or b"") for record in records)
            times.append(seconds_of(hostile_only, records) / count * 1e6)
        by_kind[kind] = {"us_per_record": round(median(times), 1), "mean_bytes": size // count}
    return {
        "good_us_alone": round(median(good_us), 2),
        "hostile_us": round(median(bad_us), 2),
        "both_together_over_each_alone": round(median(ratios), 3),
        "hostile_us_by_kind": by_kind,
    }


# -- the worker under fire ----------------------------------------------------------------------------------------


class Fire:
    """One run: a broker, a worker process, a producer and a reader that keeps the books."""

    def __init__(
        self,
        broker: KafkaBroker,
        folder: Path,
        profile_file: Path,
        models: list[Path],
        registry: str,
        hostile: int,
        per_good: float,
    ) -> None:
        """`registry` is the address of one with the schema of our Avro records."""
        self.folder, self.models, self.registry = folder, models, registry
        self.bootstrap = broker.bootstrap
        self.hostile, self.per_good = hostile, per_good
        self.profile_file = profile_file
        self.profile = load_profile(profile_file)
        self.settings = load_settings(broker=f"kafka://{broker.bootstrap}", partitions=TARGET.partitions)
        self.ledger = Ledger()
        self.good: list[Record] = []
        self.said: dict[str, tuple[str, dict[str, float]]] = {}
        self.sent_records = self.sent_bytes = 0
        self.rss_mib: list[float] = []
        self.all_sent = False

    def start_worker(self) -> subprocess.Popen[bytes]:
        """`faultline run`, with ticks so rare that none comes: offsets of the control topic are then known."""
        env = os.environ | {
            "FAULTLINE_BROKER": self.settings.broker,
            "FAULTLINE_PROFILE": str(self.profile_file),
            "FAULTLINE_PARTITIONS": str(TARGET.partitions),
            "FAULTLINE_WEB_PORT": "0",
            "FAULTLINE_TICK_INTERVAL_MS": "1d",
            "FAULTLINE_SCHEMA_REGISTRY": self.registry,
        }
        models = [part for file in self.models for part in ("--model", str(file))]
        with (self.folder / "worker.log").open("wb") as log:
            command = [sys.executable, "-m", "agents.cli", "run", *models]
            return subprocess.Popen(command, env=env, stdout=log, stderr=log)

    async def produce(self) -> None:
        """Send everything, in waves."""
        producer = KafkaPublisher(self.bootstrap, self.settings.topic_prefix, record_bytes=INPUT_BYTES)
        await producer.start()
        try:
            traffic: Iterator[Sent] = mixed_traffic(TARGET, self.hostile, per_good=self.per_good, kinds=ALL_KINDS)
            while wave := list(islice(traffic, WAVE)):
                for one in wave:
                    place = self.ledger.sent(one)
                    self.sent_bytes += len(one.output.value or b"")
                    if one.kind == "good":
                        self.good.append(record_of(one, place))
                # Texts first: one that reached the broker behind later readings would be late, and rightly so.
                readings = self.profile.sensor_topics
                for are_readings in (False, True):
                    outputs = [one.output for one in wave if (one.output.topic in readings) is are_readings]
                    await producer.publish(outputs)
                    await producer.flush()
                self.sent_records += len(wave)
            self.all_sent = True
        finally:
            await producer.stop()

    async def read(self, worker: subprocess.Popen[bytes]) -> None:
        """Read letters and diagnoses until everything is there, or nothing has come for a while."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        prefix = self.settings.topic_prefix
        topics = (DEAD_LETTER, LATE, DIAGNOSES)
        consumer.assign([TopicPartition(prefix + t, number) for t in topics for number in range(TARGET.partitions)])
        came = time.monotonic()
        quiet_seconds = 0.0
        try:
            while not (self.all_sent and not self.ledger.open and quiet_seconds > 5.0):
                if worker.poll() is not None:
                    raise SoakError(f"the worker ended by itself: {self.worker_log()}")
                if quiet_seconds > PATIENCE_SECONDS:
                    return  # what is missing is then told
                found = await consumer.getmany(timeout_ms=500, max_records=5_000)
                for place, records in found.items():
                    for r in records:
                        if place.topic == prefix + DIAGNOSES:
                            self._diagnosis(r.value or b"")
                        else:
                            self.ledger.letter(r.key, r.value, tuple(r.headers))
                if found:
                    came = time.monotonic()
                quiet_seconds = time.monotonic() - came
        finally:
            await consumer.stop()

    def _diagnosis(self, value: bytes) -> None:
        diagnosis = decode_diagnosis(value)
        if "decoy" not in diagnosis.machine:
            self.said[diagnosis.id] = diagnosis.fault, diagnosis.probabilities

    async def sample(self, worker: subprocess.Popen[bytes]) -> None:
        """Watch the worker's memory."""
        while True:
            self.rss_mib.append(resident_mib(worker.pid))
            await asyncio.sleep(SAMPLE_SECONDS)

    def worker_log(self) -> str:
        """The end of what the worker has said."""
        return (self.folder / "worker.log").read_text(errors="replace")[-2_000:]

    async def run(self) -> dict[str, Any]:
        """Send, read, compare; returns the report."""
        worker = self.start_worker()
        began = time.monotonic()
        watching = asyncio.create_task(self.sample(worker))
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self.produce())
                both.create_task(self.read(worker))
            seconds = time.monotonic() - began
            watching.cancel()
            worker.terminate()
            code = await asyncio.to_thread(worker.wait, 60)
        finally:
            watching.cancel()
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        problems = self.ledger.close() + self.differences()
        if code != 0:
            problems.append(f"the worker ended with {code}: {self.worker_log()}")
        # A tenth of the run is warm-up: imports, the model, the first states.
        warm = self.rss_mib[len(self.rss_mib) // 10 :] or [0.0]
        kinds = dict(sorted(self.ledger.kinds.items()))
        good = kinds.pop("good", 0)
        return {
            "records": self.sent_records,
            "good": good,
            "hostile": sum(kinds.values()),
            "megabytes": round(self.sent_bytes / 1e6),
            "seconds": round(seconds, 1),
            "hostile_by_kind": kinds,
            "letters_by_reason": dict(sorted(self.ledger.letters.items())),
            "diagnoses_compared": len(self.said),
            "worker_mib": {
                "after_warm_up": round(median(warm[: max(1, len(warm) // 10)])),
                "at_the_end": round(median(warm[-max(1, len(warm) // 10) :])),
                "most": round(max(self.rss_mib)),
            },
            "worker_said": self.worker_log().splitlines(),
            "problems": len(problems),
            "first_problems": problems[:10],
        }

    def differences(self) -> list[str]:
        """How the diagnoses differ from what an engine says of the good records alone."""
        engine, expected = new_engine(self.profile, self.settings, self.models), {}
        for begin in range(0, len(self.good), CHUNK):
            for output in engine.process(self.good[begin : begin + CHUNK]):
                if output.topic == DIAGNOSES:
                    diagnosis = decode_diagnosis(output.value or b"")
                    expected[diagnosis.id] = diagnosis.fault, diagnosis.probabilities
        problems = [f"diagnosis {id_} is missing" for id_ in expected.keys() - self.said.keys()]
        problems += [f"diagnosis {id_} is one too many" for id_ in self.said.keys() - expected.keys()]
        for id_ in expected.keys() & self.said.keys():
            (fault, there), (said, here) = expected[id_], self.said[id_]
            difference = probability_difference(there, here)
            if fault != said or difference > 1.5 * LAST_DECIMAL:
                problems.append(f"diagnosis {id_} differs by {difference:.1e} from that of the good records alone")
        return problems


def resident_mib(process: int) -> float:
    """A process's memory."""
    try:
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    except FileNotFoundError:
        pass  # it has just ended
    return 0.0


def plant_file(folder: Path) -> Path:
    """The Tennessee Eastman plant with foreign forms, and a pattern for machine ids, so that there are unknown ones."""
    text = (resources.files("pipeline.config") / "profiles" / f"{PLANT}.yaml").read_text(encoding="utf-8")
    file = folder / "plant.yaml"
    file.write_text(foreign_plant(text, TARGET.forms, TARGET.prefix), encoding="utf-8")
    return file


def model_files(folder: Path, profile: PlantProfile) -> list[Path]:
    """The shipped model, again for each machine type: they have the same variables and faults."""
    shipped = read_model(demo_model())
    files = []
    for kind in profile.machine_types:
        files.append(folder / f"{kind.name}.safetensors")
        parts = (shipped.tensors, shipped.header.network, shipped.header.vocabulary, kind)
        write_model(files[-1], *parts, name=shipped.header.name, training={})
    return files


def main() -> int:
    """Measure, run, report; exits with 1 if anything was lost, altered or wrongly explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.soak_hostile", description=main.__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="hostile records")
    parser.add_argument("--per-good", type=float, default=4.0, help="hostile records to each good one")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of the measurement of costs")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faultline-hostile-") as folder, small_registry() as registry:
        registry.add(SCHEMA_NUMBER, SCHEMA)
        file = plant_file(Path(folder))
        profile = load_profile(file)
        models = model_files(Path(folder), profile)
        report: dict[str, Any] = {"costs": costs(profile, load_settings(), models, options.rounds, options.seed)}
        with KafkaBroker.start(ensure_jars()) as broker:
            fire = Fire(broker, Path(folder), file, models, registry.url, options.records, options.per_good)
            create_wide_topics(fire.bootstrap, fire.settings, fire.profile)
            try:
                report |= asyncio.run(fire.run())
            except* SoakError as errors:
                print(*errors.exceptions, file=sys.stderr)
                report["problems"] = 1
    print(json.dumps(report, indent=None if options.json else 2))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
