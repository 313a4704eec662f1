"""Fitting how much a detector backs the classifier: by detection on validation at an equal share of false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.data.runs import Run, before_first_fault
from models.diagnoser import Diagnoser
from models.training.fitting.detector import novelties
from models.training.fitting.evidence import sensor_answers, visible_faults

WEIGHTS: Final = (2.0, 1.0, 3.0, 4.0, 0.0)
"""What is tried, in order of preference: 2 is kept unless another detects more."""
_MORE = 1e-3
"""By how much another weight has to detect more."""
_LESS_CORRECT = 2e-3
"""By how much the share of correct diagnoses among detections may be lower than without backing: what is gained are the
first frames of faults, which are told apart less well than later ones."""
_MORE_FALSE_ALARMS = 5e-4
"""By how much the share of false alarms may rise where no margins limit it."""


class _Judged(NamedTuple):
    """Validation runs with all that backing depends on."""

    logits: list[Tensor]
    """(T, C) of each run, of the sensor encoder alone."""
    novelty: list[Tensor]  # (T,)
    runs: Sequence[Run]


class BackingScores(NamedTuple):
    """How a weight does on validation."""

    detection: float
    correct: float
    """Share of the detected frames whose fault is named."""
    false_alarms: float
    """Share of the normal frames before a fault that name one."""


def fit_backing(
    network: Diagnoser, runs: Sequence[Run], hold_limit: int, faults: int, share: float | None
) -> dict[float, BackingScores]:
    """Set the weight with which the detector backs each visible one of the first `faults` classes; returns the scores
    of each weight, by weight; none where the runs cannot tell.

    Weights are compared at thresholds that let a `share` of the normal frames before a fault pass, as margins will; or
    at none, if no margins are to be fitted. The detector counts as armed there, as it does while margins are fitted.
    """
    detector = network.detector
    assert detector is not None
    visible = torch.from_numpy(visible_faults(network, faults).astype(np.float32))
    detector.backing.copy_(visible)
    with torch.inference_mode():
        judged = _judge(network, runs, hold_limit)
        scores = {weight: _scores(network, judged, weight, visible, share) for weight in WEIGHTS}
    measured = {weight: found for weight, found in scores.items() if found is not None}
    best = WEIGHTS[0]
    if measured:
        alone = measured[0.0]
        permitted = [
            weight
            for weight, found in measured.items()
            if found.correct >= alone.correct - _LESS_CORRECT
            and found.correct * found.detection >= alone.correct * alone.detection
            and found.false_alarms <= max(alone.false_alarms + _MORE_FALSE_ALARMS, share or 0.0)
        ]
        most = max(measured[weight].detection for weight in permitted)
        best = next(weight for weight in permitted if measured[weight].detection >= most - _MORE)
    detector.backing.copy_(best * visible)
    return measured


def _judge(network: Diagnoser, runs: Sequence[Run], hold_limit: int) -> _Judged:
    answers = sensor_answers(network, runs, hold_limit, network.sensors)
    logits = [torch.from_numpy(answer.logits) for answer in answers]
    return _Judged(logits, novelties(network, runs, hold_limit), runs)


def _scores(
    network: Diagnoser, judged: _Judged, weight: float, visible: Tensor, share: float | None
) -> BackingScores | None:
    """The scores of a weight; None without frames of visible faults or, if there is a share, normal ones."""
    detector = network.detector
    assert detector is not None
    detector.backing.copy_(weight * visible)
    named = visible > 0
    if not bool(named.any()):
        return None
    threshold = 0.0
    if share is not None:
        leads = [
            _lead(detector.back(logits[None], novelty[None], detector.init_state(1), armed=True)[0][0], named)
            for logits, novelty in zip(judged.logits, judged.novelty, strict=True)
        ]
        normal = [lead[: len(before_first_fault(run))] for lead, run in zip(leads, judged.runs, strict=True)]
        if not sum(map(len, normal)):
            return None
        threshold = max(float(np.quantile(torch.cat(normal).numpy(), 1 - share)), 0.0)
    detected = correct = faulty = alarms = normal_frames = 0
    for logits, novelty, run in zip(judged.logits, judged.novelty, judged.runs, strict=True):
        held = logits - threshold * named
        backed, _ = detector.back(held[None], novelty[None], detector.init_state(1))
        labels = torch.from_numpy(run.labels)
        calm = len(before_first_fault(run))
        alarms += int((_lead(backed[0], named) > 0)[:calm].sum())
        normal_frames += calm
        shown = (labels > 0) & named[labels.clamp_min(0)]
        alarm = (_lead(backed[0], named) > 0) & shown
        fault = backed[0].where(named, backed.new_tensor(-torch.inf)).argmax(dim=1)
        detected += int(alarm.sum())
        correct += int((alarm & (fault == labels)).sum())
        faulty += int(shown.sum())
    if not faulty:
        return None
    return BackingScores(detected / faulty, correct / max(detected, 1), alarms / max(normal_frames, 1))


def _lead(logits: Tensor, named: Tensor) -> Tensor:
    """By how much the first visible fault is ahead of all other classes, (T,)."""
    return logits[:, named].amax(dim=1) - logits[:, ~named].amax(dim=1)
