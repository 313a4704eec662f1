"""Confidence maps, conformal sets and reliability tables: by hand, by property, and in the compiled step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from models.configs.fusion import AdaptiveConfig, FusionChoice, FusionConfig
from models.diagnoser import Diagnoser
from models.evaluation.calibration import (
    Trust,
    calibration_error,
    class_meanings,
    expected_calibration_error,
    reliability,
    run_mean,
    trust_scores,
)
from models.fusion.confidence import ConfidenceMap
from models.fusion.conformal import ConformalSets, conformal_scores
from models.model_file import read_model
from models.network_file import build_network, save_model
from models.stepping.load import load_model
from models.training.fitting.confidence import fit_confidence
from models.training.fitting.conformal import EVERY_CLASS, fit_conformal
from tests.support.models_stepping import LAW, compiled, crowd, made, reference
from tests.support.models_tiny import CLASSES, Stream, machine_type

MEANINGS = class_meanings(("normal", "leak", "jam", "recovering"), ("normal", "leak", "jam"))
HERE = torch.ones(1, 1, dtype=torch.bool)


def confidence_map(parameters: list[list[float]], faultless: list[float]) -> ConfidenceMap:
    result = ConfidenceMap(len(faultless))
    result.faultless.copy_(torch.tensor(faultless))
    result.fitted.copy_(torch.tensor(parameters))
    return result


def sets(threshold: float, penalty: float = 0.0, free_ranks: float = 1.0) -> ConformalSets:
    result = ConformalSets()
    result.threshold.fill_(threshold)
    result.penalty.fill_(penalty)
    result.free_ranks.fill_(free_ranks)
    return result


def calibrated(fusion: FusionChoice) -> Diagnoser:
    return made(fusion=fusion, candidates=True)


# -- the parts -------------------------------------------------------------------------------------------------------


@given(
    arrays(np.float32, (6, 4), elements=st.floats(0, 1, width=32)),
    arrays(np.float32, (2, 3), elements=st.floats(0.0625, 5, width=32)),
    st.floats(-5, 5, width=32),
)
@settings(deadline=None)
def test_a_confidence_map_never_changes_what_the_answer_is(raw: np.ndarray, slopes: np.ndarray, shift: float) -> None:
    p = torch.from_numpy(raw + np.float32(1e-6))
    p = p / p.sum(dim=1, keepdim=True)
    slopes[:, 2] = shift
    mapped = confidence_map(slopes.tolist(), [1.0, 0.0, 0.0, 1.0])(p, torch.ones(1, 6, dtype=torch.bool))
    assert mapped.argmax(dim=1).tolist() == p.argmax(dim=1).tolist()
    assert (mapped >= 0).all()
    assert mapped.sum(dim=1).numpy() == pytest.approx(np.ones(6), abs=1e-5)


def test_a_confidence_map_treats_normal_and_recovering_as_one_answer() -> None:
    p = torch.tensor([[0.5, 0.1, 0.1, 0.3], [0.1, 0.7, 0.1, 0.1]])
    mapped = confidence_map([[1, 1, -1], [1, 1, 1]], [1.0, 0.0, 0.0, 1.0])(p, torch.ones(1, 2, dtype=torch.bool))
    sure = 1 / (1 + np.exp(-(np.log(0.8 / 0.2) - 1)))
    assert mapped[0].numpy() == pytest.approx([sure * 5 / 8, (1 - sure) / 2, (1 - sure) / 2, sure * 3 / 8], abs=1e-6)
    sure = 1 / (1 + np.exp(-(np.log(0.7 / 0.3) + 1)))
    assert mapped[1].numpy() == pytest.approx([(1 - sure) / 3, sure, (1 - sure) / 3, (1 - sure) / 3], abs=1e-6)


def test_frames_without_evidence_stay_as_they_are_and_have_no_candidates() -> None:
    p, absent = torch.tensor([[0.6, 0.3, 0.1]]), torch.zeros(2, 1, dtype=torch.bool)
    assert torch.equal(confidence_map([[2, 2, 1], [2, 2, 1]], [1.0, 0.0, 0.0])(p, absent), p)
    assert not sets(EVERY_CLASS)(p, absent).any()


def test_scores_are_the_mass_of_more_probable_classes_and_a_penalty_for_late_ranks() -> None:
    p = torch.tensor([[0.2, 0.5, 0.2, 0.1]])
    assert conformal_scores(p, 0.0, 1.0)[0].tolist() == pytest.approx([0.5, 0.0, 0.7, 0.9])
    assert conformal_scores(p, 0.1, 2.0)[0].tolist() == pytest.approx([0.5, 0.0, 0.8, 1.1])
    assert sets(0.5)(p, HERE).tolist() == [[True, True, False, False]]
    assert sets(0.0)(p, HERE).tolist() == [[False, True, False, False]]
    assert sets(0.75, 0.1, 2.0)(p, HERE).tolist() == [[True, True, False, False]]


# -- fitting ---------------------------------------------------------------------------------------------------------


def drawn(runs: int, frames: int, seed: int, power: float = 1.0) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Answers, presence, labels and runs: labels are drawn from the answers, which are then raised to a power; each run
    is harder or easier as a whole."""
    rng = np.random.default_rng(seed)
    hardness = np.repeat(rng.uniform(0.3, 3, runs), frames)
    logits = rng.standard_normal((runs * frames, 4)) * hardness[:, None]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    classes = (p.cumsum(axis=1) < rng.random((len(p), 1))).sum(axis=1).clip(max=3)
    sharp = p**power / (p**power).sum(axis=1, keepdims=True)
    present = torch.ones(1, len(p), dtype=torch.bool)
    return torch.from_numpy(sharp.astype(np.float32)), present, MEANINGS[classes], np.repeat(np.arange(runs), frames)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.97])
def test_candidates_have_the_true_class_in_new_runs_as_often_as_they_should(coverage: float) -> None:
    fitted = fit_conformal(*drawn(200, 30, 1), MEANINGS, coverage)
    p, present, labels, runs = drawn(200, 30, 2)
    scores = trust_scores(Trust(p.numpy(), present[0].numpy(), fitted(p, present).numpy()), labels, runs, MEANINGS)
    assert scores["candidates_coverage"] == pytest.approx(coverage, abs=0.02)
    assert 1 <= (scores["candidates_size"] or 0) < 4


def test_runs_count_alike_whatever_their_length() -> None:
    """A long run of hard frames would otherwise decide alone."""
    easy = torch.tensor([[0.9, 0.06, 0.03, 0.01]]).repeat(40, 1)
    hard = torch.tensor([[0.6, 0.3, 0.06, 0.04]]).repeat(1000, 1)
    p, runs = torch.cat([easy, hard]), np.concatenate([np.arange(40), np.full(1000, 40)])
    labels = np.concatenate([np.zeros(40, np.int64), np.full(1000, 2)])
    fitted = fit_conformal(p, torch.ones(1, 1040, dtype=torch.bool), labels, runs, MEANINGS, 0.9)
    assert fitted(easy[:1], HERE).sum() == 1


def test_with_runs_that_cannot_promise_the_coverage_all_classes_are_candidates() -> None:
    p, present, labels, runs = drawn(1, 30, 3)
    assert fit_conformal(p, present, labels, runs, MEANINGS, 0.9)(p, present).all()
    unlabelled = np.full(30, -1)
    assert fit_conformal(p, present, unlabelled, runs, MEANINGS, 0.9)(p, present).all()


def test_sure_answers_become_as_sure_as_they_are_right() -> None:
    fitted = fit_confidence(*drawn(100, 30, 4, power=2.5), MEANINGS)
    assert fitted is not None
    p, present, labels, runs = drawn(100, 30, 5, power=2.5)
    before, after = (
        trust_scores(Trust(answers.numpy(), present[0].numpy()), labels, runs, MEANINGS)["ece"] or 1.0
        for answers in (p, fitted(p, present))
    )
    assert before > 0.08
    assert after < 0.04


def test_answers_that_are_calibrated_stay_as_they_are() -> None:
    assert fit_confidence(*drawn(300, 30, 6), MEANINGS) is None


# -- scores ----------------------------------------------------------------------------------------------------------


def test_a_reliability_table_by_hand() -> None:
    bins = reliability(np.array([0.95, 1.0, 0.5, 0.52]), np.array([True, True, True, False]))
    assert [(one.frames, one.correct) for one in bins] == [(2, 0.5), (2, 1.0)]
    assert [one.confidence for one in bins] == pytest.approx([0.51, 0.975])
    assert calibration_error(bins) == pytest.approx((0.01 + 0.025) / 2)
    assert calibration_error([]) is None
    assert expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0


def test_recovering_counts_as_normal_and_an_unknown_class_as_no_label() -> None:
    meanings = class_meanings(("normal", "leak", "recovering", "unknown"), ("normal", "leak"))
    assert meanings.tolist() == [0, 1, 0, -1]
    p = np.array([[0.3, 0.1, 0.6, 0.0], [0.1, 0.2, 0.0, 0.7], [0.9, 0.1, 0.0, 0.0]])
    candidates = np.array([[False, False, True, False], [False, True, False, True], [True, False, False, False]])
    labels, runs, present = np.array([0, 1, -1]), np.array([0, 1, 1]), np.ones(3, bool)
    scores = trust_scores(Trust(p, present, candidates), labels, runs, meanings)
    assert scores["ece"] == pytest.approx((0.1 + 0.7) / 2)
    assert (scores["candidates_coverage"], scores["candidates_size"]) == (1.0, 1.5)


def test_runs_weigh_the_same() -> None:
    assert run_mean(np.array([1, 1, 1, 0]), np.array([0, 0, 0, 1])) == 0.5
    assert run_mean(np.zeros(0, bool), np.zeros(0, np.int64)) is None


# -- the compiled step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", [FusionConfig(rule="accuracy"), AdaptiveConfig(size=16)], ids=["late", "adaptive"])
def test_the_compiled_step_gives_what_torch_gives(fusion: FusionChoice) -> None:
    network, stream = calibrated(fusion), Stream(machines=5, frames=60, seed=3)
    one, other = compiled(network), reference(network)
    sizes = set()
    for t in range(60):
        mine, theirs = one.step(stream.round(t)), other.step(stream.round(t))
        assert np.abs(mine.probabilities - theirs.probabilities).max() < LAW
        assert mine.candidates is not None
        np.testing.assert_array_equal(mine.candidates, theirs.candidates)
        sizes |= set(mine.candidates.sum(axis=1).tolist())
    assert len(sizes) > 1


def test_candidates_do_not_depend_on_the_company() -> None:
    network, stream = calibrated(FusionConfig()), Stream(machines=30, frames=40, seed=6)
    alone, together = compiled(network), compiled(network)
    for t, count in enumerate([1, 2, 31, 32, 33, 100]):
        one, other = alone.step(stream.round(t, [0])), together.step(crowd(count, stream, t, count // 2))
        assert one.candidates is not None and other.candidates is not None
        np.testing.assert_array_equal(one.candidates[0], other.candidates[count // 2])
        np.testing.assert_array_equal(one.probabilities[0], other.probabilities[count // 2])


def test_what_was_fitted_is_in_the_model_file(tmp_path: Path) -> None:
    network, path = calibrated(FusionConfig()), tmp_path / "tiny.faultline"
    save_model(path, network, machine_type(), name="tiny", training={}, storage="float16")
    loaded = build_network(read_model(path))
    assert loaded.confidence is not None and loaded.conformal is not None and network.confidence is not None
    assert torch.equal(loaded.confidence.fitted, network.confidence.fitted)
    assert float(loaded.conformal.threshold) == 0.75
    result = load_model(path, machine_type()).step(Stream(machines=2, frames=1).round(0))
    assert result.candidates is not None and result.candidates.shape == (2, CLASSES)


def test_a_model_without_either_is_described_as_before() -> None:
    network = made()
    assert not {"calibrated", "coverage"} & network.config.model_dump(mode="json").keys()
    assert compiled(network).step(Stream(machines=2, frames=1).round(0)).candidates is None
