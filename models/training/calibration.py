"""Fitting a late fusion on validation frames: temperatures, weights, stacking, and the choice of the rule."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn.functional import nll_loss

from models.configs.fusion import RULES, FusionConfig, Rule
from models.fusion.base import Fused, LateFusion, LearnedFusion
from pipeline.errors import DataError
from pipeline.frames import Bools, Ints

RuleChoice = Literal["auto", "accuracy", "uniform", "per_class", "product", "stacked"]

_SMALLEST_WEIGHT = 1e-3
"""A modality that was always wrong must still answer when it is alone."""
_STACK_FRAMES = 10_000
_UNSEEN_CLASS_BIAS = -10.0
_COLDEST, _HOTTEST = 0.05, 20.0
_PART = 8192
"""Frames that a fusion answers about at a time, which bounds the memory."""


class Evidence:
    """Frames to fit on or to score: logits (M, N, C), present (M, N), true class (N,), the run of each frame (N,), and
    each modality's features (N, D_m) if a fusion needs them."""

    def __init__(
        self, logits: Tensor, present: Tensor, labels: Ints, runs: Ints, features: Sequence[Tensor] = ()
    ) -> None:
        self.logits = logits
        self.present = present
        self.labels = labels
        self.runs = runs
        self.features = tuple(features)

    def take(self, rows: NDArray[np.bool_]) -> Evidence:
        """Some of the frames."""
        at = torch.from_numpy(rows)
        features = [of[at] for of in self.features]
        return Evidence(self.logits[:, at], self.present[:, at], self.labels[rows], self.runs[rows], features)

    @classmethod
    def join(cls, parts: Sequence[Evidence]) -> Evidence:
        """The frames of all parts, one after another, without features."""
        return cls(
            torch.cat([part.logits for part in parts], dim=1),
            torch.cat([part.present for part in parts], dim=1),
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.runs for part in parts]),
        )

    def fused(self, fusion: LateFusion | LearnedFusion) -> Fused:
        """What the fusion says about all frames, without embeddings and attention; computed in parts."""
        parts: list[Fused] = []
        with torch.inference_mode():
            for start in range(0, len(self.labels), _PART):
                part = slice(start, start + _PART)
                features = [of[part] for of in self.features]
                parts.append(fusion(self.logits[:, part], self.present[:, part], features))
        return Fused(
            torch.cat([part.probabilities for part in parts]),
            torch.cat([part.modality_probabilities for part in parts], dim=1),
            torch.cat([part.weights for part in parts], dim=1),
        )


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """T > 0 with the least mean -log softmax(log p / T)[label], by golden section over log T.

    log_probabilities (N, C) may be logits; labels (N,). The loss is convex in 1/T, so there is one minimum. Without
    frames T is 1.
    """
    if not len(labels):
        return 1.0

    def loss(log_t: float) -> float:
        return nll_loss(torch.log_softmax(log_probabilities / float(np.exp(log_t)), dim=1), labels).item()

    low, high = float(np.log(_COLDEST)), float(np.log(_HOTTEST))
    ratio = (5**0.5 - 1) / 2
    inner = [high - ratio * (high - low), low + ratio * (high - low)]
    losses = [loss(at) for at in inner]
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
    """A late fusion whose temperatures, weights and stacking come from these frames alone.

    `prior` (C,) is the class distribution that the modalities were trained for.
    """
    modalities, _, classes = evidence.logits.shape
    fusion = LateFusion(FusionConfig(rule=rule), modalities=modalities, classes=classes)
    labels = torch.from_numpy(evidence.labels)
    with torch.no_grad():
        fusion.prior.copy_(torch.from_numpy(prior))
        for at in range(modalities):
            rows = evidence.present[at]
            y, z = labels[rows], evidence.logits[at, rows]
            fusion.temperatures[at] = fit_temperature(z, y)
            right = (z.argmax(dim=1) == y).float()
            if len(y):
                fusion.accuracies[at] = right.mean().clamp_min(_SMALLEST_WEIGHT)
            count = torch.bincount(y, minlength=classes).float()
            hits = torch.bincount(y, weights=right, minlength=classes).float()
            # A class that never came up says nothing about its recall: the accuracy stands in.
            recall = torch.where(count > 0, hits / count.clamp_min(1), fusion.accuracies[at])
            fusion.recalls[at] = recall.clamp_min(_SMALLEST_WEIGHT)
        several = evidence.present.sum(dim=0) > 1
        if rule == "stacked" and bool(several.any()):
            _fit_stack(fusion, evidence.logits[:, several], labels[several], seed)
    fit_mixed_temperature(fusion, evidence)
    return fusion.eval()


def choose_rule(
    choice: RuleChoice, evidence: Evidence, prior: NDArray[np.float64], *, seed: int
) -> tuple[LateFusion, dict[str, float]]:
    """The fusion by the chosen rule, or by the best one if `auto`; and each tried rule's macro-F1.

    Rules are compared by two-fold cross-fitting over validation runs: what is fitted on one half is scored on the
    other, so that a rule with many parameters gains nothing from having seen the frames that it is scored on.
    """
    require_labels(evidence)
    if choice != "auto":
        return fit_fusion(choice, evidence, prior, seed=seed), {}
    folds = crossed(evidence, seed)
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
    """The temperature of what several modalities say together."""
    several = evidence.present.sum(dim=0) > 1
    if not bool(several.any()):
        return
    with torch.no_grad():
        fusion.temperature.fill_(1.0)
        mixed = fusion(evidence.logits[:, several], evidence.present[:, several]).probabilities
        labels = torch.from_numpy(evidence.labels)[several]
        fusion.temperature.fill_(fit_temperature((mixed + 1e-12).log(), labels))


def crossed(evidence: Evidence, seed: int) -> list[tuple[Bools, Bools]]:
    """Two pairs of which rows to fit on and which to score on: either half of the runs for the other."""
    runs = np.unique(evidence.runs)
    half = np.random.default_rng(seed).permutation(runs)[: (len(runs) + 1) // 2]
    first: Bools = np.isin(evidence.runs, half)
    return [(first, ~first), (~first, first)] if first.any() and (~first).any() else [(first, first)]


def calibrate_network(fusion: LearnedFusion, late: LateFusion, evidence: Evidence) -> None:
    """Put this late fusion beside the network, and fit the temperature of the network's answer on the frames."""
    fusion.config = fusion.config.model_copy(update={"rule": late.config.rule})
    fusion.late = late
    fusion.temperature.fill_(1.0)
    rows = evidence.present.any(dim=0)
    said = evidence.fused(fusion).probabilities[rows].clamp_min(1e-12).log()
    fusion.temperature.fill_(fit_temperature(said, torch.from_numpy(evidence.labels)[rows]))


def balance_prior(shares: Sequence[float] | NDArray[np.float64], weights: Tensor) -> NDArray[np.float64]:
    """Class distribution that a loss weighted by `weights` (C,) sees where frames come in `shares` (C,)."""
    seen = np.asarray(shares, np.float64) * weights.double().numpy()
    return np.asarray(seen / seen.sum())


def _fit_stack(fusion: LateFusion, logits: Tensor, labels: Tensor, seed: int) -> None:
    """Logistic regression on each modality's log p - log prior, over at most `_STACK_FRAMES` frames."""
    modalities, frames, classes = logits.shape
    chosen = np.random.default_rng(seed).permutation(frames)[:_STACK_FRAMES]
    y = labels[chosen].numpy()
    met = np.unique(y)
    if len(met) < 2:
        return
    log_p = torch.log_softmax(logits[:, chosen] / fusion.temperatures[:, None, None], dim=2).exp().add(1e-12).log()
    x = (log_p - fusion.prior.add(1e-12).log()).permute(1, 0, 2).flatten(1).numpy()
    with warnings.catch_warnings():
        # Regularised this much, the last digits that more iterations would bring decide nothing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regression = LogisticRegression(C=0.1, max_iter=100).fit(x, y)
    # Two classes come as one row, for the second of them.
    single = len(met) == 2
    rows = np.concatenate([-regression.coef_, regression.coef_]) / 2 if single else regression.coef_
    bias = np.concatenate([-regression.intercept_, regression.intercept_]) / 2 if single else regression.intercept_
    stack = np.zeros((modalities * classes, classes))
    stack[:, met] = rows.T
    offsets = np.full(classes, _UNSEEN_CLASS_BIAS)
    offsets[met] = bias
    fusion.stack.copy_(torch.from_numpy(stack).view(modalities, classes, classes))
    fusion.stack_bias.copy_(torch.from_numpy(offsets))
