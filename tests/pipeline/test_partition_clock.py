"""Time of a partition: one machine's wild clock moves nobody else's, whole plants that paused go on at once."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from agents.worker.clock_guard import ClockGuard
from pipeline.alignment.machine_states import STATES
from pipeline.alignment.partition_clock import PartitionClocks
from pipeline.engine.engine import Engine
from pipeline.wire.records import Output, Record
from pipeline.wire.states import encode_state
from tests.support.builders import ONE_SOURCE, SumRunner, control, diagnoses, numbered, profile, reading, reasons

T0 = 1_763_600_000_000
WILD = 1_930_000_000_000
TEN = [f"p{number}" for number in range(10)]


def engine() -> Engine:
    return Engine(profile(), {"pump": SumRunner()})


def rounds(begin_ms: int, count: int, machines: Sequence[str] = TEN) -> list[Record]:
    """Readings of all machines, one a second each."""
    times = [begin_ms + 1_000 * number for number in range(count)]
    return [reading(machine, time, [1.0, 2.0]) for time in times for machine in machines]


def ticks(eng: Engine, count: int) -> list[Output]:
    """What a worker's ticks lead to, each five seconds after the partition's clock."""
    outputs: list[Output] = []
    for number in range(count):
        clock = eng.clock_ms(0)
        assert clock is not None
        outputs += eng.process([control("tick", time_ms=clock + 5_000, offset=1_000 + number)])
    return outputs


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in blocks"])
@pytest.mark.parametrize("again", [1, 40], ids=["once", "again and again"])
def test_one_wild_clock_moves_nobody_else_and_a_command_frees_its_machine(together: bool, again: int) -> None:
    eng, clean = engine(), engine()
    good = rounds(T0, 60)
    wild = [reading("p3", WILD + 1_000 * number, [9.0, 9.0]) for number in range(again)]
    mixed = numbered([*good[:300], *wild, *[record for record in good[300:] if record.key != b"p3"]])
    parts = [mixed] if together else [[record] for record in mixed]
    outputs = [out for part in parts for out in eng.process(part)]
    expected = clean.process(numbered(good))
    assert eng.clock_ms(0) == clean.clock_ms(0) == good[-1].timestamp_ms

    def others(found: list[Output]) -> list[bytes]:
        return sorted(out.value or b"" for out in found if out.key != b"p3" and out.topic == "diagnoses")

    assert others(outputs) == others(expected)
    assert others(ticks(eng, 3)) == others(ticks(clean, 3))
    assert eng.stats.evicted == 0 and eng.machines == 10

    late = [record._replace(offset=2_000 + at) for at, record in enumerate(rounds(T0 + 80_000, 3, ["p3"]))]
    assert reasons(eng.process(late)) == ["late"] * 3
    freed = Record("control", 0, 1_500, T0 + 81_000, b"p3", json.dumps({"kind": "forget", "machine": "p3"}).encode())
    assert eng.process([freed]) == []
    assert (eng.machines, eng.stats.forgotten) == (9, 1)
    after = [record._replace(offset=3_000 + at) for at, record in enumerate(rounds(T0 + 90_000, 30, ["p3"]))]
    found = diagnoses(eng.process(after))
    assert found and {one.machine for one in found} == {"p3"} and found[0].reset == "start"


def test_forgetting_a_machine_that_is_not_known_is_refused() -> None:
    record = Record("control", 0, 0, T0, b"p3", json.dumps({"kind": "forget", "machine": "p3"}).encode())
    assert reasons(engine().process([record])) == ["unknown_machine"]


def test_a_wild_clock_that_comes_first_gives_way_to_the_others() -> None:
    eng = engine()
    eng.process([reading("p3", WILD, [9.0, 9.0], offset=0)])
    assert eng.clock_ms(0) == WILD  # nothing speaks against it yet
    eng.process([record._replace(offset=1 + at) for at, record in enumerate(rounds(T0, 2, TEN[4:]))])
    assert eng.clock_ms(0) == T0 + 1_000


def test_a_restart_keeps_the_partitions_clock_and_not_the_wild_one() -> None:
    eng = engine()
    eng.process(numbered([*rounds(T0, 5), reading("p3", WILD, [9.0, 9.0])]))
    states = eng.checkpoint()
    again = engine()
    for machine, state in states.items():
        assert state is not None
        again.restore(machine, state)
    assert again.clock_ms(0) == T0 + 4_000
    assert ticks(again, 2) == []


def test_a_plant_that_paused_goes_on_as_soon_as_most_machines_are_heard() -> None:
    eng = engine()
    eng.process(numbered(rounds(T0, 5)))
    later = T0 + 3 * 3_600_000
    for count, machine in enumerate(TEN, 1):
        eng.process([reading(machine, later + count, [1.0, 2.0], offset=100 + count)])
        clock = eng.clock_ms(0)
        assert clock is not None
        assert (clock >= later) == (count >= 6)


def test_a_machine_alone_in_its_partition_moves_its_clock() -> None:
    eng = engine()
    for number, time in enumerate([T0, T0 + 10**7, T0 + 10**9]):
        eng.process([reading("p1", time, [1.0, 2.0], offset=number)])
        assert eng.clock_ms(0) == time


def test_the_only_machine_that_came_back_is_believed_after_a_while() -> None:
    clocks = PartitionClocks(10_000, lambda _: [(b"a", T0), (b"b", T0)])
    clocks.heard(0, b"a", T0)
    clocks.heard(0, b"b", T0)
    for second in range(30):
        clocks.heard(0, b"a", T0 + 10**7 + 1_000 * second)
        assert (clocks.now_ms(0) == T0) == (second < 10)
    clocks.heard(0, b"b", T0 + 500)  # b was there after all, so a's clock is wild
    assert clocks.now_ms(0) == T0 + 500


def test_a_tick_that_nobody_confirms_is_taken_back() -> None:
    clocks = PartitionClocks(10_000, lambda _: [])
    clocks.heard(0, b"a", T0)
    clocks.tick(0, WILD)
    assert (clocks.now_ms(0), clocks.confirmed_ms(0)) == (WILD, T0)
    clocks.heard(0, b"a", T0 + 1_000)
    assert clocks.now_ms(0) == T0 + 1_000


def test_a_machine_ahead_by_less_than_an_hour_makes_nobody_silent() -> None:
    eng = engine()
    pairs = zip(rounds(T0, 120), rounds(T0 + 50_000, 120, ["ahead"] * 10), strict=True)
    outputs = eng.process(numbered(record for pair in pairs for record in pair))
    outputs += ticks(eng, 1)
    assert {one.status for one in diagnoses(outputs) if one.machine != "ahead"} == {"active"}


# -- machines that are ahead, and what is kept of those that were forgotten ------------------------------------------


def send(eng: Engine, kind: str, machine: str, *, offset: int) -> list[Output]:
    body = json.dumps({"kind": kind, "machine": machine}).encode()
    return eng.process([Record("control", 0, offset, T0, machine.encode(), body)])


def state_of(eng: Engine, machine: str) -> str:
    (found,) = (one for one in eng.groups["pump"].machines if one is not None and one.name == machine)
    return STATES[int(found.group.aligner.states(np.array([found.slot]))[0])].value


@pytest.mark.parametrize("kind", ["reset", "end", "forget"])
def test_a_machine_whose_clock_was_ahead_is_freed_by_any_command(kind: str) -> None:
    eng = Engine(profile(ONE_SOURCE.replace("max_skew: 1m", "max_skew: 1h")), {"pump": SumRunner()})
    ahead_ms = 50 * 60_000
    stamps = [T0 + 1_000 * n for n in range(60)]
    records = [reading("p0", t, [1.0, 2.0]) for t in stamps]
    records += [reading("p1", t + ahead_ms, [1.0, 2.0], timestamp_ms=t) for t in stamps]
    first = diagnoses(eng.process(numbered(sorted(records, key=lambda one: one.timestamp_ms))))
    assert state_of(eng, "p1") == "ahead" and state_of(eng, "p0") == "active"
    corrected = [
        reading(m, T0 + 60_000 + 1_000 * n, [3.0, 4.0], offset=200 + 2 * n + at)
        for n in range(60)
        for at, m in enumerate(["p0", "p1"])
    ]
    assert reasons(eng.process(corrected[:40])) == ["late"] * 20  # without a command, until real time catches up
    closing = diagnoses(send(eng, kind, "p1", offset=0))
    assert len(closing) == (kind == "end")  # the frame of the future that it still held
    found = diagnoses(eng.process(corrected[40:]))
    assert [one.reset for one in found if one.machine == "p1"][:1] == ["start"]
    assert state_of(eng, "p1") == "active"
    ids = [one.id for one in [*first, *closing, *found]]
    assert len(ids) == len(set(ids))


def test_no_frame_is_diagnosed_twice_when_everybody_is_evicted_by_a_wild_tick() -> None:
    eng = engine()
    outputs = eng.process(numbered(rounds(T0, 47)))
    outputs += eng.process([control("tick", time_ms=WILD, offset=0)])
    assert (eng.machines, eng.stats.evicted) == (0, 10)
    # The broker sends some of the readings again, and new ones follow.
    later = rounds(T0 + 30_000, 60)
    after = eng.process([record._replace(offset=1_000 + at) for at, record in enumerate(later)])
    found = diagnoses(outputs) + diagnoses(after)
    assert {one.machine for one in diagnoses(after)} == set(TEN)
    assert len(found) == len({one.id for one in found})
    assert eng.clock_ms(0) == later[-1].timestamp_ms


def test_what_is_known_of_a_forgotten_machine_is_saved_and_forgotten_in_its_time() -> None:
    eng, again = engine(), engine()
    eng.process(numbered(rounds(T0, 47)))
    send(eng, "forget", "p3", offset=0)
    assert [gone.machine for gone in eng.outdated()] == []
    for machine, state in eng.checkpoint().items():
        again.restore(machine, encode_state(eng.forgotten[machine]) if state is None else state)
    early = [reading("p3", T0 + 1_000 * n, [1.0, 2.0], offset=1_000 + n) for n in range(40)]
    assert set(reasons(again.process(early))) == {"late"}
    week = 7 * 86_400_000
    everybody = [record._replace(offset=2_000 + at) for at, record in enumerate(rounds(T0 + 2 * week, 2, TEN[4:]))]
    eng.process(everybody)
    assert [gone.machine for gone in eng.outdated()] == ["p3"]


# -- stamps of the future in live work --------------------------------------------------------------------------------


def test_the_workers_clock_refuses_stamps_of_the_future_unless_the_whole_partition_is_there() -> None:
    clocks: dict[int, int] = {0: T0, 1: T0 + 10 * 86_400_000}
    guard = ClockGuard(3_600_000, lambda: T0 / 1000, clocks.get)
    fine, wild = reading("p1", T0 + 3_599_000, [1.0]), reading("p1", WILD, [1.0])
    assert guard.check([fine]) == ([fine], [])
    kept, refused = guard.check([fine, wild, reading("p2", WILD, [1.0], partition=9)])
    assert [record.partition for record in kept] == [0, 9]  # nothing is known of partition 9 yet
    ((record, error),) = refused
    assert (record, error.reason) == (wild, "future_time")
    assert "2031-02-27T" in error.detail and "2025-11-20T" in error.detail
    # This host's clock is ten days behind: all of partition 1 says so.
    ahead = reading("p1", clocks[1] + 1_000, [1.0], partition=1)
    assert guard.check([ahead]) == ([ahead], [])
    assert guard.check([]) == ([], [])


@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
@pytest.mark.parametrize("ahead_ms", [2 * 3_600_000, 8 * 86_400_000, WILD - T0], ids=["2 h", "8 d", "years"])
@pytest.mark.parametrize(("good", "wild"), [(10, 12), (10, 3), (1, 2)])
def test_machines_behind_one_wild_gateway_move_nobody_else_however_many_they_are(
    good: int, wild: int, ahead_ms: int, first: bool
) -> None:
    eng = engine()
    names = [[f"p{number}" for number in range(good)], [f"w{number}" for number in range(wild)]]
    outputs: list[Output] = []
    for second in range(90):
        now = T0 + 1_000 * second
        records = [rounds(now, 1, names[0]), rounds(now + ahead_ms, 1, names[1]) if first or second >= 20 else []]
        together = [record for part in (reversed(records) if first else records) for record in part]
        outputs += eng.process([record._replace(offset=100 * second + at) for at, record in enumerate(together)])
        if second % 5 == 3:
            outputs += eng.process([control("tick", time_ms=(eng.clock_ms(0) or 0) + 1_000, offset=second)])
    found = [one for one in diagnoses(outputs) if one.machine in names[0]]
    assert eng.stats.evicted == 0 and eng.machines == good + wild
    assert {one.status for one in found} == {"active"}
    assert [one.reset for one in found].count("start") == good
    clock = eng.clock_ms(0)
    assert clock is not None and abs(clock - now) <= 1_000


def test_most_machines_of_a_plant_that_paused_are_believed_although_one_lives_long_ago() -> None:
    eng = engine()
    old = [reading("old", T0 - 10**11 + 1_000 * number, [1.0, 2.0]) for number in range(60)]
    later = T0 + 3 * 3_600_000
    stream = [*rounds(T0, 5), *old[:5]]
    for second in range(5, 60):
        stream += [*rounds(later + 1_000 * second, 1), old[second]]
    eng.process(numbered(stream))
    assert eng.clock_ms(0) == later + 59_000
