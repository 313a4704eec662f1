"""Plans of the demo's simulator: who gets which fault when, without simulating anything, and what is known of it."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from deploy.demo.event_texts import write_events
from deploy.demo.make_recording import records_of
from deploy.demo.phrases import authors_of
from deploy.demo.simulate import (
    STAYING_ONSET_HOURS,
    Plan,
    TrippedError,
    plan_series,
    plan_stays,
    simulate_until_whole,
    with_unseen,
)


def test_one_fault_that_stays_begins_within_the_first_hours_and_lasts_to_the_end() -> None:
    plans = plan_stays(42, 25.0, 7, [])
    assert [plan.seed for plan in plans] == list(range(7, 49))
    assert Counter(plan.episodes[0].fault if plan.episodes else 0 for plan in plans) == dict.fromkeys(range(21), 2)
    for plan in plans:
        for episode in plan.episodes:
            assert STAYING_ONSET_HOURS[0] <= episode.start <= STAYING_ONSET_HOURS[1]
            assert episode.end == 25.0
    assert plans == plan_stays(42, 25.0, 7, [])
    assert plans[:5] == plan_stays(5, 25.0, 7, [])


def test_left_out_faults_do_not_come_and_normal_runs_always_do() -> None:
    plans = plan_stays(9, 25.0, 0, [fault for fault in range(1, 21) if fault not in (8, 13)])
    assert [[episode.fault for episode in plan.episodes] for plan in plans] == [[], [8], [13]] * 3
    assert not any(plan.episodes for plan in plan_stays(4, 25.0, 0, range(1, 21)))


def test_faults_of_a_series_end_before_the_next_begins() -> None:
    for plan in plan_series(10, 48.0, 3, [6]):
        assert plan.episodes
        for one, other in zip(plan.episodes, plan.episodes[1:], strict=False):
            assert one.start < one.end < other.start
        assert all(episode.fault != 6 for episode in plan.episodes)


def test_one_machine_gets_faults_that_no_model_learns_and_the_others_keep_theirs() -> None:
    plans = plan_series(12, 48.0, 900_000, [6])
    changed = with_unseen(plans, 11, [24, 27])
    assert changed[:11] == plans[:11]
    before, after = plans[11].episodes, changed[11].episodes
    assert [(one.start, one.end) for one in after] == [(one.start, one.end) for one in before]
    assert [one.fault for one in after] == [24, 27, *(one.fault for one in before[2:])]
    assert with_unseen(plans, 11, []) == plans


@pytest.mark.parametrize(("run", "faults"), [(12, [24]), (-1, [24]), (0, [20]), (0, [29]), (11, [21] * 9)])
def test_faults_that_models_learn_and_machines_without_room_are_refused(run: int, faults: list[int]) -> None:
    with pytest.raises(ValueError, match=r"no model learns are 21 to 28|there is no run"):
        with_unseen(plan_series(12, 48.0, 900_000, [6]), run, faults)


def test_a_fault_that_no_model_learns_stays_when_a_plan_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Plan] = []

    def trip(plan: Plan, hours: float) -> tuple[np.ndarray, np.ndarray]:
        tried.append(plan)
        if len(tried) < 8:
            raise TrippedError("the plant shut down")
        return np.zeros((2, 52), np.float32), np.zeros(2, np.int8)

    monkeypatch.setattr("deploy.demo.simulate.simulate", trip)
    (plan,) = with_unseen(plan_series(1, 48.0, 5, [6]), 0, [24])
    found = simulate_until_whole(plan, 48.0, [6])
    assert (found.attempts, found.plan.seed) == (8, 5)
    for one in tried:
        faults = [episode.fault for episode in one.episodes]
        assert faults[0] == 24
        assert all(fault <= 20 for fault in faults[1:])


def test_technicians_call_a_fault_that_no_model_learns_unknown_and_write_vaguely_of_it() -> None:
    labels = np.repeat([0, 24, 0, 4], 100)
    found = list(records_of("te-12", np.ones((400, 52), np.float32), labels, np.random.default_rng(1)))
    named = [json.loads(one.value or b"") for one in found if one.topic == "labels"]
    assert [(one["fault"], (one["end"] - one["start"]) // 180_000) for one in named] == [
        ("normal", 100),
        ("unknown", 100),
        ("normal", 100),
        ("idv_4", 100),
    ]
    events = write_events(np.repeat([0, 24], 20_000), authors_of("test"), np.random.default_rng(2), 180_000, 0)
    late = [event for event in events if event.time_ms >= 20_000 * 180_000]
    assert {event.kind for event in late} <= {"benign", "vague", "distractor"}
    assert any(event.kind == "vague" for event in late)
