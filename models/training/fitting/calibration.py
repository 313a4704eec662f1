"""Fitting a late fusion on validation frames: temperatures, weights, stacking, and the choice of the rule."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import nll_loss

from models.configs.fusion import RULES, FusionConfig, Rule, RuleChoice
from models.fusion.base import TINY
from models.fusion.late import LateFusion
from models.fusion.learned import LearnedFusion
from models.training.fitting.evidence import Evidence
from pipeline.arrays import Bools
from pipeline.errors import DataError

_MIN_WEIGHT = 1e-3
"""Above 0, because a modality that was always wrong must still answer when it is alone."""
_STACK_FRAMES = 10_000
_UNSEEN_CLASS_BIAS = -10.0
DOUBTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""What is tried as the doubt of a modality other than the first."""
_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0


def fit_temperature(log_probabilities: Tensor, labels: Tensor, floor: Tensor | None = None) -> float:
    """T > 0 with the smallest mean -log p[label] of p = softmax(log p / T), by golden section over log T.

    log_probabilities (N, C) may be logits; labels (N,). The loss is convex in 1/T, so there is one minimum; with a
    floor (C,), which takes its sum's share of p, a minimum is found. Without frames T is 1.
    """
    if not len(labels):
        return 1.0

    def loss(log_t: float) -> float:
        return _loss(log_probabilities / float(np.exp(log_t)), labels, floor)

    low, high = float(np.log(_MIN_TEMPERATURE)), float(np.log(_MAX_TEMPERATURE))
    ratio = (5**0.5 - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    losses = [loss(log_t) for log_t in inner]
    while high - low > 1e-4:
        if losses[0] < losses[1]:
            high, inner[1], losses[1] = inner[1], inner[0], losses[0]
            inner[0] = high - ratio * (high - low)
            losses[0] = loss(inner[0])
        else:
            low, inner[0], losses[0] = inner[0], inner[1], losses[1]
            inner[1] = low + ratio * (high - low)
            losses[1] = loss(inner[1])
    return float(np.exp((low + high) / 2))


def fit_fusion(rule: Rule, evidence: Evidence, prior: NDArray[np.float64], *, seed: int) -> LateFusion:
    """A late fusion whose temperatures, doubts, weights and stacking come from these frames alone.

    `prior` (C,) is the class distribution that the modalities were trained for.
    """
    modalities, _, classes = evidence.logits.shape
    fusion = LateFusion(FusionConfig(rule=rule), modalities=modalities, classes=classes)
    labels = torch.from_numpy(evidence.labels)
    with torch.no_grad():
        fusion.prior.copy_(torch.from_numpy(prior))
        for modality in range(modalities):
            rows = evidence.present[modality]
            y, z = labels[rows], evidence.logits[modality, rows]
            fusion.temperatures[modality] = fit_temperature(z, y)
            if modality:
                _fit_doubt(fusion, modality, z, y)
            right = (z.argmax(dim=1) == y).float()
            if len(y):
                fusion.accuracies[modality] = right.mean().clamp_min(_MIN_WEIGHT)
            count = torch.bincount(y, minlength=classes).float()
            hits = torch.bincount(y, weights=right, minlength=classes).float()
            # The recall of a class without frames is unknown: the accuracy takes its place.
            recall = torch.where(count > 0, hits / count.clamp_min(1), fusion.accuracies[modality])
            fusion.recalls[modality] = recall.clamp_min(_MIN_WEIGHT)
        several = evidence.present.sum(dim=0) > 1
        if rule != "stacked":
            _cap_false_alarms(fusion, evidence.take(several.numpy()))
        elif bool(several.any()):
            _fit_stack(fusion, evidence.logits[:, several], labels[several], seed)
    fit_mixed_temperature(fusion, evidence)
    return fusion.eval()


def _loss(logits: Tensor, labels: Tensor, floor: Tensor | None) -> float:
    """Mean -log p[label] of softmax(logits), mixed with a floor (C,) if one is given."""
    if floor is None:
        return nll_loss(torch.log_softmax(logits, dim=1), labels).item()
    mixed = (1 - floor.sum()) * torch.softmax(logits, dim=1) + floor
    return nll_loss((mixed + TINY).log(), labels).item()


def _fit_doubt(fusion: LateFusion, modality: int, logits: Tensor, labels: Tensor) -> None:
    """The doubt, with its temperature, under which a modality's own answers (N, C) are most probable.

    Where a text is misread the answer is as sure as elsewhere. A temperature alone would make all answers less sure.
    """
    best = _loss(logits / fusion.temperatures[modality], labels, None) if len(labels) else 0.0
    for doubt in DOUBTS[1:]:
        floor = doubt * fusion.prior
        temperature = fit_temperature(logits, labels, floor)
        if len(labels) and (loss := _loss(logits / temperature, labels, floor)) < best:
            best = loss
            fusion.temperatures[modality], fusion.doubts[modality] = temperature, doubt


def _cap_false_alarms(fusion: LateFusion, evidence: Evidence) -> None:
    """Raise the doubts of all modalities but the first until the fusion gives no more false alarms than the first
    alone, on frames where several are present; to the largest of DOUBTS at most."""
    if len(fusion.doubts) < 2 or not len(evidence.labels):
        return
    normal = torch.from_numpy(evidence.labels == 0) & evidence.present[0]
    logits, present = evidence.logits[:, normal], evidence.present[:, normal]
    alone = int((logits[0].argmax(dim=1) > 0).sum())
    fitted = fusion.doubts[1:].clone()
    for doubt in DOUBTS:
        fusion.doubts[1:] = fitted.clamp_min(doubt)
        if int((fusion(logits, present).probabilities.argmax(dim=1) > 0).sum()) <= alone:
            return


def choose_rule(
    choice: RuleChoice, evidence: Evidence, prior: NDArray[np.float64], *, seed: int
) -> tuple[LateFusion, dict[str, float]]:
    """The fusion by the chosen rule, or by the best one if `auto`; and each tried rule's macro-F1.

    Rules are compared by two-fold cross-fitting over validation runs: fitted on one half and scored on the other, so
    that a rule with many parameters gains nothing from the frames that it was fitted on.
    """
    require_labels(evidence)
    if choice != "auto":
        return fit_fusion(choice, evidence, prior, seed=seed), {}
    folds = cross_fitting_folds(evidence, seed)
    scores: dict[str, float] = {}
    for rule in RULES:
        predicted = np.zeros(len(evidence.labels), np.int64)
        for fitted_on, scored_on in folds:
            fusion = fit_fusion(rule, evidence.take(fitted_on), prior, seed=seed)
            part = evidence.take(scored_on)
            with torch.inference_mode():
                predicted[scored_on] = fusion(part.logits, part.present).probabilities.argmax(dim=1).numpy()
        classes = np.unique(evidence.labels)
        scores[rule] = float(f1_score(evidence.labels, predicted, labels=classes, average="macro", zero_division=0))
    best = max(RULES, key=lambda rule: scores[rule])
    return fit_fusion(best, evidence, prior, seed=seed), scores


def require_labels(evidence: Evidence) -> None:
    """Raise DataError where there is nothing to fit a fusion on."""
    if not len(evidence.labels):
        raise DataError("the validation runs have no labelled frame, so the fusion cannot be fitted; add labels")


def fit_mixed_temperature(fusion: LateFusion, evidence: Evidence) -> None:
    """Fit the temperature of the answers that mix several modalities."""
    several = evidence.present.sum(dim=0) > 1
    if not bool(several.any()):
        return
    with torch.no_grad():
        fusion.temperature.fill_(1.0)
        mixed = fusion(evidence.logits[:, several], evidence.present[:, several]).probabilities
        labels = torch.from_numpy(evidence.labels)[several]
        fusion.temperature.fill_(fit_temperature((mixed + 1e-12).log(), labels))


def cross_fitting_folds(evidence: Evidence, seed: int) -> list[tuple[Bools, Bools]]:
    """Two pairs of which rows to fit on and which to score on: either half of the runs for the other."""
    runs = np.unique(evidence.runs)
    half = np.random.default_rng(seed).permutation(runs)[: (len(runs) + 1) // 2]
    first: Bools = np.isin(evidence.runs, half)
    return [(first, ~first), (~first, first)] if first.any() and (~first).any() else [(first, first)]


def calibrate_network(fusion: LearnedFusion, late: LateFusion, evidence: Evidence) -> None:
    """Keep this late fusion beside the network, and fit the temperature of the network's answer on the frames."""
    fusion.config = fusion.config.model_copy(update={"rule": late.config.rule})
    fusion.late = late
    fusion.temperature.fill_(1.0)
    rows = evidence.present.any(dim=0)
    log_probabilities = evidence.fused(fusion).probabilities[rows].clamp_min(1e-12).log()
    fusion.temperature.fill_(fit_temperature(log_probabilities, torch.from_numpy(evidence.labels)[rows]))


def _fit_stack(fusion: LateFusion, logits: Tensor, labels: Tensor, seed: int) -> None:
    """Logistic regression on each modality's log p - log prior, over at most `_STACK_FRAMES` frames."""
    modalities, frames, classes = logits.shape
    chosen = np.random.default_rng(seed).permutation(frames)[:_STACK_FRAMES]
    y = labels[chosen].numpy()
    occurring = np.unique(y)
    if len(occurring) < 2:
        return
    log_p = torch.log_softmax(logits[:, chosen] / fusion.temperatures[:, None, None], dim=2).exp().add(1e-12).log()
    x = (log_p - fusion.prior.add(1e-12).log()).permute(1, 0, 2).flatten(1).numpy()
    with warnings.catch_warnings():
        # With this much regularisation more iterations would only change digits that decide nothing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression = LogisticRegression(C=0.1, max_iter=100).fit(x, y)
    # For two classes there is one row, for the second of them.
    single = len(occurring) == 2
    rows = np.concatenate([-regression.coef_, regression.coef_]) / 2 if single else regression.coef_
    bias = np.concatenate([-regression.intercept_, regression.intercept_]) / 2 if single else regression.intercept_
    stack = np.zeros((modalities * classes, classes))
    stack[:, occurring] = rows.T
    offsets = np.full(classes, _UNSEEN_CLASS_BIAS)
    offsets[occurring] = bias
    fusion.stack.copy_(torch.from_numpy(stack).view(modalities, classes, classes))
    fusion.stack_bias.copy_(torch.from_numpy(offsets))
