"""Scores of what is named in areas: timelines in, delays and shares out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.evaluation.areas import (
    NONE,
    AreaCause,
    AreaTruth,
    area_outcome,
    area_scores,
    draw_missing,
    fit_area_threshold,
    raised_alarms,
    read_truth,
    score_intervals,
)
from pipeline.errors import DataError

HEADER = AreaCause(1, NONE, 4, 10, 40, {0: (12, 42), 1: (15, 45), 2: (10, 40)})
OWN = AreaCause(NONE, 3, 7, 200, 230, {3: (200, 230)})
TRUTH = AreaTruth(400, 4, (HEADER, OWN))


def timeline(**values: tuple[int, int, int]) -> np.ndarray:
    """(400,) NONE but for the values of these `[start, end)`."""
    line = np.full(400, NONE)
    for start, end, value in values.values():
        line[start:end] = value
    return line


def alarms(*spans: tuple[int, int, int, int]) -> np.ndarray:
    """(400, 4) 0 but for machine, start, end and fault of these."""
    lines = np.zeros((400, 4), np.int64)
    for machine, start, end, fault in spans:
        lines[start:end, machine] = fault
    return lines


def test_a_failed_utility_is_named_so_many_frames_after_it_fails() -> None:
    single = alarms((0, 20, 42, 4), (1, 30, 45, 4), (2, 16, 40, 5), (3, 205, 230, 7))
    outcome = area_outcome(TRUTH, timeline(right=(17, 40, 1)), single)
    scores = area_scores([outcome])
    assert (scores["delay_mean"], scores["machine_delay_mean"]) == (7, 10)
    assert scores["gain"] == pytest.approx(0.3)
    assert (scores["sooner"], scores["missed"], scores["wrong_utility"]) == (1, 0, 0)
    assert (scores["own_delay_mean"], scores["own_missed"]) == (5, 0)
    assert scores["false_frames"] == scores["late_frames"] == scores["blamed"] == 0


def test_an_alarm_from_before_the_fault_reached_a_machine_does_not_count() -> None:
    outcome = area_outcome(TRUTH, timeline(), alarms((0, 9, 12, 4), (1, 9, 15, 4), (2, 9, 10, 4)))
    assert outcome.machine_delays == [30]
    assert (outcome.delays, outcome.missed) == ([30], [True])


def test_wrong_names_late_names_and_blamed_machines_are_told_apart() -> None:
    named = timeline(wrong=(12, 15, 0), right=(20, 60, 1), blamed=(210, 212, 0), false=(380, 384, 2))
    outcome = area_outcome(TRUTH, named, alarms())
    scores = area_scores([outcome])
    assert (scores["wrong_utility"], scores["blamed"], scores["own_missed"]) == (1, 1, 1)
    calm = 10 + (200 - 145) + (400 - 330)
    assert (outcome.calm_frames, outcome.false_frames) == (calm, 4)
    assert scores["late_frames"] == pytest.approx((60 - 45) / (100 + 100))


def test_a_utility_that_fails_meanwhile_is_not_blamed_and_others_are() -> None:
    both = AreaTruth(400, 4, (HEADER, AreaCause(NONE, 3, 7, 20, 40, {3: (20, 40)})))
    assert area_outcome(both, timeline(right=(20, 40, 1)), alarms()).blamed == [False]
    assert area_outcome(both, timeline(right=(20, 39, 1), wrong=(39, 40, 0)), alarms()).blamed == [True]


def test_thresholds_keep_both_limits() -> None:
    scores = np.zeros((400, 2), np.float32)
    scores[20:40, 1], scores[210, 0], scores[220, 1], scores[5, 1], scores[60, 0] = 9, 3, 2, 1, 8
    assert fit_area_threshold([TRUTH], [scores], false_frames=0, blamed=0) == 3
    assert fit_area_threshold([AreaTruth(400, 4, (HEADER,))], [scores], false_frames=0) == 3
    near = AreaTruth(400, 4, (HEADER, AreaCause(NONE, 3, 7, 50, 70, {3: (50, 70)})))
    assert fit_area_threshold([near], [scores], false_frames=0.1, blamed=0) == 8, "another than the failed one"
    assert fit_area_threshold([AreaTruth(400, 4, (HEADER,))], [scores], false_frames=0.02) == 0


def test_an_alarm_is_raised_where_enough_of_the_last_frames_agree_with_confidence() -> None:
    probabilities = np.zeros((8, 1, 3), np.float32)
    for frame, (fault, confidence) in enumerate(
        [(1, 0.9), (1, 0.4), (1, 0.9), (2, 0.9), (1, 0.9), (0, 1), (0, 1), (1, 1)]
    ):
        probabilities[frame, 0, fault] = confidence
    assert raised_alarms(probabilities, [0])[:, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert raised_alarms(probabilities, [0], agree=2, confidence=0.3)[:, 0].tolist() == [0, 1, 1, 0, 1, 0, 0, 1]


def test_modalities_are_missing_for_stretches_with_the_share_that_is_asked_for() -> None:
    missing = draw_missing((2, 600, 50), 0.4, np.random.default_rng(0))
    assert missing.mean() == pytest.approx(0.4, abs=0.05)
    assert (missing.reshape(2, 10, 60, 50).min(axis=2) == missing.reshape(2, 10, 60, 50).max(axis=2)).all()
    assert not draw_missing((2, 7, 5), 0, np.random.default_rng(0)).any()


def test_intervals_come_from_drawing_areas_again() -> None:
    quick, slow = (area_outcome(TRUTH, timeline(right=(start, 40, 1)), alarms((3, 205, 230, 7))) for start in (12, 22))
    intervals = score_intervals([[quick], [slow]], np.random.default_rng(0), draws=200)
    assert [intervals[name] for name in ("delay_mean", "missed")] == [(2, 12), (0, 0)]


def test_causes_are_read_from_a_table_and_wrong_ones_are_named(tmp_path: Path) -> None:
    starts = np.arange(0, 400_000, 1000)
    row = {
        "area": "a01",
        "cause": 0,
        "kind": "utility",
        "id": "steam",
        "fault": "f4",
        "start_ms": 10_500,
        "end_ms": 40_000,
        "machine": "m1",
        "onset_ms": 12_000,
        "cleared_ms": 999_000,
    }
    other = row | {"machine": "m0", "onset_ms": 15_999, "cleared_ms": 45_000}
    own = row | {"cause": 1, "kind": "machine", "id": "m0", "start_ms": 200_000, "end_ms": 230_000, "machine": "m0"}
    path = tmp_path / "causes.parquet"
    pq.write_table(pa.Table.from_pylist([row, other, own, row | {"area": "b"}]), path)
    truth = read_truth(path, "a01", starts, ["m0", "m1"], ["water", "steam"], ["ok", "f4"])
    assert truth.shared() == (AreaCause(1, NONE, 1, 10, 40, {1: (12, 400), 0: (15, 45)}),)
    assert [(cause.machine, cause.start) for cause in truth.own()] == [(0, 200)]
    with pytest.raises(DataError, match="cause 0 of area a01"):
        read_truth(path, "a01", starts, ["m0", "m1"], ["water"], ["ok", "f4"])
    pq.write_table(pa.Table.from_pylist([{"area": "a01"}]), path)
    with pytest.raises(DataError, match="no column cause"):
        read_truth(path, "a01", starts, ["m0"], ["water"], ["ok"])
