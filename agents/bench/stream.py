"""`faultline bench stream`: Faultline beside its rivals on a real Kafka, as docs/results/benchmark.md describes it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.bench.arena import (
    BEGIN_MS,
    FAULTLINE,
    MACHINES,
    PARTITIONS,
    PERIOD_MS,
    PROGRAMS,
    Arena,
    Counter,
    Plant,
    Process,
    Vectors,
    broker,
    make_plant,
)
from agents.bench.stream_measures import (
    PATIENCE_SECONDS,
    PER_SECOND,
    SETTLE_SECONDS,
    Latency,
    Pace,
    Sample,
    difference,
    latency,
    latency_report,
    pace,
    quiet_report,
    rates_report,
)
from pipeline.errors import DataError, MissingExtraError, SettingsError

CHECKED_READINGS = 2_000
_POLL_SECONDS = 0.05
_START_SECONDS = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Rival:
    """What Faultline is compared with: its program, and the packages that it needs."""

    program: str
    packages: tuple[str, ...]


RIVALS = {
    "faust": Rival("faust_stock.py", ("faust-streaming",)),
    "quix": Rival("quix.py", ("quixstreams",)),
    "bytewax": Rival("bytewax_flow.py", ("bytewax", "confluent-kafka")),
    "aiokafka": Rival("aiokafka_loop.py", ("aiokafka",)),
    "confluent": Rival("confluent_loop.py", ("confluent-kafka",)),
}
CANDIDATES = (FAULTLINE, *RIVALS)
_NEEDED = ("orjson", "msgspec", "numpy", "torch")
_NICE_TO_HAVE = ("uvloop",)


@dataclass(frozen=True)
class Bench:
    """The constants of all runs: the broker, the Python of the rivals, and the folder of logs."""

    bootstrap: str
    python: str
    arithmetic: str
    folder: Path
    say: Say

    def command(self, candidate: str, arena: Arena) -> list[str]:
        """How to start a candidate."""
        if candidate == FAULTLINE:
            return [sys.executable, "-m", "agents.cli", "run"]
        options = {
            "bootstrap": self.bootstrap,
            "source": arena.source,
            "target": arena.target(candidate),
            "group": f"{arena.name}-{candidate}",
            "weights": str(arena.plant.weights),
            "arithmetic": self.arithmetic,
        }
        given = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [self.python, str(PROGRAMS / RIVALS[candidate].program), *given]

    @contextlib.contextmanager
    def running(self, candidate: str, arena: Arena) -> Iterator[Process]:
        """A candidate as a process of its own."""
        settings = arena.settings
        names = ("broker", "topic_prefix", "group", "partitions", "profile", "model", "web_port")
        env = os.environ | {f"FAULTLINE_{name.upper()}": str(getattr(settings, name)) for name in names}
        # One core for each; the libraries would otherwise start a thread for every core, and be slower for it.
        env |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with Process(candidate, self.command(candidate, arena), self.folder / f"{candidate}.log", env) as process:
            yield process

    def throughput(self, candidate: str, arena: Arena, readings: int, seconds: float) -> Pace:
        """Answers per second after the first tenth, up to the last one or for this many seconds."""
        limit = time.monotonic() + _START_SECONDS
        with Counter(arena, candidate) as counter, self.running(candidate, arena) as process:
            samples: list[Sample] = []
            while not samples or (samples[-1].answers < readings and time.monotonic() < limit):
                time.sleep(_POLL_SECONDS)
                count = counter.count()
                now = time.monotonic()
                if count and not samples:
                    limit = now + seconds
                elif not count and (now > limit or process.ended):
                    raise process.error("gave no answer")
                if count:
                    samples.append(Sample(now, count, process.cpu_seconds))
                if process.ended and count < readings:
                    raise process.error(f"ended after {count:,} of {readings:,} answers")
        return pace(samples, readings)

    def latencies(self, candidate: str, plant: Plant, seconds: float) -> Latency:
        """Milliseconds from passing a reading to its producer until a consumer has the answer that it causes."""
        with Arena(self.bootstrap, plant, RIVALS) as arena:
            begin_ms = int(time.time() * 1000) // PERIOD_MS * PERIOD_MS
            sent_file = self.folder / "sent"
            sent_file.unlink(missing_ok=True)
            options = {
                "bootstrap": self.bootstrap,
                "target": arena.source,
                "partitions": PARTITIONS,
                "machines": plant.machines,
                "values": plant.values,
                "period-ms": PERIOD_MS,
                "begin-ms": begin_ms,
                "per-second": PER_SECOND,
                "sent": sent_file,
            }
            given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
            command = [sys.executable, str(PROGRAMS / "pace.py"), *given]
            # The producer starts before the candidate, so that event time always advances.
            with Process("the producer", command, self.folder / "pace.log", dict(os.environ)) as producer:
                with self.running(candidate, arena) as process:
                    heard = asyncio.run(_listen(arena, candidate, process, seconds))
                producer.stop()
            sent = array("q", sent_file.read_bytes())
        return latency(candidate, heard, sent, plant.names, begin_ms=begin_ms, seconds=seconds)

    def answers(self, candidate: str, arena: Arena, readings: int) -> Vectors:
        """All answers of a candidate about an arena's readings."""
        with Counter(arena, candidate) as counter:
            with self.running(candidate, arena) as process:
                until, quiet_since, count = time.monotonic() + _START_SECONDS, 0.0, 0
                # One more second shows that no answer comes twice.
                while count < readings or time.monotonic() - quiet_since < 1.0:
                    time.sleep(_POLL_SECONDS)
                    before, count = count, counter.count()
                    if count != before:
                        quiet_since = time.monotonic()
                    if process.ended or time.monotonic() > until:
                        raise process.error(f"gave {count:,} of {readings:,} answers")
            return counter.read(candidate)

    def check(self, candidates: Sequence[str], plant: Plant) -> None:
        """Check that all give the same answers; raises DataError if one does not."""
        with Arena(self.bootstrap, plant, RIVALS) as arena:
            asyncio.run(arena.fill(CHECKED_READINGS))
            steps = range(CHECKED_READINGS // MACHINES)
            wanted = {(name, BEGIN_MS + step * PERIOD_MS) for step in steps for name in plant.names}
            said = {candidate: self.answers(candidate, arena, CHECKED_READINGS) for candidate in candidates}
        reference = said[candidates[0]]
        for candidate, vectors in said.items():
            self.say(f"check: {candidate}")
            if problem := difference(vectors, reference, wanted):
                raise DataError(f"{candidate} does not give the same answers as {candidates[0]}: {problem}")


async def _listen(arena: Arena, candidate: str, process: Process, seconds: float) -> list[tuple[int, bytes]]:
    """Arrival times and answers, from the first one until all those of the measured seconds should have come."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    heard: list[tuple[int, bytes]] = []
    consumer = AIOKafkaConsumer(bootstrap_servers=arena.bootstrap, group_id=None, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(arena.target(candidate), partition) for partition in range(PARTITIONS)])
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            taken = await consumer.getmany(timeout_ms=200)
            now = time.monotonic_ns()
            if process.ended:
                raise process.error("ended while its latency was measured")
            if taken and not heard:
                until = time.monotonic() + SETTLE_SECONDS + seconds + PATIENCE_SECONDS
            heard += [(now, record.value or b"") for records in taken.values() for record in records]
    finally:
        await consumer.stop()
    if not heard:
        raise process.error("gave no answer")
    return heard


def versions(python: str) -> dict[str, str | None]:
    """The versions of the rivals' packages in their Python; raises SettingsError."""
    packages = sorted({package for rival in RIVALS.values() for package in rival.packages} | {*_NEEDED, *_NICE_TO_HAVE})
    code = (
        "import sys, json\nfrom importlib.metadata import version, PackageNotFoundError\nfound = {}\n"
        "for name in sys.argv[1:]:\n    try: found[name] = version(name)\n"
        "    except PackageNotFoundError: found[name] = None\nprint(json.dumps(found))"
    )
    try:
        done = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SettingsError(f"--python {python} does not run: {error}") from error
    found: dict[str, str | None] = json.loads(done.stdout)
    if missing := [name for name in _NEEDED if found[name] is None]:
        raise MissingExtraError(f"{python} has no {', '.join(missing)}: pip install 'faultline[bench]'")
    return found


def bench_stream(
    *,
    readings: int = 300_000,
    rounds: int = 5,
    only: Sequence[str] | None = None,
    skip_latency: bool = False,
    quiet_topic: bool = False,
    kafka: str | None = None,
    python: str | None = None,
    arithmetic: str = "torch",
    seconds: float = 20.0,
    latency_seconds: float = 15.0,
    say: Say = lambda text: print(text, file=sys.stderr, flush=True),  # noqa: T201
) -> dict[str, Any]:
    """Medians over rounds in which the candidates take turns; None for candidates that are not installed or chosen."""
    chosen = tuple(only) if only else CANDIDATES
    if unknown := [name for name in chosen if name not in CANDIDATES]:
        raise SettingsError(f"--only {','.join(unknown)}: there are {', '.join(CANDIDATES)}")
    if readings < MACHINES * 10 or rounds < 1:
        raise SettingsError(f"a bench needs at least {MACHINES * 10} --readings and one of --rounds")
    python = python or sys.executable
    installed = versions(python)
    missing = {
        name: [package for package in rival.packages if installed[package] is None] for name, rival in RIVALS.items()
    }
    for name in chosen:
        if missing.get(name):
            say(f"{name}: missing {', '.join(missing[name])}; pip install 'faultline[bench]'")
    present = [name for name in chosen if not missing.get(name)]
    if not present:
        raise MissingExtraError("none of the chosen candidates is installed: pip install 'faultline[bench]'")
    paces: dict[str, list[Pace]] = {name: [] for name in present}
    quiet: dict[bool, list[Pace]] = {False: [], True: []}
    waits: dict[str, list[Latency]] = {name: [] for name in present if name in (FAULTLINE, "quix") and not skip_latency}
    folder = Path(tempfile.mkdtemp(prefix="faultline-bench-"))
    try:
        with broker(kafka) as bootstrap:
            bench = Bench(bootstrap, python, arithmetic, folder, say)
            plant = make_plant(folder / "plant")
            bench.check(present, plant)
            plants = (
                {texts: make_plant(folder / f"texts-{texts}", texts=texts) for texts in quiet} if quiet_topic else {}
            )
            for number in range(1, rounds + 1):
                with Arena(bootstrap, plant, RIVALS) as arena:
                    asyncio.run(arena.fill(readings))
                    for name in present:
                        paces[name].append(bench.throughput(name, arena, readings, seconds))
                        say(f"round {number}: {name:>10} {paces[name][-1].per_second:>10,.0f} readings/s")
                for name, waited in waits.items():
                    waited.append(bench.latencies(name, plant, latency_seconds))
                    p50, p99 = np.percentile(waited[-1].caused, (50, 99))
                    say(f"round {number}: {name:>10} p50 {p50:.1f} ms, p99 {p99:.1f} ms")
                if quiet_topic:
                    for texts, found in quiet.items():
                        with Arena(bootstrap, plants[texts], ()) as arena:
                            asyncio.run(arena.fill(readings))
                            found.append(bench.throughput(FAULTLINE, arena, readings, seconds))
                        kind = "with" if texts else "without"
                        say(f"round {number}: {kind} texts {found[-1].per_second:>10,.0f} readings/s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = rates_report(paces, CANDIDATES) | latency_report(waits)
    if quiet_topic:
        report |= quiet_report(quiet)
    return report | {
        "readings": readings,
        "rounds": rounds,
        "machines": MACHINES,
        "partitions": PARTITIONS,
        "rivals_arithmetic": arithmetic,
        "versions": installed,
    }
