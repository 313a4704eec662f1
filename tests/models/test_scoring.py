"""Stream scores and fusion metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.evaluation.scoring import (
    NO_EVIDENCE,
    UNKNOWN,
    Scores,
    class_indices,
    entropy,
    fusion_scores,
    label_scores,
    scores_by_modality,
    stream_scores,
)
from pipeline.errors import DataError

CLASSES = ("normal", "leak", "jam")
KEYS = {
    "accuracy",
    "macro_f1",
    "detection_rate",
    "false_alarm_rate",
    "false_alarm_rate_before",
    "false_alarm_rate_recovering",
    "false_alarm_rate_recovered",
    "false_alarm_rate_recovered_early",
    "false_alarm_rate_recovered_late",
    "correct_diagnosis_rate",
    "detection_delay_mean_frames",
    "detection_delay_median_frames",
    "return_delay_median_frames",
    "undetected_share",
    "per_fault",
}


def score(truth: list[int], predicted: list[int], machine: list[int] | None = None) -> Scores:
    frames = np.arange(len(truth))
    return stream_scores(machine or [0] * len(truth), frames, truth, predicted, CLASSES)


def test_scores_of_one_fault_that_is_found_late_and_left_late() -> None:
    #              onset .     cleared     second fault, never found
    truth = [0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 2, 2]
    said = [0, 2, 0, 0, 1, 2, 1, 1, 0, 0, 0, 0]
    scores = score(truth, said)
    assert set(scores) == KEYS
    assert scores["accuracy"] == pytest.approx(4 / 12)
    assert scores["detection_rate"] == pytest.approx(2 / 6)
    assert scores["false_alarm_rate"] == pytest.approx(3 / 6)
    assert scores["correct_diagnosis_rate"] == pytest.approx(1 / 2)
    assert scores["detection_delay_mean_frames"] == 2
    assert scores["detection_delay_median_frames"] == 2
    assert scores["return_delay_median_frames"] == 2
    assert scores["undetected_share"] == 0.5
    # F1: normal 3 of 7 said, 6 true; leak 1 of 3 said, 4 true; jam none right
    assert scores["macro_f1"] == pytest.approx((6 / 13 + 2 / 7 + 0) / 3)
    assert scores["per_fault"]["leak"] == {
        "frames": 4,
        "episodes": 1,
        "accuracy": 0.25,
        "detection_rate": 0.5,
        "correct_diagnosis_rate": 0.5,
        "detection_delay_mean_frames": 2,
        "detection_delay_median_frames": 2,
        "return_delay_median_frames": 2,
        "undetected_share": 0,
    }
    jam = scores["per_fault"]["jam"]
    assert jam["undetected_share"] == 1
    assert jam["detection_delay_mean_frames"] is None
    assert jam["correct_diagnosis_rate"] is None


def test_detection_at_once_has_no_delay() -> None:
    assert score([0, 1, 1], [0, 2, 1])["detection_delay_mean_frames"] == 0


def test_saying_nothing_counts_as_normal_and_unknown_as_detected_but_wrong() -> None:
    silent = score([0, 1], [NO_EVIDENCE, NO_EVIDENCE])
    assert (silent["accuracy"], silent["detection_rate"], silent["false_alarm_rate"]) == (0.5, 0, 0)
    unsure = score([0, 1], [UNKNOWN, UNKNOWN])
    assert (unsure["accuracy"], unsure["detection_rate"], unsure["false_alarm_rate"]) == (0, 1, 1)
    assert unsure["correct_diagnosis_rate"] == 0


def test_a_machine_that_never_returns_counts_with_the_whole_stretch() -> None:
    assert score([1, 0, 0, 0], [1, 1, 1, 1])["return_delay_median_frames"] == 3


def false_alarms(scores: Scores) -> list[float | None]:
    return [scores[f"false_alarm_rate_{when}"] for when in ("before", "recovering", "recovered")]


def test_false_alarms_are_told_apart_by_their_distance_from_a_fault() -> None:
    #         before      fault cleared, 2 frames of recovery, then 3 more
    truth = [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    said = [0, 2, 0, 0, 1, 1, 1, 0, 0, 2, 2]
    frames = np.arange(len(truth))
    assert false_alarms(stream_scores([0] * 11, frames, truth, said, CLASSES, recovery_frames=2)) == (
        pytest.approx([1 / 4, 1 / 2, 2 / 3])
    )
    # Of 40 frames, unless told otherwise.
    found = false_alarms(score(truth, said))
    assert found[:2] == pytest.approx([1 / 4, 3 / 5])
    assert found[2] is None


def test_recovering_names_no_fault_and_is_right_where_labels_say_normal() -> None:
    recovering = len(CLASSES)
    truth = [0, 0, 1, 1, 1, 0, 0, 0, 0]
    said = [0, recovering, recovering, 1, 1, 1, recovering, recovering, 0]
    scores = score(truth, said)
    assert scores == score(truth, [0 if one == recovering else one for one in said])
    assert scores["accuracy"] == pytest.approx(7 / 9)
    assert scores["false_alarm_rate"] == pytest.approx(1 / 6)
    assert scores["detection_delay_mean_frames"] == 1
    assert scores["return_delay_median_frames"] == 1
    codes = class_indices(["jam", "recovering"], CLASSES)
    assert codes.tolist() == [2, 0]
    # A plant may have a fault of that name, if its model has no such class.
    assert class_indices(["recovering"], ("normal", "recovering")).tolist() == [1]


def test_false_alarms_long_after_a_clearing_are_given_separately() -> None:
    truth, said = [1] + [0] * 150, [1] + [0] * 150
    said[1 + 50] = said[1 + 120] = said[1 + 130] = 2
    scores = score(truth, said)
    assert scores["false_alarm_rate_recovering"] == 0
    assert scores["false_alarm_rate_recovered"] == pytest.approx(3 / 110)
    assert scores["false_alarm_rate_recovered_early"] == pytest.approx(1 / 60)
    assert scores["false_alarm_rate_recovered_late"] == pytest.approx(2 / 50)


def test_a_machine_that_was_never_faulty_has_false_alarms_before_and_no_others() -> None:
    machines, truth, said = [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 0, 1, 0]
    found = false_alarms(score(truth, said, machines))
    assert found[0] == pytest.approx(1 / 3)
    assert found[1:] == [None, None]


def test_after_an_unlabelled_stretch_a_plant_counts_as_recovering_by_frames_and_not_by_rows() -> None:
    scores = stream_scores([0] * 4, [0, 10, 12, 15], [0, -1, 0, 0], [0, 0, 1, 0], CLASSES, recovery_frames=3)
    assert false_alarms(scores) == [0, 1, 0]


def test_unlabelled_frames_count_for_nothing_but_end_a_stretch() -> None:
    scores = score([1, 1, -1, 0, 0], [1, 1, 1, 1, 0])
    assert scores["accuracy"] == 0.75
    assert scores["return_delay_median_frames"] is None
    assert score([-1, -1], [0, 1])["accuracy"] is None


def test_machines_are_scored_apart_and_in_any_order() -> None:
    machines, frames = np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])
    scores = stream_scores(machines, frames, [1, 0, 0, 1], [1, 0, 0, 1], CLASSES)
    # Machine 0: leak then normal; machine 1: normal then leak.
    assert scores["per_fault"]["leak"]["episodes"] == 2
    assert scores["return_delay_median_frames"] == 0
    assert scores["detection_delay_mean_frames"] == 0


def test_delays_count_frames_and_not_rows() -> None:
    scores = stream_scores(["a"] * 3, [10, 14, 15], [1, 1, 1], [0, 1, 1], CLASSES)
    assert scores["detection_delay_mean_frames"] == 4


def test_what_is_undefined_is_none() -> None:
    empty = score([], [])
    assert {key: empty[key] for key in KEYS - {"per_fault"}} == dict.fromkeys(KEYS - {"per_fault"})
    calm = score([0, 0], [0, 0])
    assert calm["detection_rate"] is None
    assert calm["undetected_share"] is None
    assert calm["false_alarm_rate"] == 0


def test_wire_words_become_codes_and_others_are_refused() -> None:
    codes = class_indices(["jam", "no_evidence", "unknown", "normal"], CLASSES)
    assert codes.tolist() == [2, NO_EVIDENCE, UNKNOWN, 0]
    with pytest.raises(DataError, match="wear"):
        class_indices(["wear"], CLASSES)


def test_columns_must_be_equally_long() -> None:
    with pytest.raises(DataError, match="same number of rows"):
        stream_scores([0], [0], [0, 1], [0], CLASSES)


def test_each_modality_gets_scores_of_its_own() -> None:
    both = scores_by_modality([0, 0], [0, 1], [0, 1], {"sensors": [0, 1], "text": [-1, -1]}, CLASSES)
    assert both["sensors"]["accuracy"] == 1
    assert both["text"]["accuracy"] == 0.5


def test_fusion_metrics_by_hand() -> None:
    fused = np.array([[0.5, 0.5], [1.0, 0.0]])
    each = np.array([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.5, 0.5]]])
    present = np.array([[True, True], [True, False]])
    weights = np.array([[0.5, 1.0], [0.5, 0.0]])
    metrics = fusion_scores(fused, each, weights, present, ("sensors", "text"))
    assert metrics["mean_confidence"] == pytest.approx(0.75)
    assert metrics["mean_entropy"] == pytest.approx(math.log(2) / 2)
    # Opposite certainties disagree by log 2; the second frame has only one modality.
    assert metrics["mean_disagreement"] == pytest.approx(math.log(2))
    assert metrics["mean_weights"] == {"sensors": 0.75, "text": 0.25}


def test_without_two_modalities_there_is_no_disagreement() -> None:
    one = np.array([[0.5, 0.5]])
    metrics = fusion_scores(one, one[None], np.ones((1, 1)), np.ones((1, 1), bool), ("sensors",))
    assert metrics["mean_disagreement"] is None


def test_label_scores_by_hand() -> None:
    scores = label_scores(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]))
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    # Part 0 holds classes 0, 0, 1; part 1 holds class 1.
    h = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    assert scores["conditional_entropy"] == pytest.approx(0.75 * h)
    assert scores["mutual_information"] == pytest.approx(math.log(2) - 0.75 * h)


labels = arrays(np.int64, st.shared(st.integers(1, 60), key="n"), elements=st.integers(0, 5))


@given(labels, labels)
def test_mutual_information_and_conditional_entropy_sum_to_the_entropy_of_the_labels(
    truth: np.ndarray, predicted: np.ndarray
) -> None:
    scores = label_scores(truth, predicted)
    shares = np.bincount(truth) / len(truth)
    assert scores["mutual_information"] + scores["conditional_entropy"] == pytest.approx(
        float(entropy(shares)), abs=1e-9
    )


def test_unlabelled_frames_are_left_out_of_fusion_metrics() -> None:
    fused = np.array([[0.9, 0.1], [0.1, 0.9]])
    metrics = fusion_scores(fused, fused[None], np.ones((1, 2)), np.ones((1, 2), bool), ("sensors",), np.array([0, -1]))
    assert metrics["accuracy"] == 1
