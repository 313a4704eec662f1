"""How well a partition of frames matches their classes: ARI, mutual information and what is left of the entropy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from models.data.runs import UNLABELLED
from models.evaluation.scoring import Scores, entropy, label_scores
from pipeline.frames import Floats, Ints

_SAMPLE = 20_000
"""Frames that the cluster centres are fitted on, at most; every frame is then assigned to one."""


def partition_scores(classes: Ints, parts: Ints) -> Scores:
    """Of a partition (N,) against the classes (N,), negative ones left out; entropies in nats.

    `ari`; `mutual_information` I(Y; P); `conditional_entropy` H(Y | P), what the partition leaves open; `entropy` H(Y),
    which is the sum of the two; and `explained`, the share I(Y; P) / H(Y). None where there is nothing to score.
    """
    known = classes > UNLABELLED
    y = classes[known]
    found = label_scores(y, parts[known])
    scores = {name: found[name] for name in ("ari", "mutual_information", "conditional_entropy")}
    whole = float(entropy(np.unique(y, return_counts=True)[1] / len(y))) if len(y) else None
    told = scores["mutual_information"]
    return scores | {"entropy": whole, "explained": told / whole if whole and told is not None else None}


def cluster(features: Floats, parts: int, *, seed: int) -> Ints:
    """Partition (N,) of features (N, D) into so many parts by k-means, which knows no classes.

    Features are standardised first, so that none counts more for being large.
    """
    spread = features.std(axis=0)
    x: NDArray[np.float32] = ((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
    chosen = np.random.default_rng(seed).permutation(len(x))[:_SAMPLE]
    parts = min(parts, len(np.unique(x[chosen], axis=0)))
    means = MiniBatchKMeans(n_clusters=parts, n_init=5, random_state=seed).fit(x[np.sort(chosen)])
    return np.asarray(means.predict(x), np.int64)
