"""Rules that name a failed utility from its machines' answers: k of n agree, or their summed log odds are high.

Written over frames F, machines N, utilities U and classes C; each frame stands for itself, so F may be 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arrays import Bools, Floats, Ints
from pipeline.wire.messages import MIN_PROBABILITY

LEAST_PROBABILITY: Final = MIN_PROBABILITY / 2
"""Stands for probabilities that diagnoses leave out."""

NO_EVIDENCE: Final = np.float32(-1e9)
"""Below any threshold."""
NO_UTILITY: Final = -1


class RuleShape(BaseModel):
    """How a rule makes scores of log odds, which are of a fault against the classes without one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Literal["agreeing", "log_odds"]
    """`log_odds` sums up what a utility's machines say of a fault, `agreeing` counts the machines that name it."""
    left_out: int = Field(default=1, ge=0)
    """How many of the most certain machines do not count; of `log_odds`."""
    machines: int = Field(default=2, ge=1)
    """How many have to agree; of `agreeing`."""
    low: float = -9.0
    """A machine's log odds are cut at this and at `high`, so that none decides alone."""
    high: float = 9.0
    """Diagnoses leave out small probabilities, so no log odds are beyond 8.3 anyway."""
    texts: float = Field(default=0.0, ge=0)
    """How much the log odds count, from 0 up, that the texts about a utility give its faults; with 0 none is read."""

    def scores(self, odds: Floats, known: Bools, members: Bools, faults: Bools) -> Floats:
        """(F, U, C) by the machines' log odds (F, N, C); the other arguments are as of `agreeing_scores`."""
        if self.rule == "agreeing":
            return agreeing_scores(odds, known, members, faults, self.machines)
        return summed_scores(odds, known, members, faults, self.left_out)


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
