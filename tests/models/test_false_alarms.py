"""False-alarm margins keep to their share, and texts that err where margins were not fitted get a temperature."""

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
from models.fusion.learned import LearnedFusion
from models.training.fitting.calibration import fit_fusion
from models.training.fitting.evidence import Evidence
from models.training.fitting.false_alarms import (
    Raised,
    choose_rule_with_margins,
    fault_free_folds,
    fit_fused_margins,
    fit_margins,
    fit_text_temperature,
    with_text_temperature,
)
from pipeline.config.classes import labelled_classes
from tests.models.test_stepping import ADAPTIVE
from tests.support.models_stepping import made
from tests.support.models_tiny import CLASSES, network


def fault_free_evidence(present: Tensor) -> Evidence:
    """Five normal frames: the first modality leans to one fault by 1, 2, 3 and 4, and to another in the last frame by
    1; the second modality, where it is present, leans to the first fault by 2."""
    logits = torch.zeros(2, 5, 3)
    logits[0, :4, 1] = torch.tensor([1.0, 2, 3, 4])
    logits[0, :, 2] = torch.tensor([-9.0, -9, -9, -9, 1])
    logits[0, 4, 1] = -9
    logits[1, :, 1] = 2
    logits[1, :, 2] = -9
    return Evidence(logits, present, np.zeros(5, np.int64), np.zeros(5, np.int64))


def test_margins_are_the_smallest_that_suffice_for_each_fault() -> None:
    evidence = fault_free_evidence(torch.tensor([[True] * 5, [False] * 3 + [True] * 2]))
    fusion = LateFusion(FusionConfig(rule="product"), modalities=2, classes=3)

    def margins(share: float) -> list[list[float]]:
        return [[round(margin, 1) for margin in row] for row in fit_margins(fusion, evidence, share).tolist()]

    assert margins(1.0) == [[0, 0, 0], [0, 0, 0]]
    # One frame each: the second fault needs nothing; the second modality must not help where the first one leans most.
    assert margins(0.4) == [[0, 3, 0], [0, 0, 0]]
    assert margins(0.2) == [[0, 4, 1], [0, 0, 0]]
    assert margins(0.1) == [[0, 4, 1], [0, 2, 0]]
    certain = Evidence(-evidence.logits.abs(), evidence.present, evidence.labels, evidence.runs)
    certain.logits[:, :, 0] = 0
    assert not fit_margins(fusion, certain, 0.1).any()


def test_naming_recovering_is_no_false_alarm_and_needs_no_margin() -> None:
    evidence = fault_free_evidence(torch.ones(2, 5, dtype=torch.bool))
    fusion = LateFusion(FusionConfig(rule="product"), modalities=2, classes=3)
    assert fit_margins(fusion, evidence, 0.0)[0, 2] > 0
    margins = fit_margins(fusion, evidence, 0.0, faults=2)
    assert not margins[:, 2].any()
    assert margins[0, 1] > 0
    # What leads the normal state but not `recovering` is no alarm either.
    recovering = Evidence(evidence.logits.clone(), evidence.present, evidence.labels, evidence.runs)
    recovering.logits[:, :, 2] = 5
    assert not fit_margins(fusion, recovering, 0.0, faults=2).any()
    # Frames of the class do not count as faulty when rules are compared.
    labels = np.array([0, 1, 2, 2, 2] * 20)
    logits = 9 * torch.nn.functional.one_hot(torch.from_numpy(np.where(labels == 2, 0, labels)), 3).float()
    both = torch.stack([logits, logits])
    many = Evidence(both, torch.ones(2, 100, dtype=torch.bool), labels, np.arange(100) % 10)
    _, _, scores = choose_rule_with_margins(
        "auto", many, np.full(3, 1 / 3), [many.take(labels == 0)] * 2, 0.1, seed=0, faults=2
    )
    assert set(scores.values()) == {1.0}


def test_visible_faults_are_favoured_as_far_as_that_helps_and_the_share_allows() -> None:
    fusion = LateFusion(FusionConfig(rule="product"), modalities=1, classes=3)
    # Faulty frames lean to the normal state by 0.4 to 1.6, normal ones by 1 to 3.
    faulty, normal = torch.linspace(-1.6, -0.4, 10), torch.linspace(-3, -1, 100)
    logits = torch.zeros(1, 110, 3)
    logits[0, :, 1], logits[0, :, 2] = torch.cat([faulty, normal]), -9
    labels = np.array([1] * 10 + [0] * 100)
    labelled = Evidence(logits, torch.ones(1, 110, dtype=torch.bool), labels, np.arange(110))
    fault_free = labelled.take(labels == 0)

    def margin(share: float, visible: list[bool], of: Evidence = labelled) -> float:
        raised = Raised(np.array(visible), of)
        margins = fit_margins(fusion, fault_free, share, raised=raised)
        assert not margins[:, 2].any() or visible[2]
        leads = fault_free.logits[0, :, 1] - margins[0, 1]
        assert int((leads > 0).sum()) <= 100 * share
        return float(margins[0, 1])

    assert -1.01 < margin(0.0, [False, True, False]) < -0.8
    # Where only faulty frames count, all false alarms that are allowed are used.
    assert -1.5 < margin(0.2, [False, True, False], labelled.take(labels == 1)) < -1.2
    assert margin(0.2, [False, False, True]) == 0
    # Where no faulty frame is gained, false alarms that are allowed are not used.
    assert margin(0.2, [False, True, False], labelled.take(labels == 0)) == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_margins_keep_to_the_share_with_every_rule(rule: Rule, share: float) -> None:
    evidence = fault_free_evidence(torch.tensor([[True] * 5, [False] + [True] * 4]))
    fusion = LateFusion(FusionConfig(rule=rule), modalities=2, classes=3)
    fusion.temperatures.copy_(torch.tensor([2.0, 0.7]))
    fusion.temperature.fill_(1.3)
    margins = fit_margins(fusion, evidence, share)
    assert not margins[:, 0].any()
    shifted = Evidence(evidence.logits - margins[:, None], evidence.present, evidence.labels, evidence.runs)
    assert int((shifted.fused(fusion).probabilities.argmax(dim=1) > 0).sum()) <= 5 * share


def test_texts_that_err_on_half_of_their_groups_get_a_temperature() -> None:
    """Sensors that always favour the normal state, and texts that favour a fault in one fold only."""
    fusion = LateFusion(FusionConfig(rule="product"), modalities=2, classes=3)

    def fold(text_logit: float) -> Evidence:
        logits = torch.zeros(2, 50, 3)
        logits[0, :, 0] = 4
        logits[1, :, 1] = text_logit
        none = np.zeros(50, np.int64)
        return Evidence(logits, torch.ones(2, 50, dtype=torch.bool), none, none)

    right, wrong, very_wrong = fold(-6.0), fold(5.0), fold(40.0)
    assert fit_text_temperature(fusion, [right, right], 0.0) == 1
    # Margins fitted on the first fold alone do not suffice for the other, unless text logits of 5 are scaled below 4.
    assert fit_text_temperature(fusion, [right, wrong], 0.0) == 1.4
    # No temperature suffices; all are equally bad.
    assert fit_text_temperature(fusion, [right, very_wrong], 0.0) == 1
    assert fit_text_temperature(fusion, [wrong], 0.0) == 1
    before = fusion.temperatures.tolist()
    assert with_text_temperature(fusion, 2.0).temperatures.tolist() == [1, 2]
    assert fusion.temperatures.tolist() == before


def test_the_rule_is_the_one_that_is_best_with_margins() -> None:
    """Texts that are right about the fault and wrong, with confidence, where nothing is wrong."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 200)
    truth = torch.nn.functional.one_hot(torch.from_numpy(labels), 3)
    noise = torch.from_numpy(rng.normal(size=(2, 600, 3)).astype(np.float32))
    evidence = Evidence(3 * truth + noise, torch.ones(2, 600, dtype=torch.bool), labels, np.arange(600) % 20)
    wrong = Evidence(evidence.logits[:, :200].clone(), evidence.present[:, :200], labels[:200], np.arange(200) % 20)
    wrong.logits[1, :, 1] += 6
    prior = np.full(3, 1 / 3)
    fusion, margins, scores = choose_rule_with_margins("auto", evidence, prior, [wrong, wrong], 0.005, seed=0)
    assert set(scores) == set(RULES) - {"stacked"}
    assert fusion.config.rule == max(scores, key=lambda rule: scores[rule])
    shifted = Evidence(wrong.logits - margins[:, None], wrong.present, wrong.labels, wrong.runs)
    assert (shifted.fused(fusion).probabilities.argmax(dim=1) > 0).float().mean() <= 0.005
    unshifted = fit_fusion(fusion.config.rule, evidence, prior, seed=0)
    assert (wrong.fused(unshifted).probabilities.argmax(dim=1) > 0).float().mean() > 0.5
    given, _, none = choose_rule_with_margins("uniform", evidence, prior, [wrong, wrong], 0.005, seed=0)
    assert (given.config.rule, none) == ("uniform", {})


def test_folds_of_fault_free_frames_share_no_group_of_texts() -> None:
    labels = np.array([0] * 40 + [1] * 10)
    values = np.zeros((50, 4), np.float32)
    runs = [Run(f"run {at}", str(at), "runs", values, labels) for at in range(4)]
    runs.append(Run("faulty", "5", "runs", values, np.ones(50, np.int64)))
    pool = TextPool(tuple(f"pump leaks {at}" for at in range(12)), np.zeros(12, np.int64), tuple("aaabbbcccddd"))
    halves = split_groups(pool, 0.5, np.random.default_rng(0))
    assert [len(set(half.groups)) for half in halves] == [2, 2]
    assert not set(halves[0].groups) & set(halves[1].groups)
    folds = fault_free_folds(network(), runs, pool, EventDrawConfig(benign_rate=0.2), hold_limit=3, seed=0)
    assert len(folds) == 2
    for fold in folds:
        # Four runs, of which 40 frames are fault-free, with texts drawn four times.
        assert len(fold.labels) == 4 * 4 * 40
        assert not fold.labels.any()
        assert fold.present[1].any()
    own = [replace(run, texts=(PlacedText(45, 0.0, "shaft jam"), PlacedText(3, 0.0, "pump leaks"))) for run in runs[1:]]
    first, second = fault_free_folds(network(), own, None, EventDrawConfig(), hold_limit=3, seed=0)
    assert (len(first.labels), len(second.labels)) == (80, 40)
    assert int(first.present[1].sum()) == 2 * 21, (
        "an early text is in the ring for 20 frames more; a late one is not in a fault-free frame"
    )


@pytest.mark.parametrize("faults", [3, 2])
def test_an_adaptive_fusion_gets_one_margin_for_all_it_says(faults: int) -> None:
    network = made(fusion=ADAPTIVE, seed=2)
    fusion = network.fusion
    assert isinstance(fusion, LearnedFusion)
    generator = torch.Generator().manual_seed(0)
    count = 2_000
    present = torch.ones(2, count, dtype=torch.bool)
    present[1, : count // 2] = False
    sizes = [network.sensors.feature_size, network.text.feature_size if network.text is not None else 0]
    folds = [
        Evidence(
            torch.randn(2, count, CLASSES, generator=generator),
            present,
            np.zeros(count, np.int64),
            np.arange(count),
            [torch.randn(count, size, generator=generator) for size in sizes],
        )
        for _ in range(2)
    ]

    def false_alarms(evidence: Evidence, text: bool) -> float:
        shown = evidence.present.clone()
        shown[1] &= text
        seen = Evidence(evidence.logits, shown, evidence.labels, evidence.runs, evidence.features)
        predicted = seen.fused(fusion).probabilities.argmax(dim=1).numpy()
        return float((labelled_classes(predicted, faults) > 0).mean())

    everything = Evidence.join(folds)
    assert max(false_alarms(everything, text) for text in (True, False)) > 0.05
    margins = fit_fused_margins(fusion, folds, 0.01, faults)
    assert not margins[0]
    assert not margins[faults:].any()
    with torch.no_grad():
        fusion.network.subtract(margins)
    for text in (True, False):
        assert false_alarms(everything, text) <= 0.01
