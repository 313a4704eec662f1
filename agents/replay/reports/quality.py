"""A report's numbers about answers: clusters, ROC, confusion, calibration and uncertainty; all on labelled frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from sklearn.metrics import auc, roc_curve

from agents.replay.reports.book import FrameTable, ReportBook
from agents.replay.scores import FUSED
from models.evaluation.calibration import calibration_error
from models.evaluation.clustering import partition_scores
from models.evaluation.scoring import NORMAL, UNKNOWN, evident
from pipeline.arrays import Bools, Floats, Ints

OTHER: Final = "other"
"""The column of a confusion for answers that no label can have."""
_CURVE_POINTS: Final = 80


class Curve(NamedTuple):
    """A ROC curve, thinned to a few points from (0, 0) to (1, 1), with the area of the whole one."""

    area: float
    false_alarm_rate: Floats
    detection_rate: Floats


ANY_FAULT: Final = "any fault"


def roc_curves(table: FrameTable, classes: Sequence[str]) -> dict[str, Curve]:
    """By class the curve of its probability against the rest, and of any fault against the normal state."""
    rows = table.truth >= 0
    truth, probabilities = table.truth[rows], table.probabilities[rows]
    curves = {}
    if (curve := _curve(truth != NORMAL, 1 - probabilities[:, NORMAL])) is not None:
        curves[ANY_FAULT] = curve
    for label, name in enumerate(classes):
        if (curve := _curve(truth == label, probabilities[:, label])) is not None:
            curves[name] = curve
    return curves


def _curve(positive: Bools, score: Floats) -> Curve | None:
    if not positive.any() or positive.all():
        return None
    false_alarms, hits, _ = roc_curve(positive, score)
    # Points at equal steps along the curve, which is steep where it matters.
    along = np.concatenate([[0.0], np.cumsum(np.diff(false_alarms) + np.diff(hits))])
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], _CURVE_POINTS)))
    chosen = np.minimum(chosen, len(along) - 1)
    return Curve(float(auc(false_alarms, hits)), false_alarms[chosen], hits[chosen])


class Confusion(NamedTuple):
    """How often each label (row) got each answer (column), in frames."""

    labels: list[str]
    answers: list[str]
    frames: Ints  # (R, A)


def confusion_of(table: FrameTable, classes: Sequence[str]) -> Confusion:
    """Counts of the fusion's answers; no evidence counts as normal, as in all scores."""
    rows = table.truth >= 0
    said, truth = table.answers.get(FUSED), table.truth[rows]
    if said is None or not len(truth):
        return Confusion([], [], np.zeros((0, 0), np.int64))
    names = [*classes, OTHER]
    said = np.where(said == UNKNOWN, len(classes), evident(said))[rows]
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (truth, said), 1)
    true, answered = np.flatnonzero(counts.any(axis=1)), np.flatnonzero(counts.any(axis=0))
    return Confusion([names[row] for row in true], [names[one] for one in answered], counts[np.ix_(true, answered)])


def answer_numbers(book: ReportBook, table: FrameTable, curves: Mapping[str, Curve]) -> dict[str, Any]:
    """By system how well its answers part the frames by their labels, and of the fusion what needs probabilities."""
    classes = book.scores.classes
    labelled = table.truth >= 0
    found: dict[str, Any] = {
        "mean_entropy": _mean(table.entropy),
        "mean_disagreement": _mean(table.disagreement),
        "partition": None,
        "auc": None,
        "confusion": None,
        "calibration": None,
    }
    if not labelled.any() or FUSED not in table.answers:
        return found
    bins = book.scores.reliability(table.frames, table.truth, table.answers[FUSED])
    confusion = confusion_of(table, classes)
    return found | {
        "partition": {name: partition_scores(table.truth, evident(said)) for name, said in table.answers.items()},
        "auc": {name: curve.area for name, curve in curves.items()},
        "confusion": confusion._asdict() | {"frames": confusion.frames.tolist()},
        "calibration": {"ece": calibration_error(bins), "bins": [one._asdict() for one in bins]},
    }


def _mean(values: Floats) -> float | None:
    return float(np.mean(values)) if len(values) else None
