"""Decision trees fitted to the training frames, and taken over from scikit-learn as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from torch import Tensor
from torch.nn.functional import nll_loss

from models.configs.sensors import MIN_TREE_PROBABILITY, TreesConfig, TreeShape
from models.encoders.experts.trees import TreeArrays, Trees
from pipeline.arrays import Floats, Ints

MAX_FRAMES = 200_000
"""Training frames that trees are fitted to, drawn if there are more."""
_FEWEST_FRAMES = 5_000
_TRIAL_FRAMES, _TRIAL_ROUNDS = 10_000, 3
"""A trial of this size says how long trees take."""
_Grow = Callable[[TreesConfig, Floats, Ints, Floats, int, int], tuple[TreeArrays, TreeShape]]
_UNSEEN = -30.0
"""Log odds of a class that no training frame has."""
_LEAF = -1


@dataclass(frozen=True, slots=True)
class Frames:
    """N frames: what trees see (N, F), class (N,), and weight in the loss (N,)."""

    columns: Floats
    labels: Ints
    weights: Floats


@dataclass(frozen=True, slots=True)
class FittedTrees:
    """Trees as arrays, and how they do on validation."""

    learner: str
    arrays: TreeArrays
    shape: TreeShape
    validation_loss: float | None
    """Mean negative log-likelihood; None without validation frames."""


def affordable_frames(trees: Trees, train: Frames, seconds: float, seed: int, clock: Callable[[], float]) -> int:
    """How many training frames trees can be fitted to in this time, by a trial with a few rounds of some of them."""
    few = trees.config.model_copy(update={"rounds": _TRIAL_ROUNDS, "forest": _TRIAL_ROUNDS, "shape": None})
    x, y, weights = _drawn(train, _TRIAL_FRAMES, np.random.default_rng([seed, *b"trial"]))
    spent = 0.0
    for grow, rounds in _growers(trees.config):
        begun = clock()
        grow(few, x, y, weights, trees.classes, seed)
        spent += (clock() - begun) * rounds / _TRIAL_ROUNDS
    return int(np.clip(len(y) * seconds / max(spent, 1e-9), _FEWEST_FRAMES, MAX_FRAMES))


def fit_trees(
    trees: Trees, train: Frames, validation: Frames, seed: int, max_frames: int = MAX_FRAMES
) -> list[FittedTrees]:
    """Fit the learners that the description names and leave the best of them in `trees`; returns all, the best first.

    The best has the least loss on validation, with probabilities bounded as in a pool.
    """
    x, y, weights = _drawn(train, max_frames, np.random.default_rng([seed, *b"trees"]))
    fitted: list[FittedTrees] = []
    for grow, _ in _growers(trees.config):
        arrays, shape = grow(trees.config, x, y, weights, trees.classes, seed)
        trees.set_trees(arrays, shape)
        learner = "forest" if shape.output == "probabilities" else "boosting"
        fitted.append(FittedTrees(learner, arrays, shape, _loss(trees, validation)))
    fitted.sort(key=lambda one: np.inf if one.validation_loss is None else one.validation_loss)
    trees.set_trees(fitted[0].arrays, fitted[0].shape)
    return fitted


def _drawn(frames: Frames, most: int, rng: np.random.Generator) -> tuple[Floats, Ints, Floats]:
    """Columns, classes and weights of the frames to learn from; some of them if there are too many."""
    rows = np.flatnonzero((frames.labels >= 0) & (frames.weights > 0))
    if len(rows) > most:
        rows = np.sort(rng.choice(rows, most, replace=False))
    return frames.columns[rows], frames.labels[rows], frames.weights[rows]


def _growers(config: TreesConfig) -> list[tuple[_Grow, int]]:
    """The learners that a description names, and how many trees or rounds of trees each has."""
    both: dict[str, tuple[_Grow, int]] = {"boosting": (_boosted, config.rounds), "forest": (_forest, config.forest)}
    return list(both.values()) if config.learner == "auto" else [both[config.learner]]


def _loss(trees: Trees, frames: Frames) -> float | None:
    known = frames.labels >= 0
    if not known.any():
        return None
    with torch.inference_mode():
        logits = trees.answer(torch.from_numpy(frames.columns[known]))
        bounded = torch.softmax(logits, dim=1).clamp_min(MIN_TREE_PROBABILITY).log()
        return float(nll_loss(torch.log_softmax(bounded, dim=1), torch.from_numpy(frames.labels[known])))


def _boosted(
    config: TreesConfig, x: Floats, y: Ints, weights: Floats, classes: int, seed: int
) -> tuple[TreeArrays, TreeShape]:
    present = np.unique(y)
    base = np.full(classes, _UNSEEN)
    if len(present) < 2:
        base[present] = 0
        return _arrays([_Grown.leaf(np.zeros(1))], [0], base, "log_odds")
    model = HistGradientBoostingClassifier(
        max_iter=config.rounds, max_leaf_nodes=config.leaf_nodes, early_stopping=True, random_state=seed
    ).fit(x, y, sample_weight=weights)
    start: NDArray[np.float64] = model._baseline_prediction.ravel()
    # Of two classes only the second has trees.
    told = present if len(present) > 2 else present[1:]
    base[present] = 0
    base[told] = start
    grown, offsets = [], []
    for iteration in model._predictors:
        for fault, predictor in zip(told, iteration, strict=True):
            grown.append(_Grown.boosted(predictor.nodes))
            offsets.append(int(fault))
    return _arrays(grown, offsets, base, "log_odds")


def _forest(
    config: TreesConfig, x: Floats, y: Ints, weights: Floats, classes: int, seed: int
) -> tuple[TreeArrays, TreeShape]:
    model = RandomForestClassifier(config.forest, min_samples_leaf=3, random_state=seed).fit(
        x, y, sample_weight=weights
    )
    present = np.asarray(model.classes_, np.int64)
    grown = [_Grown.voting(one.tree_, present, classes, len(model.estimators_)) for one in model.estimators_]
    return _arrays(grown, [0] * len(grown), np.zeros(classes), "probabilities")


@dataclass(frozen=True, slots=True)
class _Grown:
    """One tree, its nodes numbered from 0."""

    feature: Ints  # -1 of a leaf
    threshold: Floats
    left: Ints
    right: Ints
    leaves: NDArray[np.float64]  # (leaves, leaf_width), in the order of the leaves among the nodes

    @classmethod
    def leaf(cls, values: NDArray[np.float64]) -> _Grown:
        """A tree that asks nothing."""
        none = np.zeros(1, np.int64)
        return cls(none + _LEAF, np.zeros(1, np.float32), none, none, values[None])

    @classmethod
    def boosted(cls, nodes: Any) -> _Grown:
        """A tree of histogram gradient boosting."""
        leaf = nodes["is_leaf"].astype(bool)
        feature = np.where(leaf, _LEAF, nodes["feature_idx"].astype(np.int64))
        left, right = nodes["left"].astype(np.int64), nodes["right"].astype(np.int64)
        return cls(feature, _floor(nodes["num_threshold"]), left, right, nodes["value"][leaf][:, None])

    @classmethod
    def voting(cls, tree: Any, present: Ints, classes: int, trees: int) -> _Grown:
        """A tree of a random forest; its leaves hold their share of the forest's votes."""
        leaf = tree.children_left < 0
        votes = tree.value[leaf][:, 0]
        leaves = np.zeros((int(leaf.sum()), classes))
        leaves[:, present] = votes / votes.sum(axis=1, keepdims=True) / trees
        feature = np.where(leaf, _LEAF, tree.feature.astype(np.int64))
        left, right = tree.children_left.astype(np.int64), tree.children_right.astype(np.int64)
        return cls(feature, _floor(tree.threshold), left, right, leaves)


def _arrays(
    grown: Sequence[_Grown], offsets: Sequence[int], base: NDArray[np.float64], output: Any
) -> tuple[TreeArrays, TreeShape]:
    """All trees in one set of arrays, with parents before their children."""
    feature, threshold, left, right, roots = [], [], [], [], []
    nodes = leaves = 0
    for tree in grown:
        order = _parents_first(tree)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        inner = tree.feature != _LEAF
        number = np.cumsum(~inner) - 1
        one = np.where(inner, nodes + place[np.where(inner, tree.left, 0)], leaves + number)
        other = np.where(inner, nodes + place[np.where(inner, tree.right, 0)], 0)
        roots.append(nodes)
        feature.append(tree.feature[order])
        threshold.append(np.where(inner, tree.threshold, 0)[order])
        left.append(one[order])
        right.append(other[order])
        nodes, leaves = nodes + len(order), leaves + len(tree.leaves)
    width = grown[0].leaves.shape[1]
    shape = TreeShape(trees=len(grown), nodes=nodes, leaves=leaves, leaf_width=width, output=output)
    values = np.concatenate([tree.leaves.ravel() for tree in grown])
    arrays = TreeArrays(
        roots=_numbers(roots),
        offsets=_numbers(offsets),
        feature=_numbers(np.concatenate(feature)),
        threshold=_numbers(np.concatenate(threshold)),
        left=_numbers(np.concatenate(left)),
        right=_numbers(np.concatenate(right)),
        leaves=_numbers(values),
        base=_numbers(base),
    )
    return arrays, shape


def _parents_first(tree: _Grown) -> Ints:
    """The nodes of a tree, each behind its parent."""
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if tree.feature[node] != _LEAF:
            waiting += [int(tree.right[node]), int(tree.left[node])]
    return np.array(order, np.int64)


def _floor(thresholds: NDArray[np.float64]) -> Floats:
    """The largest float32 numbers up to the thresholds: for float32 readings they decide the same."""
    largest = np.finfo(np.float32).max
    bounded = np.clip(np.nan_to_num(thresholds), -largest, largest)
    rounded = bounded.astype(np.float32)
    return np.where(rounded > bounded, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def _numbers(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
