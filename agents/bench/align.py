"""`faultline bench align`: the cost of decoding and alignment per reading, without a model, on one core.

Readings are of Faultline's own form, or of a foreign one: an object of values by the names that a plant has for them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import msgspec
import numpy as np

from pipeline.config.form import Form
from pipeline.config.profile import PlantProfile, load_profile
from pipeline.engine.frame_stream import FrameStream
from pipeline.engine.machines import MachineGroup
from pipeline.engine.stats import Outcome
from pipeline.frames import Frames
from pipeline.wire.records import Record

CHUNK_RECORDS = 4096
FOREIGN_TOPIC = "/plant.readings"
_BEGIN_MS = 1_763_600_040_000


def make_records(profile: PlantProfile, machines: int, readings: int, seed: int) -> list[Record]:
    """Readings in list form, machine after machine, one per frame."""
    kind = profile.machine_types[0]
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((256, len(kind.variables))).round(4).tolist()
    records = []
    offsets: dict[int, int] = {}
    for number in range(readings):
        name, step = f"te-{number % machines}", number // machines
        at = _BEGIN_MS + step * kind.frame_period_ms
        value = msgspec.json.encode({"machine": name, "time": at, "values": rows[number % 256]})
        partition = number % machines % 4
        offsets[partition] = offsets.get(partition, -1) + 1
        records.append(Record("sensors", partition, offsets[partition], at, name.encode(), value))
    return records


def foreign_profile(profile: PlantProfile) -> PlantProfile:
    """The same plant with readings of a foreign form, in a topic of its own."""
    kind = profile.machine_types[0]
    form = Form.model_validate({"machine": "device", "time": {"path": "ts", "unit": "ms"}, "values": "tags"})
    tags = [f"Reactor.Tag{number}" for number in range(len(kind.variables))]
    variables = zip(kind.variables, tags, strict=True)
    changes = {
        "variables": tuple(variable.model_copy(update={"tag": tag}) for variable, tag in variables),
        "sources": {
            name: source.model_copy(update={"topic": FOREIGN_TOPIC, "form": form})
            for name, source in kind.sources.items()
        },
    }
    return profile.model_copy(update={"machine_types": (kind.model_copy(update=changes),)})


def foreign_records(profile: PlantProfile, records: Sequence[Record]) -> list[Record]:
    """The same readings in the foreign form of a profile."""
    tags = [variable.tag for variable in profile.machine_types[0].variables]
    found = []
    for record in records:
        reading = msgspec.json.decode(record.value or b"")
        body = {
            "ts": reading["time"],
            "device": reading["machine"],
            "tags": dict(zip(tags, reading["values"], strict=True)),
        }
        found.append(record._replace(topic=FOREIGN_TOPIC, value=msgspec.json.encode(body)))
    return found


def measure(profile: PlantProfile, machines: int, readings: int, seed: int, *, foreign: bool = False) -> float:
    """Seconds per reading from bytes to frames; the machines are warm before the clock starts."""
    records = make_records(profile, machines, readings + 2 * machines, seed)
    if foreign:
        profile = foreign_profile(profile)
        records = foreign_records(profile, records)
    frames_seen = 0

    def take(_: MachineGroup, rounds: Sequence[Frames], __: Outcome) -> None:
        nonlocal frames_seen
        frames_seen += sum(len(frames.slots) for frames in rounds)

    engine = FrameStream(profile, take)
    warm, timed = records[: 2 * machines], records[2 * machines :]
    for begin in range(0, len(warm), CHUNK_RECORDS):
        engine.process(warm[begin : begin + CHUNK_RECORDS])
    before = frames_seen
    began = time.perf_counter()
    for begin in range(0, len(timed), CHUNK_RECORDS):
        engine.process(timed[begin : begin + CHUNK_RECORDS])
    seconds = time.perf_counter() - began
    if frames_seen - before != len(timed):
        raise AssertionError(f"{frames_seen - before} frames came from {len(timed)} readings")
    return seconds / len(timed)


def bench_align(readings: int = 100_000, rounds: int = 5, seed: int = 0) -> dict[str, Any]:
    """Medians over rounds in which 100 and 10,000 machines and a foreign form alternate: all see the same load."""
    profile = load_profile("tennessee_eastman")
    few, many, foreign = [], [], []
    for number in range(rounds):
        few.append(measure(profile, 100, readings, seed + number))
        foreign.append(measure(profile, 100, readings, seed + number, foreign=True))
        many.append(measure(profile, 10_000, readings, seed + number))
    return {
        "readings_per_second": round(1 / median(few), 1),
        "readings_per_second_10000_machines": round(1 / median(many), 1),
        "cost_ratio_10000_to_100": round(median(b / a for a, b in zip(few, many, strict=True)), 3),
        "readings_per_second_foreign_form": round(1 / median(foreign), 1),
        "foreign_to_own_form": round(median(a / b for a, b in zip(few, foreign, strict=True)), 3),
        "microseconds_per_reading": round(median(few) * 1e6, 3),
        "variables": len(profile.machine_types[0].variables),
        "readings": readings,
        "rounds": rounds,
    }
