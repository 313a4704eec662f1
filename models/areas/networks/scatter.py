"""Sums and softmaxes over groups of rows, as sums over the edges that end at a node."""

from __future__ import annotations

import torch
from torch import Tensor


def scatter_sum(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """(groups, ...): the sum of the rows of each group."""
    return values.new_zeros((groups, *values.shape[1:])).index_add(0, group, values)


def _shifted(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Values less the largest of their group, which softmax does not depend on."""
    index = group.view(-1, *(1,) * (values.dim() - 1)).expand_as(values)
    start = values.new_full((groups, *values.shape[1:]), -torch.inf)
    return values - start.scatter_reduce(0, index, values.detach(), "amax").index_select(0, group)


def scatter_softmax(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Softmax over the rows of each group, separately in every other dimension."""
    powers = _shifted(values, group, groups).exp()
    return powers / scatter_sum(powers, group, groups).index_select(0, group)


def scatter_log_softmax(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Logarithm of `scatter_softmax`."""
    shifted = _shifted(values, group, groups)
    return shifted - scatter_sum(shifted.exp(), group, groups).log().index_select(0, group)


def scatter_mean(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """(groups, ...): the mean of the rows of each group; 0 of an empty one."""
    counts = torch.bincount(group, minlength=groups).clamp_min(1).to(values.dtype)
    return scatter_sum(values, group, groups) / counts.view(-1, *(1,) * (values.dim() - 1))
