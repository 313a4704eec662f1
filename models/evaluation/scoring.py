"""Scores of diagnosis streams: classification, detection delay, return to normal, and behaviour of the fusion."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import config_context
from sklearn.metrics import adjusted_rand_score, f1_score, mutual_info_score

from models.data.runs import UNLABELLED, class_runs
from pipeline.arrays import Ints
from pipeline.config.classes import NO_CLASS, RECOVERING, labelled_classes
from pipeline.errors import DataError

NORMAL = 0
NO_EVIDENCE = -1
"""No answer of a system; scored as normal."""
UNKNOWN = -2
"""An unfamiliar state: scored as detected and, whatever the true fault, not correctly diagnosed."""

RECOVERY_FRAMES = 40
"""Frames after a fault clears in which a plant counts as recovering, by default: 2 h of 3 minutes each."""
SETTLED_FRAMES = 100
"""Frames after a fault clears from which false alarms are given separately once more."""

_WORDS = {RECOVERING: NORMAL, "no_evidence": NO_EVIDENCE, "unknown": UNKNOWN}

Scores = dict[str, Any]


def class_indices(names: Sequence[str], classes: Sequence[str]) -> Ints:
    """Diagnoses as written on the wire to class indices, NO_EVIDENCE and UNKNOWN; raises DataError on others."""
    index = _WORDS | {name: label for label, name in enumerate(classes)}
    if unexpected := sorted(set(names) - index.keys()):
        raise DataError(f"diagnosis {unexpected[0]!r} is no class of this model; it has {', '.join(classes)}")
    return np.array([index[name] for name in names], np.int64)


def evident(diagnosed: Ints) -> Ints:
    """Answers (N,) as they are scored where a system had no evidence: as normal."""
    return np.where(diagnosed == NO_EVIDENCE, NORMAL, diagnosed)


def stream_scores(
    machines: ArrayLike,
    frames: ArrayLike,
    truth: ArrayLike,
    predicted: ArrayLike,
    classes: Sequence[str],
    *,
    recovery_frames: int = RECOVERY_FRAMES,
    begun_before: ArrayLike = (),
) -> Scores:
    """Scores of one diagnosis per frame: machine (N,), frame index (N,), true class (N,), diagnosis (N,), in any order.

    A negative true class means unlabelled; such frames are not scored but end the stretch before them. `classes` are
    those that labels have; the diagnosis after the last of them, `recovering`, names no fault and is scored as normal.
    `begun_before` are machines whose fault in the first frame began before it, so that its delay is not known; it is no
    episode. Every delay is in frames. A score without frames or episodes is None.

    - `accuracy`, `macro_f1`: over labelled frames; the mean F1 is over the classes that occur in the truth.
    - `detection_rate`: faulty frames with a diagnosis other than normal; `false_alarm_rate`: the same of normal
      frames; `correct_diagnosis_rate`: correct ones among the detected faulty frames.
    - `false_alarm_rate_*`: of the normal frames before a machine's first fault, of the `recovery_frames` after a
      clearing, and of all later ones; of these also those until SETTLED_FRAMES (`_early`) and from there on (`_late`).
    - `detection_delay_*`: from a fault's onset to the first diagnosis other than normal while it lasts, over the
      episodes where there is one; `undetected_share`: the other episodes.
    - `return_delay_median_frames`: from a fault's clearing to the first diagnosis without a fault in the normal stretch
      that follows. A stretch without one counts with its whole length, the minimum possible.
    - `per_fault`: by name, its frames, episodes, and the rates and delays of its own frames and episodes.
    """
    machine, when, true, diagnosed = (np.asarray(column) for column in (machines, frames, truth, predicted))
    if not len(machine) == len(when) == len(true) == len(diagnosed):
        raise DataError("machines, frames, true classes and diagnoses must have the same number of rows")
    old = np.isin(machine, np.asarray(begun_before))
    _, machine = np.unique(machine, return_inverse=True)
    old_machines = frozenset(machine[old].tolist())
    order = np.lexsort((when, machine))
    machine, when, true, diagnosed = (
        machine[order],
        when[order],
        true[order].astype(np.int64),
        diagnosed[order].astype(np.int64),
    )
    true = np.maximum(true, UNLABELLED)
    diagnosed = labelled_classes(evident(diagnosed), len(classes))

    detections, returns = _delays(machine, when, true, diagnosed, old_machines)
    labelled = true >= 0
    y, p = true[labelled], diagnosed[labelled]
    fault_free = _fault_free_frames(machine, when, true)[labelled]
    alarms = p != NORMAL
    settled_frames = max(SETTLED_FRAMES, recovery_frames)

    def after_clearing(first: int, end: float) -> float | None:
        return _mean(alarms[(fault_free >= first) & (fault_free < end)])

    scores: Scores = {
        "accuracy": _mean(y == p),
        "macro_f1": _macro_f1(y, p),
        **_rates(y, p),
        "false_alarm_rate": _mean(alarms[y == NORMAL]),
        "false_alarm_rate_before": _mean(alarms[fault_free == np.inf]),
        "false_alarm_rate_recovering": after_clearing(0, recovery_frames),
        "false_alarm_rate_recovered": after_clearing(recovery_frames, np.inf),
        "false_alarm_rate_recovered_early": after_clearing(recovery_frames, settled_frames),
        "false_alarm_rate_recovered_late": after_clearing(settled_frames, np.inf),
        **_delay_scores(list(chain.from_iterable(detections.values())), list(chain.from_iterable(returns.values()))),
        "per_fault": {},
    }
    for fault in sorted(int(c) for c in np.unique(y) if c > 0):
        rows = y == fault
        scores["per_fault"][classes[fault]] = {
            "frames": int(rows.sum()),
            "episodes": len(detections.get(fault, [])),
            "accuracy": _mean(p[rows] == fault),
            **_rates(y[rows], p[rows]),
            **_delay_scores(detections.get(fault, []), returns.get(fault, [])),
        }
    return scores


def fusion_scores(
    probabilities: NDArray[np.floating[Any]],
    modality_probabilities: NDArray[np.floating[Any]],
    weights: NDArray[np.floating[Any]],
    present: NDArray[np.bool_],
    modalities: Sequence[str],
    labels: Ints | None = None,
    *,
    faults: int | None = None,
    unknown: int = NO_CLASS,
) -> Scores:
    """Behaviour of a fusion over N frames: fused (N, C), each modality's (M, N, C), weights and presence (M, N).

    Entropy and disagreement are in nats; disagreement is the Jensen-Shannon divergence between the modalities that are
    present, over frames with at least two. With labels (N,), negative ones ignored, also how well the partition by
    predicted class matches them: `accuracy`, `macro_f1`, `ari`, `mutual_information` I(Y; P) and
    `conditional_entropy` H(Y | P), both in nats, whose sum is H(Y). Labels have the first `faults` classes, by default
    all; `recovering`, a class after these, then counts as normal; `unknown`, whose place is given, agrees with none.
    """
    fused = np.asarray(probabilities, np.float64)
    each = np.asarray(modality_probabilities, np.float64)
    weight = present.astype(np.float64)
    several = present.sum(axis=0) > 1
    mean = np.einsum("mn,mnc->nc", weight, each) / np.maximum(weight.sum(axis=0), 1)[:, None]
    mean_entropy = (weight * entropy(each)).sum(axis=0) / np.maximum(weight.sum(axis=0), 1)
    metrics: Scores = {
        "mean_confidence": _mean(fused.max(axis=1)) if fused.size else None,
        "mean_entropy": _mean(entropy(fused)),
        "mean_disagreement": _mean(np.maximum(entropy(mean) - mean_entropy, 0)[several]),
        "mean_weights": {name: _mean(row) for name, row in zip(modalities, weights, strict=True)},
    }
    if labels is not None:
        labelled = labels >= 0
        predicted = labelled_classes(fused.argmax(axis=1), fused.shape[1] if faults is None else faults, unknown)
        metrics |= label_scores(labels[labelled], predicted[labelled])
    return metrics


def label_scores(y: Ints, p: Ints) -> Scores:
    """Agreement of the partition by prediction p (N,) with the labels y (N,); every score None for N = 0."""
    # Called all the time on live streams; scikit-learn's checks of the input would take most of the time.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        return {
            "accuracy": _mean(y == p),
            "macro_f1": _macro_f1(y, p),
            "ari": float(adjusted_rand_score(y, p)) if len(y) else None,
            "mutual_information": float(mutual_info_score(y, p)) if len(y) else None,
            "conditional_entropy": _conditional_entropy(y, p) if len(y) else None,
        }


def entropy(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Entropy over the last axis in nats, with 0 log 0 = 0."""
    p = np.asarray(probabilities, np.float64)
    terms = p * np.log(np.where(p > 0, p, 1))
    return np.asarray(-terms.sum(axis=-1))


def _conditional_entropy(y: Ints, p: Ints) -> float:
    total = 0.0
    for part in np.unique(p):
        shares = np.bincount(y[p == part]) / np.count_nonzero(p == part)
        total += float(entropy(shares)) * float(np.mean(p == part))
    return total


def _delays(
    machine: Ints, when: Ints, true: Ints, diagnosed: Ints, old_machines: Collection[int]
) -> tuple[dict[int, list[int | None]], dict[int, list[int]]]:
    """For each fault the detection delays of its episodes, None if undetected, and its return delays."""
    detections: dict[int, list[int | None]] = {}
    returns: dict[int, list[int]] = {}
    edges = np.flatnonzero(np.diff(machine)) + 1
    for rows in np.split(np.arange(len(machine)), edges) if len(machine) else []:
        time, diagnosis = when[rows], diagnosed[rows]
        cleared = 0
        for start, end, label in class_runs(true[rows]):
            stretch = diagnosis[start:end]
            if label > 0 and (start > 0 or machine[rows[0]] not in old_machines):
                alarms = np.flatnonzero(stretch != NORMAL)
                delay = int(time[start + alarms[0]] - time[start]) if len(alarms) else None
                detections.setdefault(label, []).append(delay)
            elif label == NORMAL and cleared:
                normal = np.flatnonzero(stretch == NORMAL)
                last = time[start + normal[0]] if len(normal) else time[end - 1] + 1
                returns.setdefault(cleared, []).append(int(last - time[start]))
            cleared = max(label, 0)
    return detections, returns


def _fault_free_frames(machine: Ints, when: Ints, true: Ints) -> NDArray[np.float64]:
    """For each normal frame (N,), how many frames have been normal before it since the machine's last other one:
    infinite before the first other one, and -1 for frames that are not normal."""
    fault_free = np.full(len(true), -1.0)
    edges = np.flatnonzero(np.diff(machine)) + 1
    for rows in np.split(np.arange(len(machine)), edges) if len(machine) else []:
        normal = true[rows] == NORMAL
        last = np.maximum.accumulate(np.where(normal, -np.inf, when[rows]))
        fault_free[rows[normal]] = (when[rows] - last - 1)[normal]
    return fault_free


def _rates(y: Ints, p: Ints) -> Scores:
    faulty = y != NORMAL
    detected = faulty & (p != NORMAL)
    return {
        "detection_rate": _mean(p[faulty] != NORMAL),
        "correct_diagnosis_rate": _mean(p[detected] == y[detected]),
    }


def _delay_scores(detections: Sequence[int | None], returns: Sequence[int]) -> Scores:
    delays = [delay for delay in detections if delay is not None]
    return {
        "detection_delay_mean_frames": float(np.mean(delays)) if delays else None,
        "detection_delay_median_frames": float(np.median(delays)) if delays else None,
        "return_delay_median_frames": float(np.median(returns)) if returns else None,
        "undetected_share": 1 - len(delays) / len(detections) if detections else None,
    }


def _macro_f1(y: Ints, p: Ints) -> float | None:
    return float(f1_score(y, p, labels=np.unique(y), average="macro", zero_division=0)) if len(y) else None


def _mean(values: NDArray[Any]) -> float | None:
    return float(np.mean(values)) if len(values) else None


def scores_by_modality(
    machines: ArrayLike,
    frames: ArrayLike,
    truth: ArrayLike,
    predicted: Mapping[str, ArrayLike],
    classes: Sequence[str],
    *,
    recovery_frames: int = RECOVERY_FRAMES,
) -> dict[str, Scores]:
    """`stream_scores` of several diagnosis streams over the same frames, such as each modality's and the fusion's."""
    return {
        name: stream_scores(machines, frames, truth, diagnosed, classes, recovery_frames=recovery_frames)
        for name, diagnosed in predicted.items()
    }
