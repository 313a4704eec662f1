"""Areas wait for machines whose worker catches up, as workers say it in the area's topic, and for no others."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.areas.engine import AreaEngine
from pipeline.areas.progress import Progress, progress_output
from pipeline.wire.records import Output, Record
from tests.support.areas import MACHINES, PERIOD_MS, T0, areas_of, diagnosis, engine, frames_of, record
from tests.support.builders import reasons

NEAR, FAR = MACHINES[:2], MACHINES[2:]
"""The machines of two workers."""


def said(machines: Sequence[str], frame: int | None, *, behind: bool = False, away: bool = False) -> Record:
    """What a worker says when the newest record that it has processed is in this frame."""
    time_ms = 0 if frame is None else T0 + (frame + 1) * PERIOD_MS
    output = progress_output("hall", Progress(list(machines), time_ms, behind, away), T0)
    return Record(output.topic, 0, 0, output.timestamp_ms, output.key, output.value, output.headers)


def diagnosed(machines: Sequence[str], frames: Sequence[int]) -> list[Record]:
    return [record(diagnosis(machine, frame), 0) for frame in frames for machine in machines]


def numbered(records: Sequence[Record], first: int = 0) -> list[Record]:
    return [one._replace(offset=first + offset) for offset, one in enumerate(records)]


def late(outputs: Sequence[Output]) -> int:
    return sum(answer.presence in ("late", "unheard") for one in areas_of(outputs) for answer in one.machines.values())


def behind(frames: int = 40) -> list[Record]:
    """One worker is far ahead, the other begins."""
    return [said(FAR, None, behind=True), *diagnosed(NEAR, range(frames)), said(NEAR, frames)]


def test_frames_wait_for_a_worker_that_catches_up() -> None:
    made = engine()
    assert made.process(numbered(behind())) == []
    assert made.held() == {"hall": dict.fromkeys(FAR, 0)}
    first = made.process(numbered([*diagnosed(FAR, range(10)), said(FAR, 10, behind=True)], 1_000))
    assert frames_of(first) == list(range(10)) and late(first) == 0
    rest = made.process(numbered([*diagnosed(FAR, range(10, 40)), said(FAR, 40)], 2_000))
    assert frames_of(rest) == list(range(10, 40)) and late(rest) == 0
    assert made.held() == {}


def test_without_a_word_of_workers_areas_wait_as_they_did() -> None:
    outputs = engine().process(numbered([*diagnosed(MACHINES, [0]), *diagnosed(NEAR, range(1, 20))]))
    assert frames_of(outputs) == list(range(20)) and late(outputs) > 30


def test_a_worker_that_never_spoke_is_waited_for_until_it_is_said_to_be_away() -> None:
    made = engine()
    assert made.process(numbered([said(NEAR, 0), *diagnosed(NEAR, range(20)), said(NEAR, 20)])) == []
    outputs = made.process(numbered([said(FAR, None, away=True)], 1_000))
    assert frames_of(outputs) == list(range(20)) and late(outputs) == 40
    # Its first word makes the area wait again.
    again = numbered([said(FAR, 3, behind=True), *diagnosed(NEAR, range(20, 60))], 2_000)
    assert made.process(again) == []


def test_a_worker_whose_data_are_old_but_all_read_is_not_waited_for() -> None:
    made = engine()
    made.process(numbered(diagnosed(MACHINES, [0])))
    records: list[Record] = []
    for frame in range(10, 20):
        records += [*diagnosed(NEAR, [frame]), said(NEAR, frame), said(FAR, frame - 10)]
    assert frames_of(made.process(numbered(records, 100)))[-1] >= 16


def test_no_more_is_held_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.areas.alignment._MAX_HELD", 60)
    made = engine()
    outputs = made.process(numbered([said(FAR, None, behind=True), *diagnosed(NEAR, range(100))]))
    assert 35 < len(frames_of(outputs)) < 45 and reasons(outputs) == []


def test_what_a_worker_says_is_checked() -> None:
    wrong = said(FAR, 0)
    values = [b"{", b'{"time":5}', b'{"machines":["pump-3"],"time":-5}']
    outputs = engine().process(numbered([wrong._replace(value=value) for value in values]))
    assert reasons(outputs) == ["not_json", "schema", "bad_time"]
    assert engine().process(numbered([said(["pump-99"], 5)])) == []


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7))
def test_a_restart_at_any_record_changes_nothing(seed: int, step: int) -> None:
    rng = random.Random(seed)
    streams = [
        [
            one
            for frame in range(12)
            for one in (*diagnosed(machines, [frame]), said(machines, frame, behind=rng.random() < 0.5))
            if rng.random() < 0.9
        ]
        for machines in (NEAR, FAR)
    ]
    records: list[Record] = []
    while any(streams):
        stream = rng.choice([one for one in streams if one])
        records += [stream.pop(0) for _ in range(min(len(stream), rng.randint(1, 9)))]
        if rng.random() < 0.1:
            records.append(said(rng.choice([NEAR, FAR]), None, away=True))
    sent = numbered(records)
    expected = engine().process(sent)
    cut, found = engine(), list[Output]()
    for place, one in enumerate(sent):
        found += cut.process([one])
        if place % step == 0:
            cut = _again(cut)
    assert [one.value for one in found] == [one.value for one in expected]


def _again(before: AreaEngine) -> AreaEngine:
    after = engine()
    for area, state in before.checkpoint().items():
        assert state is not None
        after.restore(area, state)
        after.note_applied(area, {})  # as changed, so that the next checkpoint has it again
    return after
