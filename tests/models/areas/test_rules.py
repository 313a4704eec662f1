"""Rules that name a failed utility: small cases computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from models.areas.rules import NO_UTILITY, agreeing_scores, fault_log_odds, strongest, summed_scores

QUIET = (0, 3)
"""Of four classes: normal, two faults and recovering."""
MEMBERS = np.array([[True, True, True, False], [False, True, True, True]])
FAULTS = np.array([[False, True, False, False], [False, False, True, False]])


def odds_of(*machines: tuple[float, float]) -> np.ndarray:
    """Odds (1, N, C) of machines that have these for the two faults."""
    return np.array([[[-9.0, first, second, -9.0] for first, second in machines]], np.float32)


def known(*machines: bool) -> np.ndarray:
    return np.array([machines])


def test_odds_are_against_the_more_probable_class_without_a_fault_and_limited() -> None:
    log_probabilities = np.log(np.array([[0.1, 0.4, 1e-6, 0.2]], np.float32))
    odds = fault_log_odds(log_probabilities, QUIET, -3, 6)
    assert odds[0] == pytest.approx([-3, np.log(2), -3, -3], abs=1e-6)
    assert fault_log_odds(log_probabilities, QUIET, -3, 0.5)[0, 1] == pytest.approx(0.5)


def test_the_score_of_agreement_is_that_of_the_last_machine_which_is_needed() -> None:
    odds = odds_of((3, 0), (1, 0), (-2, -5), (5, 0))
    scores = agreeing_scores(odds, known(True, True, True, True), MEMBERS, FAULTS, 2)
    assert scores[0, 0, 1] == 1, "the fourth machine is not supplied by the first utility"
    assert agreeing_scores(odds, known(True, True, True, True), MEMBERS, FAULTS, 3)[0, 0, 1] == -2
    assert agreeing_scores(odds, known(True, False, True, True), MEMBERS, FAULTS, 2)[0, 0, 1] == -2
    assert strongest(agreeing_scores(odds, known(True, False, False, True), MEMBERS, FAULTS, 2), -99).utility == [
        NO_UTILITY
    ]


def test_machines_that_name_different_faults_do_not_agree() -> None:
    odds = odds_of((3, 0), (1, 4), (-2, -5), (0, 2))
    scores = agreeing_scores(odds, known(True, True, True, True), MEMBERS, FAULTS, 2)
    named = strongest(scores, 0)
    assert (named.utility.tolist(), named.fault.tolist(), named.score.tolist()) == ([1], [2], [2])


def test_a_sum_leaves_the_most_certain_machines_out_and_those_that_are_not_there() -> None:
    odds = odds_of((6, 0), (2, 0), (-1, 0), (6, 0))
    everyone = known(True, True, True, True)
    assert summed_scores(odds, everyone, MEMBERS, FAULTS, 0)[0, 0, 1] == 7
    assert summed_scores(odds, everyone, MEMBERS, FAULTS, 1)[0, 0, 1] == 1
    assert summed_scores(odds, everyone, MEMBERS, FAULTS, 2)[0, 0, 1] == -1
    assert summed_scores(odds, known(False, True, True, True), MEMBERS, FAULTS, 1)[0, 0, 1] == -1
    assert strongest(summed_scores(odds, known(True, False, False, False), MEMBERS, FAULTS, 1), -99).utility == [
        NO_UTILITY
    ]


def test_each_frame_stands_for_itself() -> None:
    rng = np.random.default_rng(1)
    odds = rng.normal(size=(20, 4, 4)).astype(np.float32)
    there = rng.random((20, 4)) < 0.7
    for number in range(20):
        frame = slice(number, number + 1)
        for rule in (agreeing_scores, summed_scores):
            whole = rule(odds, there, MEMBERS, FAULTS, 2)
            assert np.array_equal(rule(odds[frame], there[frame], MEMBERS, FAULTS, 2), whole[frame])
