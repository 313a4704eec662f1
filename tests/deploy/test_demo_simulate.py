"""Plans of the demo's simulator: who gets which fault when, without simulating anything."""

from __future__ import annotations

from collections import Counter

from deploy.demo.simulate import STAYING_ONSET_HOURS, plan_series, plan_stays


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
