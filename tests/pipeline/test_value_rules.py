"""Rules for single values: codes for "no value", ranges, units; sensors that are frozen, machines that are blind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pipeline.alignment.machine_states import MachineState
from pipeline.engine.engine import Engine
from pipeline.errors import ProfileError
from pipeline.frames import Frames
from pipeline.wire.records import Record
from tests.support.builders import ONE_SOURCE, SumRunner, control, diagnoses, numbered, profile, reading, reasons

T0 = 1_763_600_000_000
FOUR = """
plant: small
machine_types:
  - name: pump
    frame_period: 10s
    max_gap_frames: 3
    max_skew: 1m
    sources: {sensors: {topic: sensors, allowed_disorder: 5s, idle_after: 30s}}
    faults: [normal, leak, jam]
    variables: [{name: flow}, {name: load}, {name: heat}, {name: speed}]
"""


class Values(SumRunner):
    """Keeps what the frames held."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[list[float]] = []

    def step(self, frames: Frames) -> Any:
        self.values += frames.values.tolist()
        return super().step(frames)


def run(yaml: str, rows: list[list[float | None]], step_ms: int = 10_000) -> tuple[Engine, Values]:
    runner = Values()
    engine = Engine(profile(yaml), {"pump": runner})
    records = [reading("p1", T0 + step_ms * number, row) for number, row in enumerate(rows)]
    engine.process(numbered(records))
    engine.finish()
    return engine, runner


def variables(text: str) -> str:
    return ONE_SOURCE.replace("[{name: flow}, {name: load}]", text)


def nan_equal(found: list[list[float]], expected: list[list[float]]) -> bool:
    return bool(np.allclose(np.array(found), np.array(expected), rtol=1e-6, equal_nan=True))


def test_codes_for_no_value_are_none_for_one_variable_or_for_all() -> None:
    yaml = variables("[{name: flow, missing: [6553.5, -9999]}, {name: load}]")
    yaml = yaml.replace("faults:", "hold_limit: 10s\n    missing: [3276.7]\n    faults:")
    rows: list[list[float | None]] = [
        [71.2, 1.0],
        [6553.5, 6553.5],
        [-9999, 2.0],
        [3276.7, 3276.699951171875],  # as float32 has it
        [71.3, -9999],
    ]
    engine, runner = run(yaml, rows)
    nan = math.nan
    assert nan_equal(runner.values, [[71.2, 1], [nan, 6553.5], [nan, 2], [nan, nan], [71.3, -9999]])
    assert dict(engine.stats.values_unused) == {("flow", "missing"): 3, ("load", "missing"): 1}
    assert engine.stats.readings_unused == 1


def test_values_outside_the_valid_range_are_not_used_and_counted() -> None:
    yaml = variables("[{name: flow, valid: [0, 100]}, {name: load}]").replace("faults:", "hold_limit: 10s\n    faults:")
    engine, runner = run(yaml, [[0.0, 1.0], [100.0, 2.0], [100.5, 3.0], [-0.1, 4.0], [50.0, 1e39]])
    nan = math.nan
    assert nan_equal(runner.values, [[0, 1], [100, 2], [nan, 3], [nan, 4], [50, nan]])
    assert dict(engine.stats.values_unused) == {("flow", "out_of_range"): 2, ("load", "not_finite"): 1}


def test_a_strict_source_refuses_a_reading_outside_the_range_but_knows_the_codes() -> None:
    yaml = variables("[{name: flow, valid: [0, 100], missing: [-1]}, {name: load}]")
    yaml = yaml.replace("topic: sensors,", "topic: sensors, strict: true,")
    engine = Engine(profile(yaml), {"pump": SumRunner()})
    records = [reading("p1", T0 + n, [value, 1.0]) for n, value in enumerate([1.0, -1.0, 101.0, 1e39])]
    assert reasons(engine.process(numbered(records))) == ["out_of_range", "not_finite"]


@pytest.mark.parametrize(
    ("sent", "unit", "given", "taken"),
    [
        ("degF", "degC", 212.0, 100.0),
        ("F", "C", 212.0, 100.0),
        ("°F", "degC", 212.0, 100.0),
        ("K", "°C", 373.15, 100.0),
        ("degC", "C", 21.5, 21.5),
        ("PSI", "BAR", 100.0, 6.8947573),
        ("1/min", "rpm", 1450.0, 1450.0),
        ("psi", "bar", 100.0, 6.8947573),
        ("m3/h", "l/min", 3.0, 50.0),
        ("V", "V", 3.0, 3.0),
    ],
)
def test_values_in_another_unit_are_converted_before_the_range_is_checked(
    sent: str, unit: str, given: float, taken: float
) -> None:
    low, high = taken - 1, taken + 1
    given_unit = f"unit: '{unit}', sent_unit: '{sent}'"
    yaml = variables(f"[{{name: flow, {given_unit}, valid: [{low}, {high}]}}, {{name: load}}]")
    _, runner = run(yaml, [[given, 1.0]])
    assert nan_equal(runner.values, [[taken, 1.0]])


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("unit: degC, sent_unit: bar", "variables.0.*measure different things"),
        ("unit: Hz, sent_unit: rpm", "measure different things"),
        ("unit: kscmh, sent_unit: m3/h", "kscmh"),
        ("unit: degC, sent_unit: A", "things$"),  # and nothing about the list that is not there now
        ("sent_unit: bar", "needs unit"),
        ("valid: [3, 1]", "more than"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_field(declared: str, message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profile(variables(f"[{{name: flow, {declared}}}, {{name: load}}]"))


def test_a_frozen_gateway_is_evidence_and_is_counted_until_it_moves() -> None:
    engine = Engine(profile(FOUR), {"pump": SumRunner()})
    hours = 4 * 360
    frozen = [reading("p1", T0 + 10_000 * n, [1.25, 2.5, 3.75, 0.0]) for n in range(hours)]
    alive = [reading("p2", T0 + 10_000 * n, [1.25, 2.5, 3.75, n * 1e-3]) for n in range(hours)]
    found = diagnoses(engine.process(numbered(record for pair in zip(frozen, alive, strict=True) for record in pair)))
    told = [one for one in found if one.evidence.frozen]
    assert {one.machine for one in told} == {"p1"}
    assert told[0].frame_start == T0 + 20 * 10_000
    assert told[-1].evidence.frozen == ["flow", "load", "heat", "speed"]
    assert len(told) == hours - 22
    assert engine.condition().frozen == 1
    back = reading("p1", T0 + 10_000 * hours, [1.25, 2.5, 3.75, 0.1], offset=9_000)
    last = reading("p1", T0 + 10_000 * (hours + 2), [1.25, 2.5, 3.75, 0.1], offset=9_001)
    assert diagnoses(engine.process([back, last]))[-1].evidence.frozen == []
    assert engine.condition().frozen == 0


def test_how_long_a_sensor_may_stay_the_same_can_be_declared() -> None:
    one = profile(FOUR.replace("{name: heat}", "{name: heat, frozen_after: 1m}"))
    two = profile(ONE_SOURCE.replace("faults:", "frozen_after: 1m\n    faults:"))
    few = profile(ONE_SOURCE)
    found = {}
    for name, yaml, width in (("one", one, 4), ("two", two, 2), ("few", few, 2)):
        engine = Engine(yaml, {"pump": SumRunner()})
        rows = [[float(n), 5.0, 7.0, float(n)][:width] if name == "one" else [1.0, 2.0] for n in range(50)]
        records = [reading("p1", T0 + 10_000 * n, row) for n, row in enumerate(rows)]
        found[name] = diagnoses(engine.process(numbered(records)))[-1].evidence.frozen
    assert found == {"one": ["heat"], "two": ["flow", "load"], "few": []}


def test_frozen_values_survive_a_restart() -> None:
    engine, again = (Engine(profile(FOUR), {"pump": SumRunner()}) for _ in range(2))
    records = numbered([reading("p1", T0 + 10_000 * n, [1.0, 2.0, 3.0, 4.0]) for n in range(30)])
    engine.process(records[:20])
    for machine, state in engine.checkpoint().items():
        assert state is not None
        again.restore(machine, state)
    assert [one.evidence.frozen for one in diagnoses(again.process(records[20:]))] == [
        one.evidence.frozen for one in diagnoses(engine.process(records[20:]))
    ]
    assert again.condition().frozen == 1


def states(engine: Engine) -> dict[str, int]:
    return {state.value: count for state, count in engine.condition().by_state.items() if count}


def test_machines_are_counted_as_active_stale_offline_or_blind_and_the_oldest_is_shown() -> None:
    engine = Engine(profile(), {"pump": SumRunner()})
    machines = [f"p{number}" for number in range(50)]
    records = []
    for seconds in range(0, 500, 2):
        now = T0 + 1_000 * seconds
        for machine in machines:
            if machine == "p7" and seconds > 60:
                records.append(reading(machine, now - 3_600_000, [1.0, 2.0], timestamp_ms=now))  # all of it late
            elif machine == "p8":
                value = b'{"machine":"p8","time":%d,"values":["Bad","Bad"]}' % now
                records.append(Record("sensors", 0, 0, now, b"p8", value))
            elif not (machine == "p9" and seconds > 440):
                records.append(reading(machine, now, [1.0, 2.0]))
    stream = numbered(records)
    for begin in range(0, len(stream), 1_000):
        engine.process(stream[begin : begin + 1_000])
    engine.process([control("tick", time_ms=T0 + 498_000, offset=0)])
    assert states(engine) == {"active": 47, "blind": 2, "stale": 1}
    (oldest,) = engine.condition().oldest_frame_end_ms.values()
    assert T0 + 50_000 <= oldest <= T0 + 60_000
    live = [reading(machine, T0 + 600_000, [1.0, 2.0], offset=90_000 + n) for n, machine in enumerate(machines[10:])]
    engine.process(live)
    engine.process([control("tick", time_ms=T0 + 600_000, offset=1)])
    assert engine.condition().by_state[MachineState.OFFLINE] >= 1
    whole = Engine(profile(), {"pump": SumRunner()})
    whole.process(stream)
    whole.process([control("tick", time_ms=T0 + 498_000, offset=0)])
    assert states(whole) == {"active": 47, "blind": 2, "stale": 1}


def test_history_that_comes_after_live_data_is_refused_and_counted() -> None:
    engine = Engine(profile(), {"pump": SumRunner()})
    live = [reading("p1", T0 + 1_000 * n, [1.0, 2.0], offset=n) for n in range(30)]
    history = [
        reading("p1", T0 - 1_000 * n, [1.0, 2.0], timestamp_ms=T0 + 30_000 + n, offset=30 + n) for n in range(1, 20)
    ]
    assert reasons(engine.process([*live, *history])) == ["late"] * 19
    assert engine.stats.late["sensors"] == 19
