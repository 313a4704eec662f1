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
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

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
    answer,
    broker,
    make_plant,
)
from pipeline.errors import DataError, MissingExtraError, SettingsError
from pipeline.wire.messages import LAST_DECIMAL, LEAST_PROBABILITY

PER_SECOND = 1_000.0
CHECKED_READINGS = 2_000
_WARM_UP_SHARE = 0.1
_POLL_SECONDS = 0.05
_START_SECONDS = 60.0
_SETTLE_SECONDS = 3.0
_PATIENCE_SECONDS = 3.0

Say = Callable[[str], None]
Milliseconds = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Rival:
    """Whom Faultline is compared with: its program, and the packages that it needs."""

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
    """What does not change from run to run: where the broker is, what runs the rivals, and where logs go."""

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
        """Answers a second between the first tenth and the last, or until so many seconds are over."""
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
        """Milliseconds from handing a reading to its producer until a consumer has the answer that it causes."""
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
            # The producer runs before the candidate does, so time never seems to stand still.
            with Process("the producer", command, self.folder / "pace.log", dict(os.environ)) as producer:
                with self.running(candidate, arena) as process:
                    heard = asyncio.run(_listen(arena, candidate, process, seconds))
                producer.stop()
            sent = array("q", sent_file.read_bytes())
        return latency(candidate, heard, sent, plant.names, begin_ms=begin_ms, seconds=seconds)

    def answers(self, candidate: str, arena: Arena, readings: int) -> Vectors:
        """Everything that a candidate says about an arena's readings."""
        with Counter(arena, candidate) as counter:
            with self.running(candidate, arena) as process:
                until, quiet_since, count = time.monotonic() + _START_SECONDS, 0.0, 0
                # A second without a further answer tells that nothing is said twice.
                while count < readings or time.monotonic() - quiet_since < 1.0:
                    time.sleep(_POLL_SECONDS)
                    before, count = count, counter.count()
                    if count != before:
                        quiet_since = time.monotonic()
                    if process.ended or time.monotonic() > until:
                        raise process.error(f"gave {count:,} of {readings:,} answers")
            return counter.read(candidate)

    def check(self, candidates: Sequence[str], plant: Plant) -> None:
        """See that all do the same job; raises DataError if one does not."""
        with Arena(self.bootstrap, plant, RIVALS) as arena:
            asyncio.run(arena.fill(CHECKED_READINGS))
            steps = range(CHECKED_READINGS // MACHINES)
            wanted = {(name, BEGIN_MS + step * PERIOD_MS) for step in steps for name in plant.names}
            said = {candidate: self.answers(candidate, arena, CHECKED_READINGS) for candidate in candidates}
        reference = said[candidates[0]]
        for candidate, vectors in said.items():
            self.say(f"check: {candidate}")
            if problem := difference(vectors, reference, wanted):
                raise DataError(f"{candidate} does not do the same job as {candidates[0]}: {problem}")


def difference(vectors: Vectors, reference: Vectors, wanted: set[tuple[str, int]]) -> str | None:
    """How the answers about the wanted readings are not what they have to be, or None."""
    if missing := wanted - vectors.keys():
        return f"{len(missing)} readings have no answer, such as {min(missing)}"
    if twice := [place for place in wanted if len(vectors[place]) != 1]:
        return f"{len(twice)} readings have several answers, such as {min(twice)}"
    for place in sorted(wanted):
        one, other = np.array(vectors[place][0]), np.array(reference[place][0])
        allowed = np.where((one == 0) | (other == 0), LEAST_PROBABILITY, 1.5 * LAST_DECIMAL)
        if (np.abs(one - other) > allowed).any():
            return f"other probabilities for {place}: {vectors[place][0]} instead of {reference[place][0]}"
    return None


class Sample(NamedTuple):
    """How many answers there were at a time, and how much processor time the candidate had used."""

    at: float
    answers: int
    cpu_seconds: float | None = None


@dataclass(frozen=True)
class Pace:
    """Answers a second, the longest time without a further one, and the processor time of one."""

    per_second: float
    longest_pause_ms: float
    cpu_microseconds: float | None


def pace(samples: Sequence[Sample], readings: int) -> Pace:
    """Of the counts of answers at some times, from the first answers on; the first tenth is warming up."""
    warm = min(readings, max(samples[0].answers, int(_WARM_UP_SHARE * min(readings, samples[-1].answers))))
    measured = [sample for sample in samples if sample.answers >= warm]
    first, last = measured[0], measured[-1]
    answers = last.answers - first.answers
    if not answers:
        raise DataError(f"{readings:,} readings are over before there is anything to measure; take more (--readings)")
    grew = [first.at, *(later.at for earlier, later in pairwise(measured) if later.answers > earlier.answers)]
    pauses = [later - earlier for earlier, later in pairwise(grew)]
    cpu = None
    if first.cpu_seconds is not None and last.cpu_seconds is not None:
        cpu = 1e6 * (last.cpu_seconds - first.cpu_seconds) / answers
    return Pace(answers / (last.at - first.at), 1000 * max(pauses), cpu)


async def _listen(arena: Arena, candidate: str, process: Process, seconds: float) -> list[tuple[int, bytes]]:
    """When which answer came, from the first one until all those of the measured seconds should be there."""
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
                until = time.monotonic() + _SETTLE_SECONDS + seconds + _PATIENCE_SECONDS
            heard += [(now, record.value) for records in taken.values() for record in records]
    finally:
        await consumer.stop()
    if not heard:
        raise process.error("gave no answer")
    return heard


@dataclass(frozen=True)
class Latency:
    """Milliseconds from the reading that causes an answer, and from the reading that the answer is about."""

    caused: Milliseconds
    own: Milliseconds


def latency(
    candidate: str,
    heard: Sequence[tuple[int, bytes]],
    sent: Sequence[int],
    machines: Sequence[str],
    *,
    begin_ms: int,
    seconds: float,
) -> Latency:
    """Latencies of all readings that were sent in so many seconds after the candidate had settled.

    A rival answers about a reading when it comes. Faultline answers about a frame when it is over, which the
    machine's next reading tells; that is the reading which causes the answer. A reading that was not answered in
    time counts as answered when the listening ended.
    """
    places = {name: number for number, name in enumerate(machines)}
    later = len(machines) if candidate == FAULTLINE else 0
    since = heard[0][0] + int(_SETTLE_SECONDS * 1e9)
    until = since + int(seconds * 1e9)
    came: dict[int, int] = {}
    for at, value in heard:
        machine, time_ms, _ = answer(candidate, value)
        came.setdefault((time_ms - begin_ms) // PERIOD_MS * len(machines) + places[machine], at)
    end = until + int(_PATIENCE_SECONDS * 1e9)
    caused, own = [], []
    for cause, at in enumerate(sent):
        if since <= at < until and cause >= later:
            arrived = came.get(cause - later, end)
            caused.append((arrived - at) / 1e6)
            own.append((arrived - sent[cause - later]) / 1e6)
    if not caused:
        raise DataError(f"no reading was sent in the {seconds:g} s in which the latency of {candidate} was measured")
    return Latency(np.array(caused), np.array(own))


def versions(python: str) -> dict[str, str | None]:
    """Of the packages that the rivals use, as their Python sees them; raises SettingsError."""
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
        raise MissingExtraError(f"{python} lacks {', '.join(missing)}: pip install 'faultline[bench]'")
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
    """Medians over rounds in which the candidates take turns; what is not installed or left out is None."""
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
        raise MissingExtraError("nothing of what is to be measured is installed: pip install 'faultline[bench]'")
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
    report = _rates_report(paces) | _latency_report(waits)
    if quiet_topic:
        report |= _quiet_report(quiet)
    return report | {
        "readings": readings,
        "rounds": rounds,
        "machines": MACHINES,
        "partitions": PARTITIONS,
        "rivals_arithmetic": arithmetic,
        "versions": installed,
    }


def _rates_report(paces: dict[str, list[Pace]]) -> dict[str, Any]:
    rates = {name: [one.per_second for one in found] for name, found in paces.items()}
    report: dict[str, Any] = {}
    for name in CANDIDATES:
        report[name] = round(median(rates[name]), 1) if name in rates else None
    ours = rates.get(FAULTLINE)
    for name in RIVALS:
        both = name in rates and ours is not None
        # Rounds see different loads of the machine; a ratio within one round does not.
        pairs = zip(ours or (), rates.get(name, ()), strict=False)
        report[f"vs_{name}"] = round(median(mine / theirs for mine, theirs in pairs), 3) if both else None
    report["every_round"] = {name: [round(rate, 1) for rate in found] for name, found in rates.items()}
    report["cpu_microseconds"] = {
        name: round(median(times), 2)
        for name, found in paces.items()
        if (times := [one.cpu_microseconds for one in found if one.cpu_microseconds is not None])
    }
    return report


def _latency_report(waits: dict[str, list[Latency]]) -> dict[str, Any]:
    def middle(name: str, percent: float, part: str) -> float | None:
        found = waits.get(name)
        return round(median(float(np.percentile(getattr(one, part), percent)) for one in found), 2) if found else None

    report: dict[str, Any] = {}
    for name, prefix in ((FAULTLINE, ""), ("quix", "quix_")):
        for percent in (50, 99):
            report[f"{prefix}latency_p{percent}_ms"] = middle(name, percent, "caused")
    report["own_reading_latency_p50_ms"] = middle(FAULTLINE, 50, "own")
    report["frame_period_ms"] = PERIOD_MS
    report["latency_readings_per_second"] = PER_SECOND
    return report


def _quiet_report(quiet: dict[bool, list[Pace]]) -> dict[str, Any]:
    return {
        "quiet_topic_ratio": round(
            median(w.per_second / o.per_second for w, o in zip(quiet[True], quiet[False], strict=True)), 3
        ),
        "quiet_topic_longest_pause_ms": round(max(one.longest_pause_ms for one in quiet[True]), 1),
        "no_quiet_topic_longest_pause_ms": round(max(one.longest_pause_ms for one in quiet[False]), 1),
    }
