"""Similarity of diagnoses, from what any model says in them: probabilities of faults and the variables that stand out.

A signature maps names to numbers and not places to numbers, so that diagnoses of different models, and of a model that
has learnt more faults since, can be compared. Similarity is the cosine of two signatures. All numbers are rounded to
integers before anything is summed up, so that the result is the same on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.config.classes import RECOVERING
from pipeline.config.profile import NORMAL

Signature = Mapping[str, int]
"""Of each name a whole number of units; what is not named is 0."""

UNIT: Final = 4096
"""Length of a signature's part, in units."""

VARIABLES_WEIGHT: Final = 0.5
"""Length of the part of the variables, where that of the faults is 1 (docs/decisions/0028-incidents.md)."""


def diagnosis_signature(
    probabilities: Mapping[str, float],
    variables: Iterable[tuple[str, float]],
    *,
    variables_weight: float = VARIABLES_WEIGHT,
) -> dict[str, int]:
    """The signature of a diagnosis: square roots of the faults' probabilities, without that of the normal state, and
    deviations of the variables that it shows, each part scaled to its length."""
    faults = {f"fault {name}": math.sqrt(p) for name, p in probabilities.items() if name not in (NORMAL, RECOVERING)}
    deviations = {f"variable {name}": deviation for name, deviation in variables if math.isfinite(deviation)}
    return _scaled(faults, UNIT) | _scaled(deviations, UNIT * variables_weight)


def vector_signature(vector: Sequence[float]) -> dict[str, int]:
    """The signature of a unit vector of a model's retrieval head (models.heads.retrieval)."""
    return {f"{place}": units for place, x in enumerate(vector) if (units := round(x * UNIT))}


def _scaled(part: Mapping[str, float], length: float) -> dict[str, int]:
    # fsum is exact, so the order of the names is of no account.
    norm = math.sqrt(math.fsum(x * x for x in part.values()))
    return {name: units for name, x in part.items() if norm > 0 and (units := round(x / norm * length))}


class SignatureIndex:
    """Signatures in a table of whole numbers, which is searched from its beginning to its end."""

    def __init__(self, signatures: Sequence[Signature]) -> None:
        names = sorted({name for signature in signatures for name in signature})
        self._columns = {name: column for column, name in enumerate(names)}
        self._table = np.zeros((len(signatures), len(names)), np.int64)
        for row, signature in enumerate(signatures):
            for name, units in signature.items():
                self._table[row, self._columns[name]] = units
        self._lengths = np.sqrt((self._table**2).sum(axis=1).astype(np.float64))

    def scores(self, query: Signature) -> NDArray[np.float64]:
        """Cosines (N,) between the query and each signature, 0 where one of the two is empty."""
        own = np.zeros(len(self._columns), np.int64)
        for name, units in query.items():
            if name in self._columns:
                own[self._columns[name]] = units
        length = math.sqrt(sum(units * units for units in query.values()))
        lengths = self._lengths * length
        products = (self._table @ own).astype(np.float64)
        cosines: NDArray[np.float64] = np.divide(products, lengths, out=np.zeros(len(products)), where=lengths > 0)
        return cosines
