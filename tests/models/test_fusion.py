"""Late fusion by hand-computed numbers, under every pattern of missing modalities, and its fitting."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.configs.fusion import RULES, FusionConfig, Rule
from models.fusion.late import LateFusion
from models.training.fitting.calibration import choose_rule, fit_fusion, fit_temperature
from models.training.fitting.evidence import Evidence
from models.training.losses import class_weights, weighted_prior
from pipeline.errors import DataError

P_SENSORS, P_TEXT = [0.7, 0.2, 0.1], [0.1, 0.6, 0.3]


def fusion(rule: Rule, modalities: int = 2, classes: int = 3) -> LateFusion:
    return LateFusion(FusionConfig(rule=rule), modalities=modalities, classes=classes).double()


def answer(network: LateFusion, present: tuple[bool, bool] = (True, True)) -> list[list[float]]:
    """Fused probabilities and weights for the two answers above."""
    logits = torch.tensor([P_SENSORS, P_TEXT], dtype=torch.float64).log()[:, None]
    fused = network(logits, torch.tensor(present)[:, None])
    return [fused.probabilities[0].tolist(), fused.weights[:, 0].tolist()]


def test_there_is_a_test_for_every_rule() -> None:
    assert set(RULES) == set(get_args(Rule)) == {"accuracy", "uniform", "per_class", "product", "stacked"}


def test_accuracy_weights_are_the_shares_of_the_accuracies() -> None:
    network = fusion("accuracy")
    network.accuracies.copy_(torch.tensor([0.9, 0.6]))
    probabilities, weights = answer(network)
    assert weights == pytest.approx([0.6, 0.4])
    assert probabilities == pytest.approx([0.46, 0.36, 0.18])


def test_uniform_weights_are_equal() -> None:
    probabilities, weights = answer(fusion("uniform"))
    assert probabilities == pytest.approx([0.4, 0.4, 0.2])
    assert weights == pytest.approx([0.5, 0.5])


def test_per_class_weights_are_the_shares_of_the_recalls() -> None:
    network = fusion("per_class")
    network.recalls.copy_(torch.tensor([[0.9, 0.2, 0.5], [0.1, 0.8, 0.5]]))
    mixed = [0.9 * 0.7 + 0.1 * 0.1, 0.2 * 0.2 + 0.8 * 0.6, 0.2]
    probabilities, weights = answer(network)
    assert probabilities == pytest.approx([value / sum(mixed) for value in mixed])
    assert weights[0] == pytest.approx((0.9 * mixed[0] + 0.2 * mixed[1] + 0.5 * mixed[2]) / sum(mixed))


def test_the_product_divides_by_the_prior_that_would_count_twice() -> None:
    network = fusion("product")
    network.prior.copy_(torch.tensor([0.5, 0.3, 0.2]))
    raw = [0.7 * 0.1 / 0.5, 0.2 * 0.6 / 0.3, 0.1 * 0.3 / 0.2]
    probabilities, weights = answer(network)
    assert probabilities == pytest.approx([value / sum(raw) for value in raw])
    assert weights == pytest.approx([0.5, 0.5])


def test_stacking_with_identity_weights_is_the_product() -> None:
    stacked, product = fusion("stacked"), fusion("product")
    assert answer(stacked)[0] == pytest.approx(answer(product)[0])


def test_temperatures_flatten_each_modality_and_then_the_mixture() -> None:
    network = fusion("uniform")
    network.temperatures.copy_(torch.tensor([2.0, 1.0]))
    flat = [math.sqrt(p) for p in P_SENSORS]
    mixed = [0.5 * a / sum(flat) + 0.5 * b for a, b in zip(flat, P_TEXT, strict=True)]
    assert answer(network)[0] == pytest.approx(mixed)
    network.temperature.fill_(0.5)
    sharp = [p * p for p in mixed]
    assert answer(network)[0] == pytest.approx([p / sum(sharp) for p in sharp])


def test_a_doubted_text_moves_the_log_odds_by_no_more_than_its_doubt_allows() -> None:
    network = fusion("product")
    prior = torch.tensor([0.5, 0.3, 0.2])
    network.prior.copy_(prior)
    network.doubts.copy_(torch.tensor([0.0, 0.1]))
    sensors = torch.tensor([[2.0, 0.0, -1.0]])
    present = torch.ones(2, 1, dtype=torch.bool)
    shouted = network(torch.stack([sensors, torch.tensor([[0.0, 1000.0, 0.0]])]), present).probabilities[0]
    moved = (shouted[1] / shouted[0]).log() - (sensors[0, 1] - sensors[0, 0])
    assert moved.item() == pytest.approx(math.log((0.9 + 0.1 * 0.3) / 0.3) - math.log(0.1), abs=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_a_modality_alone_answers_for_itself_and_none_gives_the_prior(rule: Rule) -> None:
    network = fusion(rule)
    network.prior.copy_(torch.tensor([0.5, 0.3, 0.2]))
    network.accuracies.copy_(torch.tensor([0.9, 0.001]))
    network.temperature.fill_(0.3)
    for present, probabilities, weights in (
        ((True, False), P_SENSORS, [1, 0]),
        ((False, True), P_TEXT, [0, 1]),
        ((False, False), [0.5, 0.3, 0.2], [0, 0]),
    ):
        found = answer(network, present)
        assert found[0] == pytest.approx(probabilities)
        assert found[1] == pytest.approx(weights)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(RULES), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))
def test_whatever_is_missing_nothing_is_nan_and_weights_sum_to_one(
    rule: Rule, modalities: int, frames: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 40 * torch.randn(modalities, frames, 3, generator=generator)
    present = torch.rand(modalities, frames, generator=generator) > 0.5
    logits[~present] = torch.nan
    network = fusion(rule, modalities).float()
    network.recalls.copy_(torch.rand(modalities, 3, generator=generator) + 1e-3)
    fused = network(logits, present)
    torch.testing.assert_close(fused.weights.sum(dim=0), present.any(dim=0).float())
    assert (fused.weights[~present] == 0).all()
    torch.testing.assert_close(fused.probabilities.sum(dim=1), torch.ones(frames))
    torch.testing.assert_close(fused.modality_probabilities.sum(dim=2), torch.ones(modalities, frames))


def evidence(frames: int = 600, seed: int = 0, sharpness: tuple[float, float] = (4.0, 1.0)) -> Evidence:
    """Two modalities, the first the better one, in ten runs; the second is absent in a third of the frames."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (frames,), generator=generator)
    truth = torch.nn.functional.one_hot(labels, 3).float()
    logits = torch.stack([s * truth + torch.randn(frames, 3, generator=generator) for s in sharpness])
    present = torch.stack([torch.ones(frames, dtype=torch.bool), torch.arange(frames) % 3 > 0])
    return Evidence(logits, present, labels.numpy(), np.arange(frames) * 10 // frames)


def test_the_temperature_undoes_a_known_overconfidence() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = 1.5 * torch.randn(20_000, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.04)
    assert fit_temperature(logits[:0], labels[:0]) == 1


def with_misread_texts(share: float) -> Evidence:
    """Sure sensors, and texts that are as sure, but name another class on a share of the frames."""
    generator = torch.Generator().manual_seed(11)
    labels = torch.randint(0, 3, (3_000,), generator=generator)
    sensors = 2.5 * torch.nn.functional.one_hot(labels, 3) + torch.randn(3_000, 3, generator=generator)
    misread = torch.rand(3_000, generator=generator) < share
    named = torch.where(misread, (labels + 1) % 3, labels)
    texts = 9.0 * torch.nn.functional.one_hot(named, 3) + torch.randn(3_000, 3, generator=generator)
    return Evidence(
        torch.stack([sensors, texts]), torch.ones(2, 3_000, dtype=torch.bool), labels.numpy(), np.arange(3_000) // 300
    )


def test_texts_that_are_surely_wrong_at_times_are_doubted_and_kept_sharp() -> None:
    data = with_misread_texts(0.2)
    fitted = fit_fusion("accuracy", data, np.full(3, 1 / 3), seed=0)
    assert fitted.doubts[0] == 0
    assert fitted.doubts[1] >= 0.2
    assert fitted.temperatures[1] < fit_temperature(data.logits[1], torch.from_numpy(data.labels))
    assert fit_fusion("accuracy", with_misread_texts(0.0), np.full(3, 1 / 3), seed=0).doubts.tolist() == [0, 0]


def test_doubts_rise_until_texts_bring_no_false_alarms_of_their_own() -> None:
    data = with_misread_texts(0.05)
    normal = data.labels == 0
    fitted = fit_fusion("product", data, np.full(3, 1 / 3), seed=0)
    alarms = data.take(normal).fused(fitted).probabilities.argmax(dim=1) > 0
    assert alarms.sum() <= (data.logits[0, normal].argmax(dim=1) > 0).sum()
    undoubted = deepcopy(fitted)
    undoubted.doubts.zero_()
    assert alarms.sum() < (data.take(normal).fused(undoubted).probabilities.argmax(dim=1) > 0).sum()


def test_weights_come_from_the_frames_where_the_modality_is_present() -> None:
    data = evidence()
    fitted = fit_fusion("accuracy", data, np.full(3, 1 / 3), seed=0)
    for at in range(2):
        rows = data.present[at].numpy()
        right = data.logits[at].argmax(dim=1).numpy()[rows] == data.labels[rows]
        assert fitted.accuracies[at].item() == pytest.approx(right.mean())
    assert fitted.temperatures[0] != 1
    assert fitted.temperature != 1


def test_a_modality_that_never_came_up_or_never_was_right_keeps_a_small_weight() -> None:
    data = evidence()
    data.present[1] = False
    assert fit_fusion("stacked", data, np.full(3, 1 / 3), seed=0).accuracies[1] > 0
    wrong = Evidence(
        -data.logits.abs() * torch.nn.functional.one_hot(torch.from_numpy(data.labels), 3) * 9,
        data.present,
        data.labels,
        data.runs,
    )
    assert fit_fusion("accuracy", wrong, np.full(3, 1 / 3), seed=0).accuracies[0] > 0


def test_stacking_is_fitted_even_if_a_class_never_comes_up() -> None:
    data = evidence()
    rows = data.labels != 2
    fitted = fit_fusion("stacked", data.take(rows), np.full(3, 1 / 3), seed=0)
    part = data.take(rows)
    right = fitted(part.logits, part.present).probabilities.argmax(dim=1).numpy() == part.labels
    assert right.mean() > 0.9
    pair = data.take(data.labels == 1)
    assert fit_fusion("stacked", pair, np.full(3, 1 / 3), seed=0).stack_bias.isfinite().all()


def test_the_best_rule_on_validation_is_chosen_and_the_others_are_reported() -> None:
    fitted, scores = choose_rule("auto", evidence(sharpness=(2.0, 2.0)), np.full(3, 1 / 3), seed=0)
    assert set(scores) == set(RULES)
    assert scores[fitted.config.rule] == max(scores.values())
    named, none = choose_rule("uniform", evidence(), np.full(3, 1 / 3), seed=0)
    assert (named.config.rule, none) == ("uniform", {})


def test_fitting_twice_gives_the_same_numbers() -> None:
    first, second = (choose_rule("auto", evidence(), np.full(3, 1 / 3), seed=7)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_without_labelled_frames_fitting_is_refused() -> None:
    data = evidence()
    with pytest.raises(DataError, match="no labelled frame"):
        choose_rule("auto", data.take(data.labels > 9), np.full(3, 1 / 3), seed=0)


def test_class_weights_shift_the_prior_that_the_loss_sees() -> None:
    shares = np.array([0.8, 0.15, 0.05])
    weights: Tensor = class_weights(shares, "balanced")
    assert (weights.double().numpy() * shares).sum() == pytest.approx(1)
    assert weighted_prior(shares, weights) == pytest.approx([1 / 3] * 3)
    assert weighted_prior(shares, class_weights(shares, "none")) == pytest.approx(shares)
    root = class_weights(shares, "sqrt").numpy()
    assert root[1] / root[0] == pytest.approx((0.8 / 0.15) ** 0.5)
