"""Caution: how much evidence a model asks for before it calls a machine faulty, fitted to a share of false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.configs.fusion import RULES, Rule
from models.data.runs import Run
from models.data.text_pools import EventDrawConfig, TextPool, run_events, split_groups
from models.diagnoser import Diagnoser
from models.fusion.base import LateFusion
from models.training.calibration import Evidence, RuleChoice, crossed, fit_fusion, fit_mixed_temperature, require_labels
from models.training.stages.encoders import evidence_of
from pipeline.frames import Ints

_STEP, _GROWTH, _ROUNDS = 1e-3, 1.25, 40
_LEAST = 1e-30
_DOUBTS = (1.0, 1.4, 2.0, 2.8, 4.0)
_TOLERATED = 1.25
"""How many times the share of false alarms may be left where caution was not fitted; sensors alone leave as much."""
_FEW_NUMBERS: tuple[Rule, ...] = tuple(rule for rule in RULES if rule != "stacked")
_DRAWINGS = 4
"""How often texts are drawn onto the same calm frames."""


def calm_folds(
    network: Diagnoser, runs: Sequence[Run], pool: TextPool | None, draw: EventDrawConfig, *, hold_limit: int, seed: int
) -> list[Evidence]:
    """What the modalities say of the runs before their first fault, in two folds that share no text, nor a group of
    texts; of drawn texts each fold has its own half, drawn several times; of runs with texts of their own, half of the
    runs."""
    calm = [run.before(int(np.argmax(run.labels != 0))) if run.labels.any() else run for run in runs]
    calm = [run for run in calm if len(run)]
    if pool is None:
        halves = [half for half in (calm[::2], calm[1::2]) if half]
        return [evidence_of(network, half, [run.texts or () for run in half], hold_limit) for half in halves]
    folds = []
    for half, texts in enumerate(split_groups(pool, 0.5, np.random.default_rng([seed, *b"halves"]))):
        rng = np.random.default_rng([seed, half, *b"calm"])
        placed = [run_events(calm, texts, draw, rng) for _ in range(_DRAWINGS)]
        folds.append(Evidence.join([evidence_of(network, calm, of, hold_limit) for of in placed]))
    return folds


def choose_cautious(
    choice: RuleChoice,
    evidence: Evidence,
    prior: NDArray[np.float64],
    folds: Sequence[Evidence],
    share: float,
    *,
    seed: int,
) -> tuple[LateFusion, Tensor, dict[str, float]]:
    """The fusion by the chosen rule, or by the best one if `auto`, with the shifts (M, C) of `fit_caution`; and of
    each tried rule the share of faulty frames that it diagnoses rightly.

    As in `choose_rule`, but rules are compared by what is left of them under caution, where all have the same share of
    false alarms. `stacked` is not tried: it has learnt from the very texts by which the caution that it needs would be
    found. `folds` are those of `calm_folds`; `evidence` is labelled.
    """
    require_labels(evidence)
    rules = _FEW_NUMBERS if choice == "auto" else (choice,)
    calm = Evidence.join(folds)
    doubts: dict[Rule, float] = {}
    scores: dict[str, float] = {}
    for rule in rules:
        doubts[rule] = fit_doubt(fit_fusion(rule, evidence, prior, seed=seed), folds, share)
        if len(rules) == 1:
            break
        said = np.zeros(len(evidence.labels), np.int64)
        for fitted_on, scored_on in crossed(evidence, seed):
            fusion = doubting(fit_fusion(rule, evidence.take(fitted_on), prior, seed=seed), doubts[rule])
            shifts = fit_caution(fusion, calm, share)
            said[scored_on] = _said(fusion, evidence.take(scored_on), shifts)
        faulty = evidence.labels > 0
        scores[rule] = float((said == evidence.labels)[faulty].sum() / max(faulty.sum(), 1))
    best = max(rules, key=lambda rule: scores.get(rule, 0.0))
    fusion = doubting(fit_fusion(best, evidence, prior, seed=seed), doubts[best], evidence)
    return fusion, fit_caution(fusion, calm, share), scores


def fit_doubt(fusion: LateFusion, folds: Sequence[Evidence], share: float) -> float:
    """By how much to divide the logits of every modality but the first, so that the caution fitted on normal frames
    whose texts are like some is enough where they are like others.

    A modality that errs on what it has not been trained on is as sure of itself then as it is otherwise, and no shift
    that is enough on some such frames need be so on the next. Of a few doubts this is the least whose shifts, fitted on
    all folds but one, leave hardly more than a `share` of false alarms in that one, on average; or the one that leaves
    least.
    """
    if len(fusion.temperatures) < 2 or len(folds) < 2:
        return 1.0
    left: dict[float, float] = {}
    for doubt in _DOUBTS:
        wrong = frames = 0
        for at, other in enumerate(folds):
            doubtful = doubting(fusion, doubt)
            shifts = fit_caution(doubtful, Evidence.join([*folds[:at], *folds[at + 1 :]]), share)
            wrong += int((_said(doubtful, other, shifts) > 0).sum())
            frames += len(other.labels)
        left[doubt] = wrong / max(frames, 1)
        if left[doubt] <= _TOLERATED * share:
            return doubt
    return min(left, key=lambda doubt: left[doubt])


def doubting(fusion: LateFusion, doubt: float, evidence: Evidence | None = None) -> LateFusion:
    """The fusion with the logits of every modality but the first divided by `doubt`; its last temperature fitted anew
    on the labelled frames of the evidence, if there is any."""
    doubtful = deepcopy(fusion)
    doubtful.temperatures[1:] *= doubt
    if evidence is not None:
        fit_mixed_temperature(doubtful, evidence)
    return doubtful


def fit_caution(fusion: LateFusion, evidence: Evidence, share: float) -> Tensor:
    """How much to take off each modality's logit of each fault, (M, C), so that of these frames, all of them normal,
    at most such a `share` is diagnosed as faulty.

    The first modality gets what is enough when it is alone, the second what is enough for both, and so on. Of the
    frames that may be diagnosed wrongly each fault may have equally many; what one does not need is for the others. So
    faults that hardly differ from the normal state must be surer than those that never raise a false alarm. For stacked
    modalities it is the bias of the fusion itself that moves.
    """
    modalities, frames, classes = evidence.logits.shape
    shifts = torch.zeros(modalities, classes)
    allowed = int(share * frames)

    def gaps(first: int) -> tuple[Tensor, Tensor]:
        """How far each fault is ahead of the normal state by the first modalities, (N, C), and who is heard, (M, N)."""
        heard = evidence.present.clone()
        heard[first:] = False
        with torch.inference_mode():
            said = fusion(evidence.logits - shifts[:, None], heard).probabilities.clamp_min(_LEAST).log()
        return (said - said[:, :1]).where(heard.any(dim=0).unsqueeze(1), torch.tensor(-torch.inf)), heard

    for at in range(modalities):
        ahead, heard = gaps(at + 1)
        wrong = (ahead[~heard[at]] > 0).any(dim=1).sum()
        margins = _margins(ahead[heard[at]], max(allowed - int(wrong), 0))
        sharpness = fusion.temperature if at else torch.ones(())
        scale = fusion.temperatures[at] * sharpness
        if at and fusion.config.rule == "stacked":
            # What is stacked says little about any single logit.
            fusion.stack_bias -= sharpness * margins
        else:
            shifts[at] = scale * margins
        # Where a rule is no sum of logits, this was a first guess.
        for _ in range(_ROUNDS):
            if int((gaps(at + 1)[0] > 0).any(dim=1).sum()) <= allowed:
                break
            shifts[at] = (_GROWTH * shifts[at]).clamp_min(scale * _STEP) * (torch.arange(classes) > 0)
    return shifts


def favour_normal(network: Diagnoser, shifts: Tensor) -> None:
    """Take from each modality's logits (M, C), for good: off the bias of its head."""
    heads = [network.sensors.head] if network.text is None else [network.sensors.head, network.text.head]
    with torch.no_grad():
        for head, shift in zip(heads, shifts, strict=True):
            last = head[-1]
            assert isinstance(last, nn.Linear)
            last.bias.sub_(shift)


def _said(fusion: LateFusion, evidence: Evidence, shifts: Tensor) -> Ints:
    """Diagnoses (N,) after the shifts (M, C)."""
    shifted = Evidence(evidence.logits - shifts[:, None], evidence.present, evidence.labels, evidence.runs)
    return np.asarray(shifted.fused(fusion).probabilities.argmax(dim=1).numpy(), np.int64)


def _margins(ahead: Tensor, allowed: int) -> Tensor:
    """What to take off each column of (N, C) so that at most so many rows keep anything above 0."""
    counts = (ahead > 0).sum(dim=0)
    each = 0
    while each < int(counts.max()) and int(counts.clamp_max(each + 1).sum()) <= allowed:
        each += 1
    margins = torch.zeros(ahead.shape[1])
    for column in (counts > each).nonzero().flatten().tolist():
        margins[column] = ahead[:, column].sort(descending=True).values[each] + _STEP
    return margins
