"""Caution keeps to its share of false alarms, and doubts texts that err where it has not been fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.configs.fusion import RULES, FusionConfig, Rule
from models.data.runs import Run
from models.data.text_pools import EventDrawConfig, TextPool, split_groups
from models.encoders.placed_texts import PlacedText
from models.fusion.late import LateFusion
from models.training.calibration import fit_fusion
from models.training.evidence import Evidence
from models.training.false_alarms import (
    choose_rule_with_margins,
    fault_free_folds,
    fit_margins,
    fit_text_temperature,
    with_text_temperature,
)
from tests.support.models_tiny import network


def calm_evidence(present: Tensor) -> Evidence:
    """Five normal frames: the first modality leans to one fault by 1, 2, 3 and 4, and to another in the last frame by
    1; the second modality, where it is present, leans to the first fault by 2."""
    logits = torch.zeros(2, 5, 3)
    logits[0, :4, 1] = torch.tensor([1.0, 2, 3, 4])
    logits[0, :, 2] = torch.tensor([-9.0, -9, -9, -9, 1])
    logits[0, 4, 1] = -9
    logits[1, :, 1] = 2
    logits[1, :, 2] = -9
    return Evidence(logits, present, np.zeros(5, np.int64), np.zeros(5, np.int64))


def test_caution_is_the_least_that_is_enough_for_each_fault() -> None:
    evidence = calm_evidence(torch.tensor([[True] * 5, [False] * 3 + [True] * 2]))
    fusion = LateFusion(FusionConfig(rule="product"), modalities=2, classes=3)

    def caution(share: float) -> list[list[float]]:
        return [[round(shift, 1) for shift in row] for row in fit_margins(fusion, evidence, share).tolist()]

    assert caution(1.0) == [[0, 0, 0], [0, 0, 0]]
    # One frame each: the second fault needs nothing; the second modality must not help where the first one leans most.
    assert caution(0.4) == [[0, 3, 0], [0, 0, 0]]
    assert caution(0.2) == [[0, 4, 1], [0, 0, 0]]
    assert caution(0.1) == [[0, 4, 1], [0, 2, 0]]
    calm = Evidence(-evidence.logits.abs(), evidence.present, evidence.labels, evidence.runs)
    calm.logits[:, :, 0] = 0
    assert not fit_margins(fusion, calm, 0.1).any()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_every_rule_can_be_cautious(rule: Rule, share: float) -> None:
    evidence = calm_evidence(torch.tensor([[True] * 5, [False] + [True] * 4]))
    fusion = LateFusion(FusionConfig(rule=rule), modalities=2, classes=3)
    fusion.temperatures.copy_(torch.tensor([2.0, 0.7]))
    fusion.temperature.fill_(1.3)
    shifts = fit_margins(fusion, evidence, share)
    assert not shifts[:, 0].any()
    cautious = Evidence(evidence.logits - shifts[:, None], evidence.present, evidence.labels, evidence.runs)
    assert int((cautious.fused(fusion).probabilities.argmax(dim=1) > 0).sum()) <= 5 * share


def test_texts_that_err_on_half_of_their_groups_are_doubted() -> None:
    """Sensors that are always sure of the normal state, and texts that are sure of a fault in one fold only."""
    fusion = LateFusion(FusionConfig(rule="product"), modalities=2, classes=3)

    def fold(said: float) -> Evidence:
        logits = torch.zeros(2, 50, 3)
        logits[0, :, 0] = 4
        logits[1, :, 1] = said
        none = np.zeros(50, np.int64)
        return Evidence(logits, torch.ones(2, 50, dtype=torch.bool), none, none)

    calm, wrong, very_wrong = fold(-6.0), fold(5.0), fold(40.0)
    assert fit_text_temperature(fusion, [calm, calm], 0.0) == 1
    # What is fitted on the calm fold alone is not enough for the other, unless texts that say 5 count for less than 4.
    assert fit_text_temperature(fusion, [calm, wrong], 0.0) == 1.4
    # No doubt is enough; all are equally bad.
    assert fit_text_temperature(fusion, [calm, very_wrong], 0.0) == 1
    assert fit_text_temperature(fusion, [wrong], 0.0) == 1
    before = fusion.temperatures.tolist()
    assert with_text_temperature(fusion, 2.0).temperatures.tolist() == [1, 2]
    assert fusion.temperatures.tolist() == before


def test_the_rule_is_the_one_that_is_best_under_caution() -> None:
    """Texts that are right about the fault and wrong, with confidence, where nothing is wrong."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 200)
    truth = torch.nn.functional.one_hot(torch.from_numpy(labels), 3)
    noise = torch.from_numpy(rng.normal(size=(2, 600, 3)).astype(np.float32))
    evidence = Evidence(3 * truth + noise, torch.ones(2, 600, dtype=torch.bool), labels, np.arange(600) % 20)
    wrong = Evidence(evidence.logits[:, :200].clone(), evidence.present[:, :200], labels[:200], np.arange(200) % 20)
    wrong.logits[1, :, 1] += 6
    prior = np.full(3, 1 / 3)
    fusion, shifts, scores = choose_rule_with_margins("auto", evidence, prior, [wrong, wrong], 0.005, seed=0)
    assert set(scores) == set(RULES) - {"stacked"}
    assert fusion.config.rule == max(scores, key=lambda rule: scores[rule])
    cautious = Evidence(wrong.logits - shifts[:, None], wrong.present, wrong.labels, wrong.runs)
    assert (cautious.fused(fusion).probabilities.argmax(dim=1) > 0).float().mean() <= 0.005
    bold = fit_fusion(fusion.config.rule, evidence, prior, seed=0)
    assert (wrong.fused(bold).probabilities.argmax(dim=1) > 0).float().mean() > 0.5
    given, _, none = choose_rule_with_margins("uniform", evidence, prior, [wrong, wrong], 0.005, seed=0)
    assert (given.config.rule, none) == ("uniform", {})


def test_folds_of_calm_frames_share_no_group_of_texts() -> None:
    labels = np.array([0] * 40 + [1] * 10)
    values = np.zeros((50, 4), np.float32)
    runs = [Run(f"run {at}", str(at), "runs", values, labels) for at in range(4)]
    runs.append(Run("faulty", "5", "runs", values, np.ones(50, np.int64)))
    pool = TextPool(tuple(f"text {at}" for at in range(12)), np.zeros(12, np.int64), tuple("aaabbbcccddd"))
    halves = split_groups(pool, 0.5, np.random.default_rng(0))
    assert [len(set(half.groups)) for half in halves] == [2, 2]
    assert not set(halves[0].groups) & set(halves[1].groups)
    folds = fault_free_folds(network(), runs, pool, EventDrawConfig(benign_rate=0.2), hold_limit=3, seed=0)
    assert len(folds) == 2
    for of in folds:
        # Four runs, of which 40 frames are calm, with texts drawn four times.
        assert len(of.labels) == 4 * 4 * 40
        assert not of.labels.any()
        assert of.present[1].any()
    own = [replace(run, texts=(PlacedText(45, 0.0, "late"), PlacedText(3, 0.0, "early"))) for run in runs[1:]]
    first, second = fault_free_folds(network(), own, None, EventDrawConfig(), hold_limit=3, seed=0)
    assert (len(first.labels), len(second.labels)) == (80, 40)
    assert int(first.present[1].sum()) == 2 * 21, (
        "an early text is heard for 20 frames more; a late one is not of the calm frames"
    )
