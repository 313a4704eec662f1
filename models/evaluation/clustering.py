"""Agreement of a partition of frames with their classes: ARI, mutual information and conditional entropy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans

from models.data.runs import UNLABELLED
from models.evaluation.scoring import Scores, entropy, label_scores
from pipeline.arrays import Floats, Ints

_SAMPLE = 20_000
"""Maximum number of frames that the cluster centres are fitted on; every frame is then assigned to one."""


def partition_scores(classes: Ints, parts: Ints) -> Scores:
    """Agreement of a partition (N,) with the classes (N,), negative ones left out; entropies in nats.

    `ari`; `mutual_information` I(Y; P); `conditional_entropy` H(Y | P); `entropy` H(Y),
    which is the sum of the two; and `explained`, the share I(Y; P) / H(Y). None where there is nothing to score.
    """
    labelled = classes > UNLABELLED
    y = classes[labelled]
    agreement = label_scores(y, parts[labelled])
    scores = {name: agreement[name] for name in ("ari", "mutual_information", "conditional_entropy")}
    whole = float(entropy(np.unique(y, return_counts=True)[1] / len(y))) if len(y) else None
    shared = scores["mutual_information"]
    return scores | {"entropy": whole, "explained": shared / whole if whole and shared is not None else None}


def cluster(features: Floats, parts: int, *, seed: int) -> Ints:
    """Partition (N,) of features (N, D) into `parts` by k-means, without classes.

    Features are standardised first, so that all count the same.
    """
    spread = features.std(axis=0)
    x: NDArray[np.float32] = ((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)).astype(np.float32)
    chosen = np.random.default_rng(seed).permutation(len(x))[:_SAMPLE]
    parts = min(parts, len(np.unique(x[chosen], axis=0)))
    means = MiniBatchKMeans(n_clusters=parts, n_init=5, random_state=seed).fit(x[np.sort(chosen)])
    return np.asarray(means.predict(x), np.int64)
