"""States that an earlier version saved: they restore, and the machines go on as that version went on."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec
import numpy as np

from pipeline.engine.engine import Engine
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, TWO_SOURCES, SumRunner, control, event, numbered, profile, reading

SAVED = Path(__file__).parent / "saved_states.msgpack.gz"
"""Written by commit a77d642 from `first_part`, with what it published of `second_part` after restoring them."""

T0 = 1_763_600_000_000
S = 1_000

PLANT = ONE_SOURCE + TWO_SOURCES.split("machine_types:\n")[1]
PLANT = PLANT.replace("name: pump", "name: pump\n    match: 'p*'").replace("name: mill", "name: mill\n    match: 'm*'")
PLANT = PLANT.replace("name: mill", "name: mill\n    state_ttl: 1m", 1)


class Saved(msgspec.Struct):
    """The file's content."""

    states: dict[str, bytes]
    outputs: list[tuple[str, bytes, bytes]]  # topic, key, value
    alignment: dict[str, bytes]  # after `second_part`


def new_engine() -> Engine:
    plant = profile(PLANT)
    return Engine(plant, {machine_type.name: SumRunner() for machine_type in plant.machine_types})


def records() -> list[Record]:
    """Two pumps and two mills for ten minutes; m2 falls silent and is forgotten, p2 has a gap and a reset."""
    rng = np.random.default_rng(5)
    made = []
    for second in range(0, 600, 2):
        row = rng.normal(size=3).round(2).tolist()
        made.append(reading("p1", T0 + second * S, row[:2]))
        if not 100 <= second < 180:
            made.append(reading("p2", T0 + second * S - 1_500, {"flow": row[0]}))
        made.append(reading("m1", T0 + second * S, row[:2], topic="sensors.fast"))
        if second % 10 == 0:
            made.append(reading("m1", T0 + second * S, row[2:], topic="sensors.slow"))
        if second < 50:
            made.append(reading("m2", T0 + second * S, row[:2], topic="sensors.fast"))
        if second % 38 == 0:
            made.append(event("p1", T0 + second * S + 9_000, f"hum {second}", id=f"e{second}", source="shift"))
        if second % 60 == 30:
            made.append(control("tick", time_ms=T0 + second * S))
        if second == 250:
            made.append(control("reset", machine="p2")._replace(timestamp_ms=T0 + second * S))
    return numbered(made)


def test_states_of_an_earlier_version_restore_and_go_on_as_before() -> None:
    saved = msgspec.msgpack.decode(gzip.decompress(SAVED.read_bytes()), type=Saved)
    engine = new_engine()
    for name, state in saved.states.items():
        engine.restore(name, state)
    assert engine.machines == 3 and set(engine.forgotten) == {"m2"}
    stream = records()
    outputs = engine.process(stream[len(stream) // 2 :]) + engine.finish()
    assert [(out.topic, out.key, out.value) for out in outputs] == saved.outputs
    decode = msgspec.msgpack.decode
    for name, state in engine.alignment_states().items():
        before = decode(saved.alignment[name])
        assert {part: value for part, value in decode(state).items() if part in before} == before
    assert engine.alignment_states().keys() == saved.alignment.keys()
    assert {topic for topic, _, _ in saved.outputs} >= {"diagnoses", "alarms"}


def test_a_repeated_record_has_no_effect_on_a_restored_machine() -> None:
    saved = msgspec.msgpack.decode(gzip.decompress(SAVED.read_bytes()), type=Saved)
    engine = new_engine()
    for name, state in saved.states.items():
        engine.restore(name, state)
    stream = records()
    first_part = stream[: len(stream) // 2]
    assert engine.process(first_part) == []
    skipped, read = engine.stats.skipped, engine.stats.records
    assert {topic: count for topic, count in skipped.items() if topic != "control"} == {
        topic: count for topic, count in read.items() if topic != "control"
    }
    assert engine.checkpoint() == {}, "and no state has changed"
