"""Rules that name a failed utility from its machines' answers: k of n agree, or their summed log odds are high.

Written over frames F, machines N, utilities U and classes C; each frame stands for itself, so F may be 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from pipeline.arrays import Bools, Floats, Ints

NO_EVIDENCE: Final = np.float32(-1e9)
"""Below any threshold."""
NO_UTILITY: Final = -1


class Named(NamedTuple):
    """What a rule names in each frame."""

    utility: Ints  # (F,) NO_UTILITY where nothing reaches the threshold
    fault: Ints  # (F,) the class that it looks like in its machines; 0 where no utility is named
    score: Floats  # (F,) of the strongest candidate, named or not


def fault_log_odds(log_probabilities: Floats, quiet: Sequence[int], low: float, high: float) -> Floats:
    """Log odds (..., C) of each fault against the most probable of the `quiet` classes, those without a fault.

    `log_probabilities` are (..., C). The limits keep one machine from deciding alone, for and against; quiet classes
    have the lower one.
    """
    rest = log_probabilities[..., list(quiet)].max(axis=-1, keepdims=True)
    odds: Floats = np.clip(log_probabilities - rest, np.float32(low), np.float32(high)).astype(np.float32)
    odds[..., list(quiet)] = np.float32(low)
    return odds


def agreeing_scores(odds: Floats, known: Bools, members: Bools, faults: Bools, agreeing: int) -> Floats:
    """Scores (F, U, C): the log odds of the machine that is the k-th to agree on a utility's fault.

    A machine agrees with the fault of which its odds (F, N, C) are highest, however low. It counts if it is known
    (F, N) and among the utility's members (U, N); only the utility's faults (U, C) have scores, others NO_EVIDENCE. A
    score over a threshold says that the odds of `agreeing` machines each are.
    """
    leading = odds >= odds.max(axis=-1, keepdims=True)
    votes = np.where(leading & known[..., None], odds, NO_EVIDENCE)
    scores = np.full((len(odds), *faults.shape), NO_EVIDENCE, np.float32)
    for utility, belongs in enumerate(members):
        if belongs.sum() >= agreeing:
            ordered = np.sort(votes[:, belongs], axis=1)
            scores[:, utility] = ordered[:, -agreeing]
    return np.where(faults, scores, NO_EVIDENCE)


def summed_scores(odds: Floats, known: Bools, members: Bools, faults: Bools, left_out: int) -> Floats:
    """Scores (F, U, C): the summed log odds of a utility's known machines, less those of the `left_out` most certain.

    A shared cause must not rest on one machine. Arguments are as of `agreeing_scores`; with no more known machines than
    are left out there is no evidence.
    """
    evidence = np.where(known[..., None], odds, np.float32(0))
    certain = np.where(known[..., None], odds, NO_EVIDENCE)
    scores = np.full((len(odds), *faults.shape), NO_EVIDENCE, np.float32)
    for utility, belongs in enumerate(members):
        if belongs.sum() <= left_out:
            continue
        total = evidence[:, belongs].sum(axis=1)
        if left_out:
            total -= np.sort(certain[:, belongs], axis=1)[:, -left_out:].sum(axis=1)
        enough = known[:, belongs].sum(axis=1) > left_out
        scores[:, utility] = np.where(enough[:, None], total, NO_EVIDENCE)
    return np.where(faults, scores, NO_EVIDENCE)


def strongest(scores: Floats, threshold: float) -> Named:
    """The candidate with the highest of the scores (F, U, C) in each frame, named if that is over the threshold."""
    frames, _, classes = scores.shape
    flat = scores.reshape(frames, -1)
    best = flat.argmax(axis=1)
    score = flat[np.arange(frames), best]
    named = score > threshold
    return Named(np.where(named, best // classes, NO_UTILITY), np.where(named, best % classes, 0), score)
