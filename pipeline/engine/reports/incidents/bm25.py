"""BM25: how well documents fit the words of a query, without any model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_SATURATION: Final = 1.2
_LENGTH_SHARE: Final = 0.75
"""k1 and b of Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond"."""

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """The words of a text in lower case; of scripts without blanks, what stands between other characters."""
    return _WORD.findall(text.casefold())


class BM25:
    """An index of documents.

    score(q, d) = sum over words w of q of idf(w) f (k1 + 1) / (f + k1 (1 - b + b |d| / mean |d|)), with f the number of
    times that d has w, and idf(w) = ln(1 + (N - n + 0.5) / (n + 0.5)) for a word that n of N documents have.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self._count = len(documents)
        self._postings: dict[str, list[tuple[int, int]]] = {}
        lengths = np.zeros(len(documents))
        for row, document in enumerate(documents):
            counts = Counter(words(document))
            lengths[row] = counts.total()
            for word, count in counts.items():
                self._postings.setdefault(word, []).append((row, count))
        mean = lengths.mean() if len(documents) and lengths.any() else 1.0
        self._damping = _SATURATION * (1 - _LENGTH_SHARE + _LENGTH_SHARE * lengths / mean)

    def scores(self, query: str) -> NDArray[np.float64]:
        """Of all documents (N,); 0 for one without any of the query's words."""
        scores = np.zeros(self._count)
        for word in sorted(set(words(query))):
            found = self._postings.get(word, [])
            rarity = math.log(1 + (self._count - len(found) + 0.5) / (len(found) + 0.5))
            for row, count in found:
                scores[row] += rarity * count * (_SATURATION + 1) / (count + self._damping[row])
        return scores
