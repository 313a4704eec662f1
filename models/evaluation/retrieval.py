"""Scores of retrieval: how early a ranking names something of the same class as the query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.evaluation.scoring import Scores
from pipeline.arrays import Ints

DEPTHS = (1, 5, 10)


def retrieval_scores(
    similarity: NDArray[np.floating], queries: Ints, items: Ints, depths: Sequence[int] = DEPTHS
) -> Scores:
    """recall_k, the share of queries with an item of their class among the k most similar, and the mean reciprocal
    rank `mrr` of the first such item, for similarity (Q, N) of queries of classes (Q,) to items of classes (N,).

    Queries of a class without items are left out. An item counts as ranked after all items of other classes that are
    equally similar, so that a ranking gains nothing by not distinguishing.
    """
    ranks: list[int] = []
    for row, label in enumerate(queries.tolist()):
        relevant = items == label
        if not relevant.any():
            continue
        best = similarity[row, relevant].max()
        ranks.append(1 + int((similarity[row, ~relevant] >= best).sum()))
    found = np.array(ranks, np.float64)
    if not len(found):
        return {f"recall_{depth}": None for depth in depths} | {"mrr": None, "queries": 0}
    scores: Scores = {f"recall_{depth}": float((found <= depth).mean()) for depth in depths}
    return scores | {"mrr": float((1 / found).mean()), "queries": len(found)}
