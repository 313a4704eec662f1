"""False-alarm margins: how much evidence a model needs before it reports a fault, fitted to a share of false alarms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.configs.fusion import RULES, Rule, RuleChoice
from models.data.runs import Run, normal_runs
from models.data.text_pools import EventDrawConfig, TextPool, run_events, split_groups
from models.diagnoser import Diagnoser
from models.encoders.base import subtract_from_answers
from models.fusion.late import LateFusion
from models.fusion.learned import LearnedFusion
from models.training.fitting.calibration import cross_fitting_folds, fit_fusion, fit_mixed_temperature, require_labels
from models.training.fitting.evidence import Evidence, collect_evidence
from pipeline.arrays import Bools, Ints
from pipeline.config.classes import labelled_classes

FUSED: Final = "fused"
"""Whose margins a learned fusion has; a late one has its modalities'."""
_STEP, _GROWTH, _MAX_ROUNDS = 1e-3, 1.25, 40
_MIN_PROBABILITY = 1e-30
_TEXT_TEMPERATURES = (1.0, 1.4, 2.0, 2.8, 4.0)
_TOLERATED = 1.25
"""By what factor the share of false alarms may be exceeded on frames that margins were not fitted on; this is how much
it is exceeded with sensors alone."""
_RULES_TO_TRY: tuple[Rule, ...] = tuple(rule for rule in RULES if rule != "stacked")
_HALVINGS = 12
_MOST_FAVOURED = 2.0
"""By how much faults may be favoured at most where they raise fewer false alarms than allowed, nats."""
_STEPS = 16
_DRAWS = 4
"""How often texts are drawn onto the same fault-free frames."""


def fault_free_folds(
    network: Diagnoser, runs: Sequence[Run], pool: TextPool | None, draw: EventDrawConfig, *, hold_limit: int, seed: int
) -> list[Evidence]:
    """Evidence of the runs before their first fault, in two folds that share no text and no group of texts.

    Where texts are drawn, each fold has half of the pool, drawn several times; else each fold has half of the runs. The
    detector counts as armed throughout, so that margins fitted on this suffice, whatever they do to the armed rule.
    """
    fault_free = normal_runs(runs)
    if pool is None:
        halves = [half for half in (fault_free[::2], fault_free[1::2]) if half]
        return [
            collect_evidence(network, half, [run.texts or () for run in half], hold_limit, armed=True)
            for half in halves
        ]
    folds = []
    for half, texts in enumerate(split_groups(pool, 0.5, np.random.default_rng([seed, *b"halves"]))):
        rng = np.random.default_rng([seed, half, *b"calm"])
        draws = [run_events(fault_free, texts, draw, rng) for _ in range(_DRAWS)]
        folds.append(
            Evidence.join([collect_evidence(network, fault_free, placed, hold_limit, armed=True) for placed in draws])
        )
    return folds


def choose_rule_with_margins(
    choice: RuleChoice,
    evidence: Evidence,
    prior: NDArray[np.float64],
    folds: Sequence[Evidence],
    share: float,
    *,
    seed: int,
    faults: int | None = None,
    visible: Bools | None = None,
) -> tuple[LateFusion, Tensor, dict[str, float]]:
    """The fusion by the chosen rule, or by the best one if `auto`, with the margins (M, C) of `fit_margins`; and for
    each tried rule the share of faulty frames that it diagnoses correctly.

    As in `choose_rule`, but rules are compared with margins, so that all have the same share of false alarms.
    `stacked` is not tried: it is fitted on the same texts as its margins would be. `folds` are those of
    `fault_free_folds`; `evidence` is labelled. Labels have the first `faults` classes, by default all; the class after
    these, `recovering`, is no fault. Where the first modality raises fewer false alarms than allowed, the classes that
    are `visible` to it, (C,), are favoured as far as that makes more answers correct.
    """
    require_labels(evidence)
    rules = _RULES_TO_TRY if choice == "auto" else (choice,)
    fault_free = Evidence.join(folds)
    temperatures: dict[Rule, float] = {}
    scores: dict[str, float] = {}
    for rule in rules:
        temperatures[rule] = fit_text_temperature(
            fit_fusion(rule, evidence, prior, seed=seed), folds, share, faults=faults
        )
        if len(rules) == 1:
            break
        predicted = np.zeros(len(evidence.labels), np.int64)
        for fitted_on, scored_on in cross_fitting_folds(evidence, seed):
            fusion = fit_fusion(rule, evidence.take(fitted_on), prior, seed=seed)
            fusion = with_text_temperature(fusion, temperatures[rule])
            raised = Raised(visible, evidence.take(fitted_on)) if visible is not None else None
            margins = fit_margins(fusion, fault_free, share, faults=faults, raised=raised)
            predicted[scored_on] = _diagnoses(fusion, evidence.take(scored_on), margins, faults)
        faulty = labelled_classes(evidence.labels, faults or len(prior)) > 0
        scores[rule] = float((predicted == evidence.labels)[faulty].sum() / max(faulty.sum(), 1))
    best = max(rules, key=lambda rule: scores.get(rule, 0.0))
    fusion = with_text_temperature(fit_fusion(best, evidence, prior, seed=seed), temperatures[best], evidence)
    raised = Raised(visible, evidence) if visible is not None else None
    return fusion, fit_margins(fusion, fault_free, share, faults=faults, raised=raised), scores


def fit_text_temperature(
    fusion: LateFusion, folds: Sequence[Evidence], share: float, *, faults: int | None = None
) -> float:
    """By how much to divide the logits of every modality but the first, so that margins fitted on fault-free frames
    with some texts also suffice for frames with others.

    A modality is as confident where it errs on texts that it has not been trained on as it is elsewhere, and margins
    that suffice for some such frames need not suffice for the next. Of a few temperatures this is the smallest with
    which margins, fitted on all folds but one, leave hardly more than a `share` of false alarms in that one, on
    average; or the one that leaves the fewest.
    """
    if len(fusion.temperatures) < 2 or len(folds) < 2:
        return 1.0
    remaining: dict[float, float] = {}
    for temperature in _TEXT_TEMPERATURES:
        alarms = frames = 0
        for index, held_out in enumerate(folds):
            scaled = with_text_temperature(fusion, temperature)
            margins = fit_margins(scaled, Evidence.join([*folds[:index], *folds[index + 1 :]]), share, faults=faults)
            alarms += int((_diagnoses(scaled, held_out, margins, faults) > 0).sum())
            frames += len(held_out.labels)
        remaining[temperature] = alarms / max(frames, 1)
        if remaining[temperature] <= _TOLERATED * share:
            return temperature
    return min(remaining, key=lambda temperature: remaining[temperature])


def with_text_temperature(fusion: LateFusion, temperature: float, evidence: Evidence | None = None) -> LateFusion:
    """The fusion with the logits of every modality but the first divided by `temperature`; the temperature of mixed
    answers is fitted again on the labelled frames of the evidence, if given."""
    scaled = deepcopy(fusion)
    scaled.temperatures[1:] *= temperature
    if evidence is not None:
        fit_mixed_temperature(scaled, evidence)
    return scaled


class Raised(NamedTuple):
    """Which faults may be favoured, and what shows whether that is of use."""

    visible: Bools  # (C,)
    labelled: Evidence


def fit_margins(
    fusion: LateFusion, evidence: Evidence, share: float, *, faults: int | None = None, raised: Raised | None = None
) -> Tensor:
    """How much to subtract from each modality's logit of each fault, (M, C), so that of these frames, all of them
    normal, at most a `share` is diagnosed as faulty.

    The first modality gets what suffices when it is alone, the second what suffices for both, and so on. The allowed
    false alarms are divided equally among the faults; what one does not need goes to the others. So faults that hardly
    differ from the normal state need more evidence than those that never raise a false alarm. For stacked modalities
    the bias of the fusion itself is changed. Classes from `faults` on, if given, get no margin: they are no faults.
    With `raised`, the first modality's margins may be less than 0, see `choose_rule_with_margins`.
    """
    modalities, frames, classes = evidence.logits.shape
    is_fault = labelled_classes(np.arange(classes), faults or classes) > 0
    no_fault = torch.from_numpy(np.flatnonzero(~is_fault))
    margins = torch.zeros(modalities, classes)
    allowed = int(share * frames)

    def leads(first: int, margins: Tensor) -> tuple[Tensor, Tensor]:
        """By how much each class leads those that are no fault with only the first modalities present, (N, C), never
        above 0 if it is one of these; and which modalities are present, (M, N)."""
        present = evidence.present.clone()
        present[first:] = False
        with torch.inference_mode():
            fused = fusion(evidence.logits - margins[:, None], present).probabilities.clamp_min(_MIN_PROBABILITY).log()
        lead = fused - fused[:, no_fault].amax(dim=1, keepdim=True)
        return lead.where(present.any(dim=0).unsqueeze(1), torch.tensor(-torch.inf)), present

    for modality in range(modalities):
        lead, present = leads(modality + 1, margins)
        alarms_without = (lead[~present[modality]] > 0).any(dim=1).sum()
        needed = _margins(lead[present[modality]], max(allowed - int(alarms_without), 0))
        mixed_temperature = fusion.temperature if modality else torch.ones(())
        scale = fusion.temperatures[modality] * mixed_temperature
        if modality and fusion.config.rule == "stacked":
            # A single logit has little influence on a stacked answer.
            fusion.stack_bias -= mixed_temperature * needed
        else:
            margins[modality] = scale * needed
        # For rules that are not a sum of logits this was a first guess.
        for _ in range(_MAX_ROUNDS):
            if int((leads(modality + 1, margins)[0] > 0).any(dim=1).sum()) <= allowed:
                break
            margins[modality] = (_GROWTH * margins[modality]).clamp_min(scale * _STEP) * torch.from_numpy(is_fault)
        if modality == 0 and raised is not None:
            margins = _favoured(
                fusion, margins, raised, scale, lambda tried: int((leads(1, tried)[0] > 0).any(dim=1).sum()) <= allowed
            )
    return margins


def _favoured(
    fusion: LateFusion, margins: Tensor, raised: Raised, scale: Tensor, allows: Callable[[Tensor], bool]
) -> Tensor:
    """Margins of which the first modality's are lower for visible faults, as far as the limit `allows` it and the first
    modality alone becomes right more often."""
    present = raised.labelled.present.clone()
    present[1:] = False
    alone = Evidence(raised.labelled.logits, present, raised.labelled.labels, raised.labelled.runs)
    visible = torch.from_numpy(raised.visible)
    best, most = margins, _correct(fusion, alone, margins)
    for step in torch.linspace(0, _MOST_FAVOURED, _STEPS + 1)[1:].tolist():
        tried = margins.clone()
        tried[0] -= step * scale * visible
        if not allows(tried):
            break
        if (correct := _correct(fusion, alone, tried)) > most:
            best, most = tried, correct
    return best


def _correct(fusion: LateFusion, evidence: Evidence, margins: Tensor) -> int:
    """How many answers with margins (M, C) are right."""
    return int((_answers(fusion, evidence, margins) == evidence.labels).sum())


def fit_fused_margins(fusion: LearnedFusion, folds: Sequence[Evidence], share: float, faults: int) -> Tensor:
    """How much to subtract from the logit of each fault in a fusion network's answer, (C,), so that of the frames of
    `folds`, all of them normal, at most a `share` is diagnosed as faulty: by the first modality alone, and by all."""
    evidence = Evidence.join(folds)
    classes = evidence.logits.shape[2]
    is_fault = torch.from_numpy((np.arange(classes) > 0) & (np.arange(classes) < faults))
    alone = evidence.present.clone()
    alone[1:] = False
    margins, leads = torch.zeros(classes), []
    allowed = int(share * len(evidence.labels))
    for present in (alone, evidence.present):
        shown = Evidence(evidence.logits, present, evidence.labels, evidence.runs, evidence.features)
        p = shown.fused(fusion).probabilities.clamp_min(_MIN_PROBABILITY).log()
        lead = p - p[:, ~is_fault].amax(dim=1, keepdim=True)
        leads.append(lead.where(present.any(dim=0).unsqueeze(1) & is_fault, torch.tensor(-torch.inf)))
        margins = torch.maximum(margins, _margins(leads[-1], allowed))
    # Alarms of several faults fall on the same frames, so all margins together may be smaller.
    enough, too_little = 1.0, 0.0
    for _ in range(_HALVINGS):
        factor = (enough + too_little) / 2
        suffices = all(int((lead > factor * margins).any(dim=1).sum()) <= allowed for lead in leads)
        enough, too_little = (factor, too_little) if suffices else (enough, factor)
    return fusion.temperature * enough * margins


def apply_margins(network: Diagnoser, margins: Tensor) -> None:
    """Subtract margins (M, C) from each modality's logits permanently."""
    with torch.no_grad():
        network.sensors.subtract(margins[0])
        if network.groups is not None:
            for place, encoder in network.groups.members():
                encoder.subtract(margins[1 + place])
        if network.text is not None:
            subtract_from_answers(network.text.head, margins[-1])


def _diagnoses(fusion: LateFusion, evidence: Evidence, margins: Tensor, faults: int | None) -> Ints:
    """Diagnoses (N,) with margins (M, C), as labels have them."""
    return labelled_classes(_answers(fusion, evidence, margins), faults or margins.shape[1])


def _answers(fusion: LateFusion, evidence: Evidence, margins: Tensor) -> Ints:
    """The most probable class of each frame (N,) with margins (M, C)."""
    shifted = Evidence(evidence.logits - margins[:, None], evidence.present, evidence.labels, evidence.runs)
    return np.asarray(shifted.fused(fusion).probabilities.argmax(dim=1).numpy(), np.int64)


def _margins(lead: Tensor, allowed: int) -> Tensor:
    """What to subtract from each column of (N, C) so that at most `allowed` rows keep anything above 0."""
    counts = (lead > 0).sum(dim=0)
    each = 0
    while each < int(counts.max()) and int(counts.clamp_max(each + 1).sum()) <= allowed:
        each += 1
    margins = torch.zeros(lead.shape[1])
    for column in (counts > each).nonzero().flatten().tolist():
        margins[column] = lead[:, column].sort(descending=True).values[each] + _STEP
    return margins
