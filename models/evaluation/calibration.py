"""How far answers can be trusted: reliability tables, their expected calibration error, and coverage of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.data.runs import UNLABELLED
from pipeline.arrays import Bools, Floats, Ints
from pipeline.config.classes import RECOVERING

BINS: Final = 15


class ReliabilityBin(NamedTuple):
    """Answers whose confidence is in one of `BINS` equal parts of 0 to 1."""

    low: float
    high: float
    frames: int
    confidence: float
    """Their mean."""
    correct: float
    """Share of them that is right."""


def class_meanings(classes: Sequence[str], faults: Sequence[str]) -> Ints:
    """Which label each class of a model stands for, (C,): `recovering` for the normal state, 0; UNLABELLED for a class
    that no label can name."""
    own = {name: place for place, name in enumerate(faults)} | {RECOVERING: 0}
    return np.array([own.get(name, UNLABELLED) for name in classes], np.int64)


def answer_confidence(
    probabilities: NDArray[np.floating[Any]], labels: Ints, meanings: Ints
) -> tuple[NDArray[np.float64], Bools]:
    """Of answers (N, C) the probability that they give to what they say, and whether that is right, both (N,).

    An answer says what its most probable class stands for; classes that stand for the same count together.
    """
    said = meanings[probabilities.argmax(axis=1)]
    top = probabilities.max(axis=1).astype(np.float64)
    same = (meanings[None, :] == said[:, None]) & (said[:, None] >= 0)
    confidence = np.where(said >= 0, (probabilities * same).sum(axis=1), top)
    return np.clip(confidence, 0, 1), np.asarray(said == labels)


def reliability(confidence: NDArray[np.float64], right: Bools) -> list[ReliabilityBin]:
    """The bins that have answers, from the least sure to the most sure; confidence and correctness are (N,)."""
    places = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = []
    for place in np.unique(places).tolist():
        rows = places == place
        mean, correct = float(confidence[rows].mean()), float(right[rows].mean())
        bins.append(ReliabilityBin(place / BINS, (place + 1) / BINS, int(rows.sum()), mean, correct))
    return bins


def calibration_error(bins: Sequence[ReliabilityBin]) -> float | None:
    """The expected calibration error (Guo et al. 2017): the mean distance between confidence and share of right
    answers, each bin by its frames; None without frames."""
    frames = sum(one.frames for one in bins)
    return sum(one.frames * abs(one.confidence - one.correct) for one in bins) / frames if frames else None


def expected_calibration_error(confidence: NDArray[np.float64], right: Bools) -> float:
    """`calibration_error` of answers (N,); 0 without any."""
    return calibration_error(reliability(confidence, right)) or 0.0


def is_covered(candidates: Bools, labels: Ints, meanings: Ints) -> Bools:
    """Whether a class that stands for the label (N,) is among the candidates (N, C), (N,)."""
    return np.asarray((candidates & (meanings[None, :] == labels[:, None])).any(axis=1))


def run_mean(values: Floats | Bools | Ints, runs: Ints) -> float | None:
    """The mean over runs of each run's mean; values and runs are (N,), None without frames. Frames of a run depend on
    each other, so a long run says no more than a short one."""
    if not len(values):
        return None
    _, place = np.unique(runs, return_inverse=True)
    return float((np.bincount(place, values) / np.bincount(place)).mean())


class Trust(NamedTuple):
    """What of a system's answers says how far they can be trusted."""

    probabilities: NDArray[np.floating[Any]]  # (N, C)
    present: Bools  # (N,) whether there was any evidence
    candidates: Bools | None = None  # (N, C)

    def take(self, rows: Bools) -> Trust:
        """Some of the frames."""
        candidates = None if self.candidates is None else self.candidates[rows]
        return Trust(self.probabilities[rows], self.present[rows], candidates)


def reliability_of(answers: Trust, labels: Ints, meanings: Ints) -> list[ReliabilityBin]:
    """`reliability` over the frames with a label (N,) and evidence."""
    rows = (labels >= 0) & answers.present
    return reliability(*answer_confidence(answers.probabilities[rows], labels[rows], meanings))


def trust_scores(answers: Trust, labels: Ints, runs: Ints, meanings: Ints) -> dict[str, float | None]:
    """`ece`, `candidates_coverage` and `candidates_size` over the frames with a label (N,) and evidence; None where
    unknown. Coverage and size weigh every run (N,) equally."""
    covered = size = None
    if answers.candidates is not None:
        rows = (labels >= 0) & answers.present
        candidates = answers.candidates[rows]
        covered = run_mean(is_covered(candidates, labels[rows], meanings), runs[rows])
        size = run_mean(candidates.sum(axis=1), runs[rows])
    return {
        "ece": calibration_error(reliability_of(answers, labels, meanings)),
        "candidates_coverage": covered,
        "candidates_size": size,
    }
