"""Similarity of diagnoses, from what any model says in them: probabilities of faults and the variables that stand out.

A signature maps names to numbers and not places to numbers, so that diagnoses of different models, and of a model that
has learnt more faults since, can be compared. Similarity is the cosine of two signatures. All numbers are rounded to
integers before anything is summed up, so that the result is the same on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config.classes import RECOVERING
from pipeline.config.profile import NORMAL

Signature = Mapping[str, int]
"""Of each name a whole number of units; what is not named is 0."""

UNIT: Final = 4096
"""Length of a signature's part, in units."""

VARIABLES_WEIGHT: Final = 0.25
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


def area_signature(faults: Mapping[str, float], support: Mapping[str, float]) -> dict[str, int]:
    """The signature of a utility's alarm: square roots of the shares of its faults, and how much each node of the area
    spoke for it in the place of the variables, each part scaled to its length."""
    shares = {f"fault {name}": math.sqrt(share) for name, share in faults.items() if name not in (NORMAL, RECOVERING)}
    nodes = {f"node {name}": weight for name, weight in support.items()}
    return _scaled(shares, UNIT) | _scaled(nodes, UNIT * VARIABLES_WEIGHT)


class Vector(NamedTuple):
    """A unit vector of a model's retrieval head, in whole numbers of 1 / UNIT; only those of one model compare."""

    model: str
    """The model's hash."""
    units: tuple[int, ...]

    @classmethod
    def of(cls, model: str, vector: Sequence[float]) -> Vector:
        """A vector, rounded."""
        return cls(model, tuple(round(x * UNIT) for x in vector))

    @property
    def signature(self) -> dict[str, int]:
        """By which the index compares it."""
        return {str(place): units for place, units in enumerate(self.units)}


def _scaled(part: Mapping[str, float], length: float) -> dict[str, int]:
    # fsum is exact, so the order of the names is of no account.
    norm = math.sqrt(math.fsum(x * x for x in part.values()))
    return {name: units for name, x in part.items() if norm > 0 and (units := round(x / norm * length))}


class SignatureIndex:
    """Signatures by id in a table of whole numbers, which is searched from its beginning to its end."""

    def __init__(self, signatures: Mapping[str, Signature] | None = None) -> None:
        self.ids: list[str] = []
        """Of the rows."""
        self._row_of: dict[str, int] = {}
        self._columns: dict[str, int] = {}
        self._table = np.zeros((64, 64), np.int64)
        self._lengths = np.zeros(64)
        for id_, signature in (signatures or {}).items():
            self.put(id_, signature)

    def put(self, id_: str, signature: Signature) -> None:
        """Add a signature, in the place of an earlier one with the same id."""
        for name in signature:
            self._columns.setdefault(name, len(self._columns))
        row = self._row_of.setdefault(id_, len(self.ids))
        if row == len(self.ids):
            self.ids.append(id_)
        self._grow()
        self._table[row] = 0
        for name, units in signature.items():
            self._table[row, self._columns[name]] = units
        self._lengths[row] = _length(signature)

    def remove(self, id_: str) -> None:
        """Remove the signature with this id, if there is one; the last row takes its place."""
        row = self._row_of.pop(id_, None)
        if row is None:
            return
        last = self.ids.pop()
        if last != id_:
            end = len(self.ids)
            self.ids[row], self._row_of[last] = last, row
            self._table[row], self._lengths[row] = self._table[end], self._lengths[end]

    def scores(self, query: Signature) -> NDArray[np.float64]:
        """Cosines (N,) between the query and each signature, in the order of `ids`; 0 where one of the two is empty."""
        own = np.zeros(self._table.shape[1], np.int64)
        for name, units in query.items():
            if name in self._columns:
                own[self._columns[name]] = units
        count = len(self.ids)
        lengths = self._lengths[:count] * _length(query)
        # Of integers, so numpy's order of summation is of no account.
        products = (self._table[:count] @ own).astype(np.float64)
        cosines: NDArray[np.float64] = np.divide(products, lengths, out=np.zeros(count), where=lengths > 0)
        return cosines

    def _grow(self) -> None:
        rows, columns = self._table.shape
        wanted = [
            max(2 * size, needed) if needed > size else size
            for size, needed in ((rows, len(self.ids)), (columns, len(self._columns)))
        ]
        if wanted != [rows, columns]:
            table, lengths = np.zeros(wanted, np.int64), np.zeros(wanted[0])
            table[:rows, :columns], lengths[:rows] = self._table, self._lengths
            self._table, self._lengths = table, lengths


def _length(signature: Signature) -> float:
    return math.sqrt(sum(units * units for units in signature.values()))
