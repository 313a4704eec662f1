"""Areas by timelines: which frames close when, what is said of each machine, and which causes and alarms follow."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.topics import ALARMS, AREAS
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.errors import SettingsError, StateError
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, EventMessage
from pipeline.wire.records import Output, Record
from tests.support.areas import (
    MACHINES,
    PERIOD_MS,
    PROFILE,
    T0,
    CountingRunner,
    announced,
    areas_of,
    diagnosis,
    engine,
    frames_of,
    record,
    records,
)
from tests.support.builders import ONE_SOURCE, reasons

Contents = list[Diagnosis | EventMessage | int]


def everyone(frames: Sequence[int], machines: Sequence[str] = MACHINES, leak: float = 0.1) -> Contents:
    return [diagnosis(machine, frame, leak=leak) for frame in frames for machine in machines]


def presence(outputs: Sequence[Output], frame: int) -> list[str]:
    (found,) = [one for one in areas_of(outputs) if one.frame_start == T0 + frame * PERIOD_MS]
    assert list(found.machines) == list(MACHINES)
    return [answer.presence for answer in found.machines.values()]


def test_a_frame_closes_when_every_machine_has_diagnosed_it() -> None:
    made = engine()
    outputs = made.process(records(everyone([0])[:3]))
    assert outputs == []
    (output,) = made.process([record(diagnosis("pump-3", 0), 3)])
    assert (output.topic, output.key, output.partition, output.timestamp_ms) == ("plant", b"hall", 0, T0 + PERIOD_MS)
    (found,) = areas_of([output])
    assert found.id == f"hall:{T0 + PERIOD_MS}:cccccccccccc" and found.reset
    assert presence([output], 0) == ["active"] * 4
    assert not areas_of(made.process([record(one, 4 + at) for at, one in enumerate(everyone([1]))]))[0].reset


def test_a_machine_that_is_behind_is_waited_for_and_then_late() -> None:
    made = engine()
    contents = everyone([0]) + everyone([1, 2, 3], MACHINES[:3])
    assert frames_of(made.process(records(contents))) == [0]
    outputs = made.process([record(one, 100 + at) for at, one in enumerate(everyone([4, 5, 6], MACHINES[:3]))])
    assert frames_of(outputs) == [1, 2, 3, 4, 5, 6]  # from frame 4 on pump-3 is too far behind to be live
    assert presence(outputs, 1) == ["active", "active", "active", "late"]
    assert areas_of(outputs)[4].machines["pump-3"].age_ms == 5 * PERIOD_MS
    assert made.process([record(diagnosis("pump-3", 1), 200)]) == []
    assert made.stats.late == {"hall": 1}
    back = [diagnosis("pump-3", 6), *everyone([7], MACHINES[:3])]
    assert frames_of(made.process([record(one, 201 + at) for at, one in enumerate(back)])) == []  # live again


def test_announced_machines_are_not_waited_for_and_said_to_be_stale_or_offline() -> None:
    contents = [*everyone([0]), announced("pump-3", 1, "stale"), *everyone([1, 2], MACHINES[:3])]
    contents += [announced("pump-3", 3, "offline"), *everyone([3, 4], MACHINES[:3])]
    outputs = engine().process(records(contents))
    assert frames_of(outputs) == [0, 1, 2, 3, 4]
    assert [presence(outputs, frame)[3] for frame in range(5)] == ["active", "stale", "stale", "offline", "offline"]


def test_the_readings_of_a_frame_take_the_place_of_its_announcement() -> None:
    made = engine()
    contents = [*everyone([0]), announced("pump-3", 1, "stale"), diagnosis("pump-3", 1, revision=1, leak=0.9)]
    outputs = made.process(records([*contents, *everyone([1], MACHINES[:3])]))
    assert presence(outputs, 1)[3] == "active"
    assert areas_of(outputs)[1].machines["pump-3"].own_fault == "leak"
    assert made.stats.revised == 1


def test_machines_without_answers_are_named_as_such() -> None:
    contents = everyone([0], MACHINES[1:]) + everyone([1, 2, 3, 4], ("pump-2", "pump-3"))
    contents += [diagnosis("pump-1", 4), diagnosis("pump-2", 5, status="silent")]
    contents += [diagnosis("pump-3", 5, fault="no_evidence", probabilities={}, confidence=0.0)]
    made = engine()
    outputs = made.process(records(contents)) + made.finish()
    assert presence(outputs, 0) == ["unheard", "active", "active", "active"]
    assert presence(outputs, 2) == ["unheard", "missing", "active", "active"]
    assert presence(outputs, 5) == ["unheard", "late", "silent", "no_evidence"]
    found = areas_of(outputs)[-1].machines
    assert found["pump-0"].age_ms is None and found["pump-0"].own_fault == "no_evidence"
    assert made.stats.presence["unheard"] == len(areas_of(outputs))


def test_one_machine_with_a_wrong_clock_closes_nothing_for_the_others() -> None:
    ahead = [diagnosis("pump-0", 300 + frame) for frame in range(4)]
    contents = everyone([0])
    for frame in range(1, 5):
        contents += [ahead[frame - 1], *everyone([frame], MACHINES[1:])]
    outputs = engine().process(records(contents))
    assert frames_of(outputs) == [0, 1, 2, 3, 4]
    assert presence(outputs, 3) == ["missing", "active", "active", "active"]


def test_a_machine_that_is_alone_goes_on_without_the_others() -> None:
    outputs = engine().process(records([*everyone([0]), *everyone(range(1, 9), ["pump-0"])]))
    assert frames_of(outputs) == list(range(9))
    assert presence(outputs, 7) == ["active", "late", "late", "late"]


def test_ticks_close_what_has_waited_long_enough_and_nothing_later() -> None:
    made = engine()
    contents: Contents = [*everyone([0]), *everyone([1], MACHINES[:2]), T0 + 2 * PERIOD_MS + 29_999]
    assert frames_of(made.process(records(contents))) == [0]
    assert frames_of(made.process([record(T0 + 2 * PERIOD_MS + 30_000, 50)])) == [1]
    clock_ms = made.clock_ms(0)
    assert clock_ms == T0 + 2 * PERIOD_MS + 30_000
    made.process([record(T0 + 3_600_000, 51)])
    # The machines' worker had paused: all that it makes up for counts.
    assert frames_of(made.process([record(one, 60 + at) for at, one in enumerate(everyone([2, 3]))])) == [2, 3]
    assert made.clock_ms(0) == T0 + 4 * PERIOD_MS


def test_a_pause_is_a_gap_and_a_long_one_a_reset_and_all_machines_are_waited_for_again() -> None:
    runner = CountingRunner()
    made = engine(runner=runner)
    contents = [*everyone([0, 9]), *everyone([40], MACHINES[:3])]
    assert frames_of(made.process(records(contents))) == [0, 9]
    made.process([record(diagnosis("pump-3", 40), 99)])
    assert [(one.skipped, one.reset) for one in runner.frames] == [(0, True), (8, False), (30, True)]
    assert runner.state[0, 0] == 1


def test_repeats_have_no_effect_and_records_in_the_state_are_skipped() -> None:
    once, twice = engine(), engine()
    contents = everyone([0, 1, 2])
    expected = once.process(records(contents))
    repeated = [*contents[:5], *contents[2:6], *contents[5:], *contents]
    assert twice.process(records(repeated)) == expected
    assert twice.stats.duplicates == {"diagnoses": len(repeated) - len(contents)}
    assert twice.process(records(contents)) == []
    assert twice.stats.skipped == {AREAS: len(contents)}
    assert once.alignment_states() == twice.alignment_states()


def test_texts_about_utilities_join_the_frame_that_ends_after_them() -> None:
    runner = CountingRunner()
    made = engine(runner=runner)
    texts = [
        EventMessage("hall/power", T0 + 12_000, "breaker <b>hums</b>", id="b"),
        EventMessage("hall/water", T0 + 11_000, "header is warm", id="a"),
        EventMessage("hall/water", T0 + 11_000, "header is warm", id="a"),
        EventMessage("hall/water", T0 + 9_000, "came late"),
    ]
    contents = [texts[0], *everyone([0]), *texts[1:], *everyone([1])]
    outputs = made.process(records(contents))
    assert [[(utility, one.text, one.late) for utility, one in frame.texts] for frame in runner.frames] == [
        [],
        [(0, "came late", True), (0, "header is warm", False), (1, "breaker hums", False)],
    ]
    assert [text.utility for text in areas_of(outputs)[1].texts] == ["water", "water", "power"]
    assert made.stats.duplicates == {"texts": 1} and made.stats.texts == 3


def test_frames_hold_what_diagnoses_say() -> None:
    runner = CountingRunner()
    other = diagnosis("pump-1", 0, model=messages.ModelRef("pumps", "b" * 64))
    unusual = diagnosis("pump-2", 0, embeddings={"sensors": "AACAPw==", "smell": "AACAPw=="})
    text = diagnosis("pump-3", 0, probabilities={"leak": 0.25, "unknown": 0.75}, fault="unknown")
    engine(runner=runner).process(records([diagnosis("pump-0", 0, leak=0.75), other, unusual, text]))
    (frame,) = runner.frames
    assert frame.layout.classes == (("normal", "leak", "jam", "recovering", "unknown"),)
    assert frame.probabilities.tolist() == pytest.approx(
        np.array([[0.25, 0.75, 0, 0, 0], [0.9, 0.1, 0, 0, 0], [0.9, 0.1, 0, 0, 0], [0, 0.25, 0, 0, 0.75]])
    )
    assert frame.modality_present.tolist() == [[True, False]] * 4
    assert frame.modality_answer[:, 0].tolist() == [1, 0, 0, 4]
    assert frame.modality_age_ms.tolist() == [[500, -1]] * 4
    assert frame.embedded[:, 0].tolist() == [True, False, False, True]
    assert frame.embeddings[0].tolist() == [[1, 2], [0, 0], [0, 0], [1, 2]] and frame.embeddings[1].shape == (4, 0)


def test_a_utility_raises_one_alarm_and_clears_it() -> None:
    made = engine(alarm_rule=AlarmRule(2, 3, 0.5))
    contents = everyone([0]) + everyone([1, 2, 3], leak=0.9) + everyone([4, 5, 6])
    outputs = [one for one in made.process(records(contents)) if one.topic == ALARMS]
    found = [json.loads(one.value or b"") for one in outputs]
    assert [(one["machine"], one["fault"], one["state"], one["time"]) for one in found] == [
        ("hall/water", "leak", "raised", T0 + 3 * PERIOD_MS),
        ("hall/water", "leak", "cleared", T0 + 6 * PERIOD_MS),
    ]
    assert outputs[0].key == b"hall/water" and outputs[0].partition is None
    assert found[0]["diagnosis"] == f"hall:{T0 + 3 * PERIOD_MS}:cccccccccccc"
    assert made.stats.alarms == {"raised": 1, "cleared": 1}


BAD: dict[str, Record] = {
    "empty": record(diagnosis("pump-0", 0), 0)._replace(value=None),
    "not_json": record(diagnosis("pump-0", 0), 0)._replace(value=b"nothing"),
    "schema": record(diagnosis("pump-0", 0), 0)._replace(value=b"{}"),
    "unknown_machine": record(diagnosis("pump-0", 0), 0, area="yard"),
    "key_mismatch": record(diagnosis("pump-9", 0), 0),
    "out_of_range": record(diagnosis("pump-0", 0, confidence=1.5), 0),
    "bad_time": record(diagnosis("pump-0", 0), 0)._replace(timestamp_ms=-1),
    "unknown_topic": record(diagnosis("pump-0", 0), 0)._replace(topic="sensors"),
    "wrong_partition": record(diagnosis("pump-0", 0), 0)._replace(partition=3),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_is_no_diagnosis_of_the_area_becomes_a_dead_letter(reason: str) -> None:
    made = engine(partition_of=lambda _: 0)
    outputs = made.process([BAD[reason]])
    assert reasons(outputs) == [reason] and made.stats.dead_letters == {reason: 1}
    assert outputs[0].value == BAD[reason].value
    assert made.checkpoint() == {}
    assert frames_of(made.process(records(everyone([0])))) == [0]


@pytest.mark.parametrize(
    "bad",
    [
        record(diagnosis("pump-0", 0, frame_end=T0 + 1), 0),
        record(EventMessage("hall/steam", T0, "no such utility"), 0),
        record(T0, 0)._replace(value=b'{"kind":"reset","machine":"pump-0"}'),
        record(diagnosis("pump-0", 0), 0)._replace(key=b"\xff"),
    ],
)
def test_other_records_that_cannot_be_used_become_dead_letters_too(bad: Record) -> None:
    assert len(reasons(engine().process([bad]))) == 1


def test_a_machine_that_runs_far_ahead_is_held_back_up_to_a_limit() -> None:
    contents = everyone([0])
    for frame in range(1, 258):
        contents += [diagnosis("pump-0", 1_000 + frame), *everyone([frame], ["pump-1", "pump-2"])]
    outputs = engine().process(records(contents))
    assert reasons(outputs) == ["buffer_full"]
    assert len(frames_of(outputs)) == 255  # the last two may still wait for pump-3


def test_a_profile_without_areas_and_states_of_others_are_refused() -> None:
    with pytest.raises(SettingsError, match="has no areas"):
        engine(ONE_SOURCE)
    made = engine()
    made.process(records(everyone([0])))
    (state,) = [one for one in made.checkpoint().values() if one is not None]
    other = CountingRunner()
    other.hash = "d" * 64
    with pytest.raises(StateError, match="belongs to model"):
        engine(runner=other).restore("hall", state)
    with pytest.raises(StateError, match="another profile"):
        engine(PROFILE.replace("{pump-0: [pump-3]}", "{pump-0: [pump-2]}")).restore("hall", state)
    with pytest.raises(StateError, match="damaged"):
        engine().restore("hall", state[:-1] + bytes([state[-1] ^ 1]))
    engine(PROFILE.replace("title: Hall", "title: Hall 1").replace("30s", "40s")).restore("hall", state)


# -- any order, any cut --------------------------------------------------------------------------------------------


@st.composite
def plants(draw: st.DrawFn) -> Contents:
    """Diagnoses in an order in which no machine is more than two frames behind another."""
    frames = draw(st.integers(4, 12))
    left = {machine: list(range(frames)) for machine in MACHINES}
    for machine in MACHINES[1:]:  # some frames are missing
        for frame in draw(st.sets(st.integers(1, frames - 2), max_size=2)):
            left[machine].remove(frame)
    order: Contents = []
    sent = dict.fromkeys(MACHINES, -1)
    while any(left.values()):
        slowest = min(sent[machine] + 1 for machine, own in left.items() if own)
        able = [machine for machine, own in left.items() if own and own[0] <= slowest + 2]
        machine = draw(st.sampled_from(able))
        frame = sent[machine] = left[machine].pop(0)
        order.append(diagnosis(machine, frame, leak=((frame * 7 + int(machine[-1])) % 10) / 10))
    return order


@settings(max_examples=40, deadline=None)
@given(plants())
def test_any_order_within_the_wait_gives_the_same_frames(contents: Contents) -> None:
    def key(content: Diagnosis | EventMessage | int) -> tuple[int, str]:
        assert isinstance(content, Diagnosis)
        return content.frame_end, content.machine

    one, other = engine(), engine()
    outputs = one.process(records(contents)) + one.finish()
    assert other.process(records(sorted(contents, key=key))) + other.finish() == outputs
    assert one.stats.late == {} and one.stats.duplicates == {}


@settings(max_examples=40, deadline=None)
@given(plants(), st.data())
def test_however_the_input_is_cut_and_wherever_a_process_ends_the_outputs_are_the_same(
    contents: Contents, data: st.DataObject
) -> None:
    texts = [EventMessage("hall/water", T0 + 15_000 * n, f"text {n}") for n in range(3)]
    mixed: Contents = list(contents)
    extras: Contents = [*texts, T0 + 45_000, T0 + 90_000]
    for extra in extras:
        mixed.insert(data.draw(st.integers(0, len(mixed))), extra)
    every = records(mixed)
    whole = engine()
    expected = whole.process(every)
    cut = data.draw(st.integers(0, len(every)))
    again = data.draw(st.integers(0, cut))  # records since the last commit come again
    first, second = engine(), engine()
    outputs = [output for one in every[:cut] for output in first.process([one])]
    for name, state in first.checkpoint().items():
        assert state is not None
        second.restore(name, state)
    outputs += second.process(every[again:])
    assert outputs == expected
    assert second.alignment_states() == whole.alignment_states()
    assert second.process([]) == [] and second.finish() == whole.finish()
