"""Sources that report changes only: the last value holds, time closes frames, and a heartbeat tells silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.engine import Engine
from pipeline.wire.records import Output, Record
from tests.support.builders import ONE_SOURCE, SumRunner, control, diagnoses, numbered, profile, reading

T0 = 1_763_600_000_000
HEARTBEAT_MS = 720_000
ON_CHANGE = ONE_SOURCE.replace(
    "{topic: sensors, allowed_disorder: 5s, idle_after: 30s}",
    "{topic: sensors, allowed_disorder: 5s, report: on_change, heartbeat: 12m}",
)
MIXED = """
plant: mixed
machine_types:
  - name: mill
    frame_period: 10s
    max_gap_frames: 3
    max_skew: 1h
    sources:
      fast: {topic: sensors.fast, allowed_disorder: 2s, idle_after: 30s}
      valves: {topic: sensors.valves, report: on_change, heartbeat: 12m}
    faults: [normal, leak, jam]
    variables: [{name: shake, source: fast}, {name: valve, source: valves}]
"""


class Values(SumRunner):
    """Keeps what every frame held."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[tuple[int, list[float], list[bool], bool]] = []

    def step(self, frames):  # type: ignore[no-untyped-def]
        for row, start in enumerate(frames.start_ms.tolist()):
            values = [round(float(value), 3) for value in frames.values[row]]
            self.frames.append((start - T0, values, frames.observed[row].tolist(), bool(frames.reset[row])))
        return super().step(frames)


def ticks(begin_ms: int, end_ms: int) -> list[Record]:
    return [control("tick", time_ms=time, offset=0) for time in range(begin_ms, end_ms, 5_000)]


def ordered(*records: Record) -> list[Record]:
    return numbered(sorted(records, key=lambda record: record.timestamp_ms))


def test_the_last_value_holds_and_frames_close_with_time() -> None:
    runner = Values()
    engine = Engine(profile(ON_CHANGE), {"pump": runner})
    changes = [
        reading("p1", T0 + 1_000, {"flow": 1.0, "load": 5.0}),
        reading("p1", T0 + 601_000, {"flow": 2.0}),
    ]
    outputs = engine.process(ordered(*changes, *ticks(T0 + 5_000, T0 + 1_200_000)))
    found = diagnoses(outputs)
    assert {one.status for one in found} == {"active"}
    assert [one.reset for one in found] == ["start"] + [None] * (len(found) - 1)
    assert [start for start, *_ in runner.frames] == list(range(0, 1_180_001, 10_000))  # to within the last 10 s
    assert all(observed == [True, True] for _, _, observed, _ in runner.frames)
    assert {tuple(values) for start, values, _, _ in runner.frames if start < 600_000} == {(1.0, 5.0)}
    assert {tuple(values) for start, values, _, _ in runner.frames if start >= 600_000} == {(2.0, 5.0)}


def test_a_change_is_diagnosed_without_waiting_for_the_next_one() -> None:
    engine = Engine(profile(ON_CHANGE), {"pump": SumRunner()})
    engine.process(ordered(reading("p1", T0, {"flow": 1.0, "load": 5.0})))
    (first,) = diagnoses(engine.process([control("tick", time_ms=T0 + 15_000, offset=1)]))
    assert (first.frame_start, first.frame_end) == (T0, T0 + 10_000)


def test_a_heartbeat_tells_when_the_source_is_silent() -> None:
    engine = Engine(profile(ON_CHANGE), {"pump": SumRunner()})
    outputs = engine.process(ordered(reading("p1", T0, {"flow": 1.0, "load": 5.0}), *ticks(T0, T0 + 3 * HEARTBEAT_MS)))
    status = [one.status for one in diagnoses(outputs)]
    beat = HEARTBEAT_MS // 10_000
    assert beat - 2 <= status.count("active") <= beat + 1
    assert status.count("stale") >= beat - 2 and status[-1] == "offline" and status.count("offline") == 1
    back = diagnoses(engine.process([reading("p1", T0 + 4 * HEARTBEAT_MS, {"flow": 1.0, "load": 5.0}, offset=1)]))
    later = [control("tick", time_ms=T0 + 4 * HEARTBEAT_MS + 15_000, offset=10_000)]
    back += diagnoses(engine.process(later))
    assert (back[-1].status, back[-1].reset) == ("active", "gap")


def test_a_change_that_comes_after_its_frame_holds_from_the_open_one_but_an_older_one_is_late() -> None:
    runner = Values()
    engine = Engine(profile(ON_CHANGE), {"pump": runner})
    early = [reading("p1", T0 + 1_000, {"flow": 1.0, "load": 5.0}), *ticks(T0 + 5_000, T0 + 60_001)]
    engine.process(ordered(*early))
    delayed = [
        reading("p1", T0 + 20_000, {"flow": 2.0}, timestamp_ms=T0 + 61_000, offset=1),
        reading("p1", T0 + 22_000, {"flow": 3.0}, timestamp_ms=T0 + 61_001, offset=2),
        reading("p1", T0 + 2_000, {"flow": 9.0}, timestamp_ms=T0 + 61_002, offset=3),
    ]
    outputs = engine.process(delayed)
    assert [out.topic for out in outputs] == ["late"]
    engine.process([control("tick", time_ms=T0 + 120_000, offset=100)])
    by_start = {start: values for start, values, _, _ in runner.frames}
    assert by_start[40_000] == [1.0, 5.0] and by_start[50_000] == [3.0, 5.0]
    assert 9.0 not in {values[0] for values in by_start.values()}


def test_beside_a_regular_source_changes_hold_and_hold_nothing_back() -> None:
    runner = Values()
    engine = Engine(profile(MIXED), {"mill": runner})
    regular = [reading("m1", T0 + 1_000 * n, {"shake": float(n)}, topic="sensors.fast") for n in range(100)]
    changes = [
        reading("m1", T0, {"valve": 7.0}, topic="sensors.valves"),
        reading("m1", T0 + 45_000, {"valve": 8.0}, topic="sensors.valves", timestamp_ms=T0 + 71_500),
    ]
    engine.process(ordered(*regular, *changes))
    held = {start: values[1] for start, values, _, _ in runner.frames}
    assert held == {start: (7.0 if start < 60_000 else 8.0) for start in range(0, 90_000, 10_000)}
    assert all(observed == [True, True] for _, _, observed, _ in runner.frames)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40))
@pytest.mark.parametrize("yaml", [ON_CHANGE, MIXED], ids=["alone", "mixed"])
def test_how_the_input_is_cut_changes_nothing(yaml: str, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    kind = profile(yaml).machine_types[0]
    records = []
    for number in range(120):
        stamp = T0 + int(rng.integers(0, 300_000))
        variable = kind.variables[int(rng.integers(2))]
        topic = kind.sources[variable.source].topic
        time = stamp - int(rng.choice([0, 0, 1_000, 20_000]))
        machine = f"m{int(rng.integers(3))}"
        records.append(reading(machine, time, {variable.name: float(number)}, topic=topic, timestamp_ms=stamp))
    stream = ordered(*records, *ticks(T0, T0 + 320_000))

    def result(parts: list[list[Record]]) -> list[tuple[str, bytes | None, bytes | None]]:
        engine = Engine(profile(yaml), {kind.name: SumRunner()})
        outputs: list[Output] = [out for part in parts for out in engine.process(part)]
        outputs += engine.finish()
        return sorted((out.topic, out.key, out.value) for out in outputs)

    cut = [stream[begin : begin + size] for begin in range(0, len(stream), size)]
    assert result([stream]) == result(cut)


@pytest.mark.parametrize(
    "told",
    [{"flow": None, "load": None}, {"load": None}, {}, {"alive": 1.0}, {"flow": 1.0}],
    ids=["nulls", "one null", "nothing", "unknown", "one of two"],
)
@pytest.mark.parametrize("restart", [False, True])
def test_values_hold_for_as_long_as_their_source_says_anything(told: dict[str, float | None], restart: bool) -> None:
    runner = Values()
    engine = Engine(profile(ON_CHANGE), {"pump": runner})
    beats = [reading("p1", T0 + HEARTBEAT_MS // 2 * number, told) for number in range(1, 6)]
    stream = ordered(reading("p1", T0, {"flow": 1.0, "load": 5.0}), *beats, *ticks(T0, T0 + 5 * HEARTBEAT_MS // 2))
    found = diagnoses(engine.process(stream[: len(stream) // 2]))
    if restart:
        states = engine.checkpoint()
        engine = Engine(profile(ON_CHANGE), {"pump": runner})
        for machine, state in states.items():
            engine.restore(machine, state or b"")
    found += diagnoses(engine.process(stream[len(stream) // 2 :]))
    assert {one.status for one in found} == {"active"}
    assert {(tuple(values), tuple(observed)) for _, values, observed, _ in runner.frames} == {
        ((1.0, 5.0), (True, True))
    }
    assert runner.frames[-1][0] == 5 * HEARTBEAT_MS // 2 - 20_000


def test_what_one_source_says_does_not_hold_the_values_of_another() -> None:
    runner = Values()
    two = MIXED.replace("allowed_disorder: 2s, idle_after: 30s", "report: on_change, heartbeat: 12m")
    engine = Engine(profile(two), {"mill": runner})
    fast = [reading("m1", T0 + 120_000 * number, {"shake": 1.0}, topic="sensors.fast") for number in range(12)]
    slow = reading("m1", T0, {"valve": 7.0}, topic="sensors.valves")
    engine.process(ordered(slow, *fast, *ticks(T0, T0 + 1_380_000)))
    valves = {start: values[1] for start, values, _, _ in runner.frames}
    assert {value for start, value in valves.items() if start < HEARTBEAT_MS} == {7.0}
    assert all(np.isnan(value) for start, value in valves.items() if start >= HEARTBEAT_MS)
    assert {values[0] for _, values, _, _ in runner.frames} == {1.0}


def test_a_machine_of_which_nothing_is_known_does_not_begin_with_a_heartbeat() -> None:
    engine = Engine(profile(ON_CHANGE), {"pump": SumRunner()})
    engine.process([reading("p1", T0, {"alive": 1.0})])
    assert (engine.machines, engine.stats.readings_unused) == (0, 1)
