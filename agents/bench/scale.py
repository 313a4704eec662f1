"""`faultline bench scale`: the cost of many machines: time per reading, memory, states, and restoring them."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from models.configs.diagnoser import DiagnoserConfig
from models.configs.sensors import SeqLSTMConfig
from models.diagnoser import Diagnoser
from models.network_file import compile_network
from models.training.threads import limit_threads
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.engine.engine import Engine
from pipeline.frames import Frames, StepRunner
from pipeline.wire.readings import decode_reading
from pipeline.wire.records import Record

VARIABLES = 52
FAULTS = ("normal", "cooling", "feed", "valve")
FRAME_MS = 60_000
CHUNK_RECORDS = 4096
CHECKPOINT_RECORDS = 131_072
"""As a worker's settings have it."""

_BEGIN_MS = 1_763_600_040_000
_PARTITIONS = 4
_ROWS = 256

Say = Callable[[str], None]


def bench_profile() -> PlantProfile:
    """One sensor topic with 52 variables, one reading per minute, no texts."""
    text = f"""
plant: scale
machine_types:
  - name: unit
    match: "*"
    frame_period: {FRAME_MS // 1000}s
    texts: false
    state_ttl: 30d
    sources: {{sensors: {{topic: sensors, expected_period: {FRAME_MS // 1000}s, allowed_disorder: 0s}}}}
    faults: [{", ".join(FAULTS)}]
    variables: [{", ".join(f"{{name: v{number}}}" for number in range(VARIABLES))}]
"""
    return parse_profile(text, where="bench scale")


def make_runner(seed: int) -> StepRunner:
    """An untrained LSTM 52-40-25 with a small head: only its cost matters here."""
    import torch

    torch.manual_seed(seed)
    config = SeqLSTMConfig(mask_inputs=False, head=(32,))
    network = Diagnoser(DiagnoserConfig(variables=VARIABLES, classes=len(FAULTS), sensors=config, text=None), None)
    return compile_network(network, name="bench-scale", digest="0" * 64, classes=FAULTS)


class Source:
    """Readings of all machines, one per frame, made on demand: a day of them does not fit in memory."""

    def __init__(self, machines: int, seed: int) -> None:
        rows = np.random.default_rng(seed).standard_normal((_ROWS, VARIABLES)).round(4).tolist()
        self._rows = [msgspec.json.encode(row) for row in rows]
        self._names = [f"m{number:05d}" for number in range(machines)]
        self._offsets = [0] * _PARTITIONS
        self.frame = 0

    def frames(self, count: int) -> Iterator[list[Record]]:
        """Chunks of records with `count` frames of every machine."""
        chunk: list[Record] = []
        for _ in range(count):
            at = _BEGIN_MS + self.frame * FRAME_MS
            for number, name in enumerate(self._names):
                partition = number % _PARTITIONS
                values = self._rows[(number * 7 + self.frame) % _ROWS]
                value = b'{"machine":"%b","time":%d,"values":%b}' % (name.encode(), at, values)
                chunk.append(Record("sensors", partition, self._offsets[partition], at, name.encode(), value))
                self._offsets[partition] += 1
                if len(chunk) == CHUNK_RECORDS:
                    yield chunk
                    chunk = []
            self.frame += 1
        if chunk:
            yield chunk


class Plant:
    """An engine at work: chunks in, states saved as often as a worker saves them."""

    def __init__(self, machines: int, seed: int) -> None:
        self.source = Source(machines, seed)
        self.engine = Engine(bench_profile(), {"unit": make_runner(seed)})
        self.readings = 0
        self.seconds = 0.0
        self.state_bytes = 0
        self._unsaved = 0

    def run(self, frames: int) -> None:
        """Diagnose this many frames of every machine; making the records is not timed."""
        for chunk in self.source.frames(frames):
            began = time.perf_counter()
            outputs = self.engine.process(chunk)
            self._unsaved += len(chunk)
            if self._unsaved >= CHECKPOINT_RECORDS:
                self.save()
            self.seconds += time.perf_counter() - began
            if len(outputs) > len(chunk) + 1_000:
                raise AssertionError("more outputs than frames can have closed")
            self.readings += len(chunk)

    def save(self) -> dict[str, bytes]:
        """A checkpoint."""
        self._unsaved = 0
        states = {name: state for name, state in self.engine.checkpoint().items() if state is not None}
        if states:
            self.state_bytes = sum(map(len, states.values())) // len(states)
        return states


def cost(machines: int, readings: int, seed: int) -> float:
    """Seconds per reading, checkpoints included; machines are warm before the clock starts."""
    plant = Plant(machines, seed)
    plant.run(max(3, 2 * CHUNK_RECORDS // machines))
    plant.seconds, plant.readings = 0.0, 0
    plant.run(max(1, readings // machines))
    return plant.seconds / plant.readings


def resident_bytes() -> int:
    """Memory of this process, from the operating system."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


def parts(seed: int, rows: int = 200, rounds: int = 200) -> dict[str, float]:
    """Microseconds per reading of decoding, stepping and writing, each alone, in rounds of `rows` machines."""
    profile, rng = bench_profile(), np.random.default_rng(seed)
    values = [msgspec.json.encode(row) for row in rng.standard_normal((rows, VARIABLES)).round(4).tolist()]
    wire = [b'{"machine":"m%d","time":%d,"values":%b}' % (n, _BEGIN_MS, one) for n, one in enumerate(values)]
    runner = make_runner(seed)
    runner.reserve(rows)
    frames = Frames(
        slots=np.arange(rows),
        start_ms=np.full(rows, _BEGIN_MS),
        period_ms=FRAME_MS,
        values=rng.standard_normal((rows, VARIABLES)).astype(np.float32),
        observed=np.ones((rows, VARIABLES), np.bool_),
        age_ms=np.zeros((rows, VARIABLES), np.int64),
        reset=np.zeros(rows, np.bool_),
        reset_reason=np.zeros(rows, np.int64),
        revision=np.zeros(rows, np.int64),
    )
    engine = Engine(profile, {"unit": runner})
    machines = [engine.groups["unit"].add(f"m{number}", 0, _BEGIN_MS) for number in range(rows)]
    writer, result = engine.models["unit"].writer, runner.step(frames)

    def decode() -> None:
        for one in wire:
            decode_reading(one)

    def step() -> None:
        runner.step(frames)

    def write() -> None:
        writer.write(frames, result, machines, [], engine.stats.diagnoses)

    found = {}
    for name, work in {"decode": decode, "step": step, "write": write}.items():
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        found[name] = round(median(times) / rows * 1e6, 3)
    return found


def bench_scale(
    *, readings: int = 200_000, rounds: int = 3, machines: int = 10_000, hours: float = 24.0, seed: int = 0, say: Say
) -> dict[str, Any]:
    """A day of many machines, watching memory; then taking them over; then costs at 100 and at many in turn."""
    limit_threads(1)
    gc.collect()
    empty = resident_bytes()
    plant = Plant(machines, seed)
    total = int(hours * 3_600_000 / FRAME_MS)
    warm = max(1, total // 24)
    plant.run(warm)
    plant.save()
    gc.collect()
    begin, peak = resident_bytes(), 0
    per_step = max(1, total // 24)
    for done in range(warm, total, per_step):
        plant.run(min(per_step, total - done))
        peak = max(peak, resident_bytes())
        say(f"{done * FRAME_MS / 3.6e6:5.1f} h of plant time, {resident_bytes() / 2**20:,.0f} MiB")
    gc.collect()
    end = resident_bytes()
    plant.run(1)
    states = plant.save()
    heir = Engine(bench_profile(), {"unit": make_runner(seed)})
    began = time.perf_counter()
    for name, state in states.items():
        heir.restore(name, state)
    restored = time.perf_counter() - began
    few, many = [], []
    for number in range(rounds):
        few.append(cost(100, readings, seed + number))
        many.append(cost(machines, readings, seed + number))
        say(f"round {number + 1}: {few[-1] * 1e6:.2f} us at 100 machines, {many[-1] * 1e6:.2f} us at {machines:,}")
    return {
        "microseconds_per_reading_100_machines": round(median(few) * 1e6, 3),
        f"microseconds_per_reading_{machines}_machines": round(median(many) * 1e6, 3),
        "cost_ratio": round(median(b / a for a, b in zip(few, many, strict=True)), 3),
        "plant_hours": hours,
        "readings": plant.readings,
        "seconds": round(plant.seconds, 1),
        "memory_warm_mib": round(begin / 2**20, 1),
        "memory_end_mib": round(end / 2**20, 1),
        "memory_peak_mib": round(peak / 2**20, 1),
        "memory_growth": round(end / begin - 1, 4),
        "memory_bytes_per_machine": round((end - empty) / machines),
        "state_bytes_per_machine": plant.state_bytes,
        "restore_microseconds_per_machine": round(restored / len(states) * 1e6, 1),
        "parts_microseconds": parts(seed),
        "machines": machines,
        "rounds": rounds,
    }
