"""Trees drawn at random, for tests of what steps them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from models.configs.sensors import TreesConfig, TreeShape
from models.encoders.experts.trees import TreeArrays, Trees

TREES, DEPTH = 7, 3
PER_TREE = 2 ** (DEPTH + 1) - 1


def shaped(config: TreesConfig, *, classes: int, votes: bool = False) -> TreesConfig:
    """The description of a model with `TREES` complete trees."""
    shape = TreeShape(
        trees=TREES,
        nodes=TREES * PER_TREE,
        leaves=TREES * 2**DEPTH,
        leaf_width=classes if votes else 1,
        output="probabilities" if votes else "log_odds",
    )
    return config.model_copy(update={"shape": shape})


def grow(network: nn.Module, seed: int = 0) -> None:
    """Give all trees of a network questions and answers."""
    rng = np.random.default_rng(seed)
    for module in network.modules():
        if isinstance(module, Trees) and module.config.shape is not None:
            module.set_trees(_drawn(module, rng), module.config.shape)


def _drawn(trees: Trees, rng: np.random.Generator) -> TreeArrays:
    shape = trees.config.shape
    assert shape is not None
    columns = trees.config.columns(trees.variables, trees.messages)
    node, first_leaf = np.arange(PER_TREE), 2**DEPTH - 1
    inner = node < first_leaf
    feature, left, right = [], [], []
    for tree in range(TREES):
        feature.append(np.where(inner, rng.integers(0, columns, PER_TREE), -1))
        start = tree * PER_TREE
        left.append(np.where(inner, start + 2 * node + 1, tree * 2**DEPTH + node - first_leaf))
        right.append(np.where(inner, start + 2 * node + 2, 0))
    votes = shape.output == "probabilities"
    leaves = rng.standard_normal((shape.leaves, shape.leaf_width))
    if votes:
        leaves = rng.dirichlet(np.full(shape.leaf_width, 0.3), shape.leaves) / TREES

    def numbers(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.asarray(values, np.float32).ravel())

    return TreeArrays(
        roots=numbers(np.arange(TREES) * PER_TREE),
        offsets=numbers(np.zeros(TREES) if votes else np.arange(TREES) % trees.classes),
        feature=numbers(np.concatenate(feature)),
        threshold=numbers(rng.normal(0, 0.7, shape.nodes)),
        left=numbers(np.concatenate(left)),
        right=numbers(np.concatenate(right)),
        leaves=numbers(leaves),
        base=numbers(np.zeros(trees.classes) if votes else rng.standard_normal(trees.classes)),
    )
