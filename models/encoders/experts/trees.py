"""Trees: exact statistics of windows, a machine's distance from its own start, and decision trees on them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.configs.sensors import MIN_TREE_PROBABILITY, TreesConfig, TreeShape
from models.encoders.base import SensorEncoder, State

LEAST_START_VARIANCE = 1e-4
"""Of standard scores: what hardly moved at its start is not measured by that."""
_ROWS = 4096
"""Frames whose trees are followed at a time, which bounds the memory."""


class TreeArrays(NamedTuple):
    """Fitted trees as arrays; node numbers go through all trees, and a child's is larger than its parent's."""

    roots: Tensor  # (trees,) node at which each tree begins
    offsets: Tensor  # (trees,) class to which the first number of its leaves is added
    feature: Tensor  # (nodes,) column that a node looks at; -1 of a leaf
    threshold: Tensor  # (nodes,) the left child is next for values up to this one
    left: Tensor  # (nodes,) left child; of a leaf its number
    right: Tensor  # (nodes,) right child
    leaves: Tensor  # (leaves * leaf_width,)
    base: Tensor  # (C,) what the leaves' numbers are added to


class Trees(SensorEncoder):
    """Input x (…, F): V scaled readings, 0 where unknown, then observed bits, which are not used, and messages.

    Columns, V of each: the readings; mean, deviation, minimum and maximum of each window, of as many frames as there
    are; then the distance from the mean of the machine's own first frames, the same in units of their deviation, and
    that of the first window's mean. Messages are last. Sums go from the newest frame to the oldest in float32, so that
    the compiled step has the same bits and no tree takes another turn.
    """

    def __init__(self, config: TreesConfig, *, variables: int, classes: int, messages: int = 0) -> None:
        super().__init__()
        self.config = config
        self.variables = variables
        self.classes = classes
        self.messages = messages
        self.feature_size = classes
        shape = config.shape
        trees, nodes = (1, 1) if shape is None else (shape.trees, shape.nodes)
        leaves = 1 if shape is None else shape.leaves * shape.leaf_width
        for name, size in (
            ("roots", trees),
            ("offsets", trees),
            ("feature", nodes),
            ("threshold", nodes),
            ("left", nodes),
            ("right", nodes),
            ("leaves", leaves),
            ("base", classes),
        ):
            self.register_buffer(name, torch.zeros(size))

    def set_trees(self, arrays: TreeArrays, shape: TreeShape) -> None:
        """Use these trees from now on."""
        for name, values in arrays._asdict().items():
            setattr(self, name, values.float())
        self.config = self.config.model_copy(update={"shape": shape})

    def init_state(self, batch: int) -> State:
        """The last frames in a ring (B, W, V), how many frames there were (B, 1), and sums of the first (B, 2, V)."""
        like: Tensor = self.get_buffer("base")
        state = {
            "recent": like.new_zeros(batch, max(self.config.windows), self.variables),
            "frames": like.new_zeros(batch, 1),
        }
        if self.config.own_start:
            state["start"] = like.new_zeros(batch, 2, self.variables)
        return state

    def columns(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """What trees see of frames (B, T, F) from a state on, (B, T, F'), and the state after them."""
        readings, count = x[:, :, : self.variables], x.shape[1]
        longest = max(self.config.windows)
        before = state["frames"].long()  # (B, 1)
        lags = torch.arange(longest - 1, 0, -1)
        places = (before - lags).remainder(longest)
        older = state["recent"].gather(1, places.unsqueeze(-1).expand(-1, -1, self.variables))
        older = older * (before >= lags).unsqueeze(-1)
        extended = torch.cat([older, readings], dim=1)
        index = before + torch.arange(count)  # (B, T), before the ring's count wraps
        parts = [readings]
        for window in self.config.windows:
            parts += _window(extended, count, (index + 1).clamp_max(window), window)
        after: State = {}
        if self.config.own_start:
            mean, deviation, after["start"] = self._own_start(readings, index, state["start"])
            parts += [readings - mean, (readings - mean) / deviation, parts[1] - mean]
        if self.messages:
            parts.append(x[..., x.shape[-1] - self.messages :])
        total = before + count
        kept = self.config.counted_frames
        wrapped = torch.where(total >= 2 * kept, kept + total % kept, total)
        slots = (total - longest + torch.arange(longest)).remainder(longest)
        slots = slots.unsqueeze(-1).expand(-1, -1, self.variables)
        recent = state["recent"].scatter(1, slots, extended[:, -longest:])
        state_after = {"recent": recent, "frames": wrapped.to(x.dtype), **after}
        return torch.cat(parts, dim=2), state_after

    def answer(self, columns: Tensor) -> Tensor:
        """Logits (N, C) of columns (N, F')."""
        return torch.cat([self._follow(part) for part in torch.split(columns, _ROWS)])

    def advance(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Frames (B, T, F) from a state on; see `SensorEncoder.advance`. The features are the probabilities."""
        columns, after = self.columns(x, state)
        logits = self.answer(columns.flatten(0, 1)).view(*columns.shape[:2], self.classes)
        return logits, torch.softmax(logits, dim=-1), after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """One frame (B, F); see `SensorEncoder.step`."""
        logits, features, after = self.advance(x[:, None], state)
        return logits[:, 0], features[:, 0], after

    def _own_start(self, readings: Tensor, index: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation of the first frames as known at each frame, (B, T, V) each, and their sums (B, 2, V)."""
        first = self.config.own_start
        total, squares = sums[:, 0], sums[:, 1]
        seen: list[tuple[Tensor, Tensor]] = []
        for t in range(readings.shape[1]):
            early = index[:, t, None] < first
            if bool(early.any()):
                reading = readings[:, t]
                total = torch.where(early, total + reading, total)
                squares = torch.where(early, squares + reading * reading, squares)
            seen.append((total, squares))
        number = (index + 1).clamp_max(first).unsqueeze(-1).to(readings.dtype)
        mean = torch.stack([both[0] for both in seen], dim=1) / number
        variance = torch.stack([both[1] for both in seen], dim=1) / number - mean * mean
        return mean, variance.clamp_min(LEAST_START_VARIANCE).sqrt(), torch.stack([total, squares], dim=1)

    def _follow(self, columns: Tensor) -> Tensor:
        roots, feature, left, right = (self.get_buffer(name).long() for name in ("roots", "feature", "left", "right"))
        threshold, offsets = self.get_buffer("threshold"), self.get_buffer("offsets").long()
        leaves, base = self.get_buffer("leaves"), self.get_buffer("base")
        node = roots.expand(len(columns), -1)
        while bool((inner := feature[node] >= 0).any()):
            smaller = columns.gather(1, feature[node].clamp_min(0)) <= threshold[node]
            node = torch.where(inner, torch.where(smaller, left[node], right[node]), node)
        width = 1 if self.config.shape is None else self.config.shape.leaf_width
        answer = base.expand(len(columns), -1).clone()
        for number in range(width):
            answer.index_add_(1, offsets + number, leaves[left[node] * width + number])
        if self.config.shape is not None and self.config.shape.output == "probabilities":
            answer = answer.clamp_min(MIN_TREE_PROBABILITY).log()
        return answer


def _window(extended: Tensor, count: int, number: Tensor, window: int) -> list[Tensor]:
    """Mean, deviation, minimum and maximum of the last `window` frames at each of the last `count` frames of (B, *, V);
    `number` (B, T) is how many of them there are."""
    start = extended.shape[1] - count
    newest = extended[:, start:]
    total, low, high = newest, newest, newest
    frames = number.unsqueeze(-1)

    def at(lag: int) -> Tensor:
        return extended[:, start - lag : start - lag + count]

    for lag in range(1, window):
        there, earlier = frames > lag, at(lag)
        total = torch.where(there, total + earlier, total)
        low = torch.where(there, torch.minimum(low, earlier), low)
        high = torch.where(there, torch.maximum(high, earlier), high)
    size = frames.to(extended.dtype)
    mean = total / size
    squares = (newest - mean) * (newest - mean)
    for lag in range(1, window):
        away = at(lag) - mean
        squares = torch.where(frames > lag, squares + away * away, squares)
    return [mean, (squares / size).sqrt(), low, high]
