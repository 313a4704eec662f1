"""What an explanation is about: the evidence for an answer against other answers, as a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Bools
from pipeline.config.classes import faultless_classes, unknown_class
from pipeline.frames import StepResult

TINY = 1e-12
"""Smallest probability in a logarithm: log odds end at 27.6 on either side."""
_LEAST_NOVELTY = 1e-6

Against = Literal["no_fault", "rest"]
"""What the odds of a fault are against: that there is none, or every other answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """Why this answer, and not those that it is held against?

    The evidence is ln(p_answer / sum of p_against). Of an answer `unknown` it is the logarithm of the novelty n: where
    the rules call a fault unknown its odds are n / (1 + n) against 1 / (1 + n), and where they do not, they jump to 0.
    """

    answer: int
    against: tuple[int, ...]
    by_novelty: bool = False
    """Whether the answer is `unknown`."""

    @classmethod
    def of(cls, answer: int, classes: Sequence[str], faults: Sequence[str], against: Against = "no_fault") -> Question:
        """About one of a model's `classes`; `faults` are those of its machine type, the normal state first.

        An answer that names no fault is held against all others.
        """
        faultless = faultless_classes(classes, faults)
        if against == "rest" or answer in faultless:
            others = tuple(number for number in range(len(classes)) if number != answer)
        else:
            others = tuple(faultless)
        return cls(answer, others, by_novelty=answer == unknown_class(classes, faults))

    def evidence(self, result: StepResult) -> NDArray[np.float64]:
        """The evidence (N,) in the rows of a result."""
        if self.by_novelty and result.novelty is not None:
            novelty = result.novelty.astype(np.float64)
            surprise: NDArray[np.float64] = np.log(np.maximum(np.nan_to_num(novelty), _LEAST_NOVELTY))
            return surprise
        exact = result.probabilities.astype(np.float64)
        others = exact[:, list(self.against)].sum(axis=1)
        odds: NDArray[np.float64] = np.log(np.maximum(exact[:, self.answer], TINY)) - np.log(np.maximum(others, TINY))
        return odds

    def is_silent(self, result: StepResult) -> Bools:
        """In which rows (N,) the detector says nothing, as of frames with too few readings; their evidence is none."""
        if self.by_novelty and result.novelty is not None:
            return np.asarray(result.novelty == 0)
        return np.zeros(len(result.probabilities), np.bool_)
