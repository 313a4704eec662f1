"""Every rule of event time, one test a rule, each with its timeline; then the properties that must always hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.engine import Engine
from pipeline.wire.records import Output, Record
from tests.support.builders import (
    ONE_SOURCE,
    TWO_SOURCES,
    SumRunner,
    control,
    diagnoses,
    event,
    numbered,
    profile,
    reading,
    reasons,
)

T0 = 1_763_600_000_000
S = 1_000


def engine(text: str = ONE_SOURCE) -> Engine:
    plant = profile(text)
    return Engine(plant, {kind.name: SumRunner() for kind in plant.machine_types})


def at(second: float, value: float = 1.0, machine: str = "p1", **more: Any) -> Record:
    return reading(machine, T0 + int(second * S), [value, 0.0], **more)


def run(*records: Record, text: str = ONE_SOURCE, end: bool = False) -> list[Output]:
    eng = engine(text)
    outputs = eng.process(numbered(records))
    return outputs + (eng.finish() if end else [])


def starts(outputs: list[Output]) -> list[int]:
    return [(d.frame_start - T0) // S for d in diagnoses(outputs)]


def test_a_frame_closes_when_the_watermark_passes_its_end() -> None:
    """
    period 10 s, disorder 5 s
    readings   0    9   14        15
    watermark -5    4    9        10  -> frame [0,10) closes with the reading at 15, not with the one at 14
    """
    assert starts(run(at(0), at(9), at(14))) == []
    assert starts(run(at(0), at(9), at(14), at(15))) == [0]


def test_out_of_order_readings_within_the_disorder_are_used() -> None:
    """
    arrival  12  8  16     8 s comes after 12 s, its frame [0,10) is still open
    """
    assert starts(run(at(12), at(8), at(16))) == [0]
    assert reasons(run(at(12), at(8), at(16))) == []


def test_a_reading_whose_frame_has_closed_goes_to_the_late_topic_with_how_late() -> None:
    """
    arrival  0  15  9      [0,10) closed at 15; the reading at 9 s is 1 s behind "closed until 10"
    """
    outputs = run(at(0), at(15), at(9))
    late = [out for out in outputs if out.topic == "late"]
    headers = dict(late[0].headers)
    assert reasons(outputs) == ["late"]
    assert headers["faultline-late-by-ms"] == b"1000"
    assert headers["faultline-frame-end-ms"] == b"%d" % (T0 + 10 * S)
    assert late[0].value == at(9).value
    assert headers["faultline-offset"] == b"2"


def test_frames_between_readings_are_masked_and_hold_the_last_value() -> None:
    """
    readings  0          25  40
    frames   [0] [10:masked] [20]     the masked frame has no reading of its own
    """
    found = diagnoses(run(at(0), at(25), at(40)))
    assert [(d.frame_start - T0) // S for d in found] == [0, 10, 20]
    assert [d.status for d in found] == ["active", "silent", "active"]


def test_a_gap_longer_than_the_limit_resets_the_machine_and_says_so() -> None:
    """
    readings  0 .......... 100   max_gap_frames 3
    frames   [0] [10][20][30] then nothing, and [100] with a reset
    """
    found = diagnoses(run(at(0), at(100), end=True))
    assert [(d.frame_start - T0) // S for d in found] == [0, 10, 20, 30, 100]
    assert [d.reset for d in found] == ["start", None, None, None, "gap"]


def test_duplicates_change_nothing() -> None:
    once = run(at(0, 3.0), at(4, 5.0), at(20), end=True)
    twice = run(at(0, 3.0), at(0, 3.0), at(4, 5.0), at(4, 5.0), at(0, 3.0), at(20), at(20), end=True)
    assert [out.value for out in once] == [out.value for out in twice]


def test_readings_of_one_instant_complete_each_other() -> None:
    whole = run(reading("p1", T0, {"flow": 1.0, "load": 2.0}), at(20), end=True)
    parts = run(reading("p1", T0, {"flow": 1.0}), reading("p1", T0, {"load": 2.0, "flow": None}), at(20), end=True)
    assert [out.value for out in whole] == [out.value for out in parts]


def test_a_time_ahead_of_the_records_own_time_stamp_is_a_dead_letter_and_closes_nothing() -> None:
    """
    readings  0  500(arrives at 5)  6      skew limit 60 s: the bad clock must not close frames
    """
    outputs = run(at(0), at(500, timestamp_ms=T0 + 5 * S), at(6), at(14))
    assert reasons(outputs) == ["future_time"]
    assert starts(outputs) == []


def test_a_text_joins_the_frame_of_its_time() -> None:
    """
    readings  0     12   26 ...     text at 13 s, arrives before [10,20) closes
    """
    outputs = run(at(0), at(12), event("p1", T0 + 13 * S, "drips"), at(26))
    found = {(d.frame_start - T0) // S: d.evidence.texts for d in diagnoses(outputs)}
    assert found[0] == []
    assert [(t.text, t.age_ms, t.late) for t in found[10]] == [("drips", 7 * S, False)]


def test_a_text_after_its_frame_closed_joins_the_next_one_with_its_true_age() -> None:
    """
    readings  0  12  26   text of 3 s arrives now    40    -> frame [20,30), age 27 s, late
    """
    outputs = run(at(0), at(12), at(26), event("p1", T0 + 3 * S, "drips", timestamp_ms=T0 + 26 * S), at(40))
    found = {(d.frame_start - T0) // S: d.evidence.texts for d in diagnoses(outputs)}
    assert found[10] == []
    assert [(t.age_ms, t.late) for t in found[20]] == [(27 * S, True)]


def test_a_text_never_holds_a_frame_back_and_a_repeated_one_counts_once() -> None:
    text = event("p1", T0 + 1 * S, "drips", id="e1")
    outputs = run(at(0), text, text, at(15))
    assert [len(d.evidence.texts) for d in diagnoses(outputs)] == [1]


def test_a_text_older_than_its_time_to_live_goes_to_the_late_topic() -> None:
    """
    text of 0 s arrives when frames up to 90 s have closed; time-to-live is 6 frames of 10 s
    """
    outputs = run(at(0), at(50), at(100), event("p1", T0, "old", timestamp_ms=T0 + 100 * S), at(130))
    assert reasons(outputs) == ["expired"]


def test_all_holding_sources_must_pass_a_frames_end() -> None:
    """
    fast  0 1 ... 30              slow  0        16
    the frame [0,10) waits for slow (disorder 5 s): it closes with slow's reading at 16
    """
    fast = [reading("m1", T0 + i * S, [1.0 * i, 1.0 * i], topic="sensors.fast") for i in range(31)]
    slow = [reading("m1", T0 + s * S, [20.0 + s], topic="sensors.slow") for s in (0, 16)]
    assert starts(run(*fast, slow[0], text=TWO_SOURCES)) == []
    outputs = run(*fast, *slow, text=TWO_SOURCES)
    assert starts(outputs) == [0]


def test_aggregations_over_a_frame() -> None:
    plant = profile(TWO_SOURCES.replace("{name: heat, source: slow}", "{name: heat, source: slow, aggregation: std}"))
    runner = Recorder()
    eng = Engine(plant, {"mill": runner})
    fast = [reading("m1", T0 + i * S, [float(i), float(i)], topic="sensors.fast") for i in range(10)]
    slow = [reading("m1", T0 + i * S, [v], topic="sensors.slow") for i, v in ((0, 2.0), (5, 4.0))]
    eng.process(numbered([*fast, *slow]))
    eng.finish()
    assert runner.rows[0].tolist() == [4.5, 9.0, 1.0]


class Recorder(SumRunner):
    def __init__(self) -> None:
        super().__init__()
        self.rows: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []

    def step(self, frames):  # type: ignore[no-untyped-def]
        self.rows.extend(frames.values)
        return super().step(frames)


def test_an_idle_source_stops_holding_frames_back() -> None:
    """
    fast speaks on, slow falls silent at 0; a tick at 61 s (idle after 60 s) lets fast's frames close
    """
    fast = [reading("m1", T0 + i * S, [1.0, 1.0], topic="sensors.fast") for i in range(62)]
    slow = [reading("m1", T0, [20.0], topic="sensors.slow")]
    tick = control("tick", time_ms=T0 + 61 * S)
    assert starts(run(slow[0], *fast, tick, text=TWO_SOURCES)) == [0, 10, 20, 30, 40]


def test_a_silent_machine_is_announced_stale_then_offline_and_its_late_burst_is_all_used() -> None:
    """
    readings 0 10 20 | silence, ticks 60 .. 140 | a gateway sends 30 40 .. 160 at once
    The announced frames come again as revision 1, from the readings; none of those is late.
    """
    before = [at(s) for s in (0, 10, 20)]
    ticks = [control("tick", time_ms=T0 + s * S) for s in range(60, 141, 10)]
    burst = [at(s, 2.0, timestamp_ms=T0 + 160 * S) for s in range(30, 161, 10)]
    outputs = run(*before, *ticks, *burst)
    found = diagnoses(outputs)
    announced = [d for d in found if d.status in ("stale", "offline")]
    assert announced[0].status == "stale" and announced[-1].status == "offline"
    assert [d.status for d in announced].count("offline") == 1
    assert all(d.fault == "no_evidence" for d in announced)
    assert reasons(outputs) == []
    revised = {d.frame_start for d in found if d.revision == 1}
    assert {d.frame_start for d in announced} >= revised > set()
    assert len({d.id for d in found}) == len(found)


def test_ticks_do_not_disturb_a_machine_that_speaks() -> None:
    quiet = run(*[at(s) for s in range(0, 100, 5)])
    ticked = run(*[r for s in range(0, 100, 5) for r in (at(s), control("tick", time_ms=T0 + s * S))])
    assert [out.value for out in quiet] == [out.value for out in ticked]


def test_a_reset_record_starts_the_state_anew_with_the_next_frame() -> None:
    outputs = run(at(0), at(10), at(20), control("reset", machine="p1"), at(30), at(40))
    assert [(d.frame_start - T0, d.reset) for d in diagnoses(outputs)] == [
        (0, "start"), (10 * S, "requested"), (20 * S, None)
    ]  # fmt: skip


def test_a_run_end_closes_what_waits() -> None:
    outputs = run(at(0), at(12), control("end", machine="p1"), at(30), at(60))
    assert [((d.frame_start - T0) // S, d.reset) for d in diagnoses(outputs)] == [
        (0, "start"), (10, None), (20, "run_end"), (30, None), (40, None)
    ]  # fmt: skip


def test_a_machine_silent_beyond_its_time_to_live_is_forgotten_with_a_tombstone() -> None:
    eng = engine(ONE_SOURCE.replace("max_skew: 1m", "max_skew: 1m\n    state_ttl: 1h"))
    eng.process(numbered([at(0), at(20), at(3000, machine="p2")]))
    eng.checkpoint()
    held_back = diagnoses(eng.process([control("tick", time_ms=T0 + 3700 * S)]))
    assert [(d.frame_start - T0) // S for d in held_back if d.machine == "p1"][-1] == 20  # nothing it had sent is lost
    assert eng.machines == 1 and eng.stats.evicted == 1
    assert eng.checkpoint()["p1"] is None
    again = diagnoses(eng.process([at(4000, offset=9), at(4020, offset=10)]))
    assert [d.reset for d in again] == ["start"]


def test_a_full_buffer_refuses_readings_with_a_reason() -> None:
    text = ONE_SOURCE.replace("max_gap_frames: 3", "max_gap_frames: 3\n    buffer_limit: 16")
    outputs = run(*[at(s / 10) for s in range(20)], text=text)
    assert reasons(outputs) == ["buffer_full"] * 4


# -- properties ---------------------------------------------------------------------------------------------------

MACHINES = ("a", "b", "c")


@st.composite
def streams(draw: st.DrawFn, disorder_s: int = 5) -> list[Record]:
    """Records of three machines whose arrival is out of order, at most by the allowed disorder; texts, ticks too."""
    records = []
    for machine in draw(st.lists(st.sampled_from(MACHINES), min_size=1, max_size=3, unique=True)):
        times = draw(st.lists(st.integers(0, 300), min_size=1, max_size=25, unique=True))
        for second in times:
            value = draw(st.floats(-5, 5, width=32))
            records.append((second + draw(st.integers(0, disorder_s)), at(second, value, machine)))
        for second in draw(st.lists(st.integers(0, 300), max_size=5, unique=True)):
            arrives = second + draw(st.integers(0, 60))
            # Some ids come again, with the same text or another.
            text, id_ = "text" * draw(st.integers(1, 3)), draw(st.sampled_from([None, "a", "b"]))
            records.append((arrives, event(machine, T0 + second * S, text, timestamp_ms=T0 + arrives * S, id=id_)))
    for second in draw(st.lists(st.integers(0, 400), max_size=4, unique=True)):
        records.append((second, control("tick", time_ms=T0 + second * S)))
    records.sort(key=lambda entry: entry[0])
    return numbered(record._replace(timestamp_ms=T0 + arrives * S) for arrives, record in records)


def essence(outputs: list[Output]) -> list[tuple[str, bytes | None, bytes | None]]:
    return sorted((out.topic, out.key, out.value) for out in outputs)


@settings(max_examples=60, deadline=None)
@given(streams(), st.data())
def test_how_the_input_is_cut_into_chunks_changes_nothing(records: list[Record], data: st.DataObject) -> None:
    whole = engine()
    expected = whole.process(records) + whole.finish()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(records)), max_size=8)))
    cut = engine()
    outputs: list[Output] = []
    for begin, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        outputs += cut.process(records[begin:end])
    assert essence(outputs + cut.finish()) == essence(expected)


@settings(max_examples=40, deadline=None)
@given(streams(), st.data())
def test_checkpoint_and_restore_at_any_record_changes_nothing(records: list[Record], data: st.DataObject) -> None:
    whole = engine()
    expected = whole.process(records) + whole.finish()
    at_record = data.draw(st.integers(0, len(records)))
    first, second = engine(), engine()
    outputs = first.process(records[:at_record])
    for machine, state in first.checkpoint().items():
        assert state is not None
        second.restore(machine, state)
    # Records before the checkpoint come again, as after a crash: they must not count twice.
    again = data.draw(st.integers(0, at_record))
    outputs += second.process([r for r in records[again:at_record] if r.topic != "control"])
    outputs += second.process(records[at_record:]) + second.finish()
    assert essence(outputs) == essence(expected)


@settings(max_examples=40, deadline=None)
@given(streams())
def test_any_arrival_order_within_the_disorder_gives_the_same_frames(records: list[Record]) -> None:
    readings = [record for record in records if record.topic == "sensors"]
    in_order = sorted(readings, key=lambda record: (record.value or b"").split(b'"time": ')[1])
    for arranged in (readings, in_order):
        assert "late" not in reasons(run(*arranged))
    values = [[(d.id, d.probabilities) for d in diagnoses(run(*x, end=True))] for x in (readings, in_order)]
    assert sorted(map(str, values[0])) == sorted(map(str, values[1]))


@st.composite
def two_sources(draw: st.DrawFn) -> tuple[list[Record], list[Record]]:
    """Readings of one machine's fast and slow source, each out of order by at most its allowed disorder."""
    made = []
    for topic, width, step, disorder in (("sensors.fast", 2, 1, 2), ("sensors.slow", 1, 10, 5)):
        seconds = draw(st.lists(st.integers(0, 120 // step), min_size=1, max_size=40 // step + 8, unique=True))
        arriving = []
        for second in sorted(value * step for value in seconds):
            values = [draw(st.floats(-5, 5, width=32)) for _ in range(width)]
            arriving.append((second + draw(st.integers(0, disorder)), second, values))
        arriving.sort(key=lambda entry: entry[0])
        made.append([reading("m1", T0 + second * S, values, topic=topic) for _, second, values in arriving])
    return made[0], made[1]


@settings(max_examples=60, deadline=None)
@given(two_sources(), st.data())
def test_any_interleaving_of_topics_gives_the_same_frames(
    sources: tuple[list[Record], list[Record]], data: st.DataObject
) -> None:
    fast, slow = sources
    one_after_the_other = run(*fast, *slow, text=TWO_SOURCES, end=True)
    mixed: list[Record] = []
    left, right = list(fast), list(slow)
    for take_fast in data.draw(st.lists(st.booleans(), min_size=len(fast) + len(slow), max_size=len(fast) + len(slow))):
        mixed.append((left if (take_fast and left) or not right else right).pop(0))
    interleaved = run(*mixed, text=TWO_SOURCES, end=True)
    assert reasons(interleaved) == reasons(one_after_the_other) == []
    assert essence(interleaved) == essence(one_after_the_other)


@settings(max_examples=40, deadline=None)
@given(streams())
def test_frames_never_go_backwards_and_never_come_twice(records: list[Record]) -> None:
    last: dict[str, int] = {}
    found = diagnoses(run(*records, end=True))
    assert len({d.id for d in found}) == len(found)
    for diagnosis in found:
        if diagnosis.status not in ("stale", "offline"):
            assert diagnosis.frame_start > last.get(diagnosis.machine, -1)
            last[diagnosis.machine] = diagnosis.frame_start


@settings(max_examples=40, deadline=None)
@given(streams(disorder_s=30))
def test_every_reading_is_in_a_frame_or_late_or_a_duplicate(records: list[Record]) -> None:
    eng = engine()
    eng.process(records)
    eng.finish()
    readings = sum(record.topic == "sensors" for record in records)
    assert eng.stats.records["sensors"] == readings
    used = sum(group.aligner.readings_in_frames for group in eng.groups.values())
    assert used + eng.stats.late["sensors"] + eng.stats.duplicates["readings"] == readings


def test_one_engine_serves_machine_types_with_their_own_frames_and_models() -> None:
    """
    pumps have frames of 10 s, fans of 60 s; each type has its own runner and is stepped together
    """
    text = ONE_SOURCE.replace("name: pump", "name: pump\n    match: 'p*'") + (
        "  - name: fan\n    match: 'fan-*'\n    frame_period: 60s\n    max_skew: 1m\n    faults: [normal, leak, jam]\n"
        "    variables: [{name: speed}]\n"
    )
    pumps = [at(s, machine=name) for s in range(0, 121, 5) for name in ("p1", "p2")]
    fans = [reading("fan-1", T0 + s * S, [1.0]) for s in range(0, 121, 5)]
    eng = engine(text)
    found = diagnoses(eng.process(numbered([*pumps, *fans])) + eng.finish())
    per_machine = {name: sum(d.machine == name for d in found) for name in ("p1", "p2", "fan-1")}
    begins = T0 // 60_000 * 60_000
    assert per_machine == {"p1": 13, "p2": 13, "fan-1": (T0 + 120 * S - begins) // 60_000 + 1}
    assert {d.frame_end - d.frame_start for d in found if d.machine == "fan-1"} == {60_000}
    assert reasons(eng.process([reading("valve-1", T0, [1.0])])) == ["unknown_machine"]


def test_a_value_is_held_until_its_limit_and_never_invented() -> None:
    """
    flow at 0 only, load every 10 s; hold limit three periods of 10 s
    flow   1  1  1  -     its age at the end of [30,40) is 40 s
    """
    runner = Recorder()
    eng = Engine(profile(), {"pump": runner})
    rows: list[dict[str, float | None]] = [{"load": 5.0} for _ in range(5)]
    rows[0]["flow"] = 1.0
    eng.process(numbered(reading("p1", T0 + i * 10 * S, row) for i, row in enumerate(rows)))
    eng.finish()
    flow = [float(row[0]) for row in runner.rows]
    assert flow[:3] == [1.0, 1.0, 1.0]
    assert np.isnan(flow[3:]).all()


@pytest.mark.parametrize("text", [ONE_SOURCE, TWO_SOURCES])
def test_a_state_of_another_profile_is_refused(text: str) -> None:
    from pipeline.errors import StateError

    eng = engine()
    eng.process([at(0)])
    (state,) = eng.checkpoint().values()
    assert state is not None
    other = engine(text.replace("frame_period: 10s", "frame_period: 20s"))
    with pytest.raises(StateError):
        other.restore("p1", state)
    assert other.stats.states_refused == 1
