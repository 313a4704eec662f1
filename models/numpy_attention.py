"""RingAttention's step on the arena itself: a frame writes one place of each ring and reads the rest where it lies.

The rings are far too large to be gathered and scattered, as other states are: 51 KB a machine. What a step costs is
mostly reading them, so each is read from memory once, in blocks that stay in the core's own cache until scores and sums
are done. These are products of their own for each machine, so its bits do not depend on its company there.
"""

from __future__ import annotations

import math

import numpy as np
from torch import nn

from models.attention import AttentionLayer, RingAttention
from models.numpy_parts import Dense, Filling, Head, Sensed, array, carver, normalise, softmax
from pipeline.frames import Bools, Floats, Ints

_ZERO = np.zeros((), np.float32)
_NOWHERE = np.float32(-1e30)
"""Added to the score of an empty place."""

_BOUNDED = 60.0
"""Scores between this and its negative can be exponentiated in float32 without taking their maximum off first."""

_NOTHING = 40.0
"""A place whose weight is below exp(-40) of another's adds nothing in float32."""

_BLOCK = 200_000
"""Numbers of rings that are worked on at a time; 800 KB stay in the cache."""


class AttentionSensors:
    """A RingAttention's weights, stepped in place; see `models.arena.SensorStep`."""

    most_rows = 512
    in_order = True

    def __init__(self, sensors: RingAttention, temperature: float) -> None:
        config = sensors.config
        self._size, self._window, self._heads = config.size, config.window, config.heads
        self._mask_inputs, self._variables = config.mask_inputs, sensors.variables
        self._block = max(1, _BLOCK // (config.window * config.size))
        self._input = Dense(array(sensors.input.weight), array(sensors.input.bias))
        self._layers = [_Layer(layer) for layer in sensors.layers]
        self._gain, self._shift = array(sensors.norm.weight)[:, None], array(sensors.norm.bias)[:, None]
        self._eps = sensors.norm.eps
        self._head = Head(sensors.head, temperature)
        largest = max(layer.largest_score for layer in self._layers)
        self._bounded = largest <= _BOUNDED
        self._biases = _biases(array(sensors.slopes), config.window, 2 * largest + _NOTHING)

    def advance(self, states: Floats, slots: Ints, readings: Floats, observed: Bools, filling: Filling) -> Sensed:
        """See `models.arena.SensorStep`; the slots are in ascending order."""
        width, here = filling.width(len(slots)), filling.place(len(slots))
        variables, size, window = self._variables, self._size, self._window
        x = np.zeros((self._input.size_in + 1, width), np.float32)
        x[:variables, here] = readings.T
        if self._mask_inputs:
            x[variables:-1, here] = observed.T
        x[-1] = 1
        seen = states[slots, 0].astype(np.int64)
        places = seen % window
        turns = np.where(seen < window, window - 1, 4 * window - 2) - seen  # see `_biases`

        y = self._input(x)[:size]
        normal = np.ones((size + 1, width), np.float32)
        rows = np.ones((width, size + 1), np.float32)
        asked, pooled = np.zeros((2, width, self._heads, size), np.float32)
        at = 1
        for layer in self._layers:
            rings = states[:, at : at + window * size].reshape(len(states), window, size)
            at += window * size
            normalise(y, layer.eps, normal[:size])
            normal[:size] *= layer.gain
            normal[:size] += layer.shift
            rows[:, :size] = normal[:size].T
            rings[slots, places] = rows[here, :size]
            queries = np.matmul(rows, layer.query).reshape(width, self._heads, -1)
            np.matmul(queries.transpose(1, 0, 2), layer.keys, asked.transpose(1, 0, 2))
            self._look(asked[here], rings, slots, turns, pooled[here])
            np.matmul(pooled.transpose(1, 0, 2), layer.values, queries.transpose(1, 0, 2))
            y += np.matmul(queries.reshape(width, size), layer.out).T
            y += layer.out_shift
            normalise(y, layer.inner_eps, normal[:size])
            inner = layer.widen(normal)
            np.maximum(inner, _ZERO, out=inner)
            y += layer.narrow(inner)[:size]
        states[slots, 0] = np.where(seen + 1 < 2 * window, seen + 1, window + (seen + 1) % window)

        features = np.ones((size + 1, width), np.float32)
        normalise(y, self._eps, features[:size])
        features[:size] *= self._gain
        features[:size] += self._shift
        head = self._head.bind(features, carver(np.empty(self._head.rows * width, np.float32), width))
        for line in head.ones:
            line.fill(1.0)
        head.step()
        softmax(head.logits, np.empty(width, np.float32))
        return Sensed(head.logits, features)

    def example(self, rng: np.random.Generator, size: int) -> Floats:
        """See `models.arena.SensorStep`; its ring has been filled and half of it written anew."""
        state = rng.uniform(-1, 1, size).astype(np.float32)
        state[0] = self._window + self._window // 2
        return state

    def _look(self, asked: Floats, rings: Floats, slots: Ints, turns: Ints, pooled: Floats) -> None:
        """Write the mean frame (count, H, d) that each head finds in its machine's ring for what it asks (count, H, d);
        `turns` says which biases belong to the machine's places."""
        total = np.empty(asked.shape[:2], np.float32)
        scores = np.empty((min(self._block, len(slots)), self._heads, self._window), np.float32)
        for begin in range(0, len(slots), self._block):
            part = slice(begin, begin + self._block)
            who = slots[part]
            first, last = int(who[0]), int(who[-1])
            ring = rings[first : last + 1] if last - first < len(who) else rings[who]
            found = scores[: len(who)]
            np.matmul(asked[part], ring.transpose(0, 2, 1), found)
            found += self._biases[turns[part]]
            if not self._bounded:
                found -= np.maximum.reduce(found, 2, keepdims=True)
            np.exp(found, found)
            np.einsum("nhw->nh", found, out=total[part])
            np.matmul(found, ring, pooled[part])
        pooled *= (1 / total)[:, :, None]


class _Layer:
    """One block's weights; those of the dense layers are multiplied with the normalisation's gain before them."""

    def __init__(self, layer: nn.Module) -> None:
        assert isinstance(layer, AttentionLayer)
        size, heads = layer.project_in.in_features, layer.heads
        self.eps = layer.norm.eps
        self.gain, self.shift = array(layer.norm.weight)[:, None], array(layer.norm.bias)[:, None]
        weight, bias = array(layer.project_in.weight), array(layer.project_in.bias)
        q, self.keys, values = weight.reshape(3, heads, -1, size)
        # The bias in a last row; that of the keys would add the same to all scores, and that of the values, whose
        # weights sum to 1, adds the same to every answer.
        query = np.concatenate([q.reshape(size, size), bias[:size, None]], axis=1).T / math.sqrt(size // heads)
        self.query = np.ascontiguousarray(query, np.float32)
        self.values = np.ascontiguousarray(values.transpose(0, 2, 1))
        out = array(layer.project_out.weight)
        self.out = np.ascontiguousarray(out.T)
        self.out_shift = (out @ bias[2 * size :] + array(layer.project_out.bias))[:, None]

        first, second = (part for part in layer.inner if isinstance(part, nn.Linear))
        self.inner_eps = layer.inner_norm.eps
        gain, moved = layer.inner_norm.weight.detach().double(), layer.inner_norm.bias.detach().double()
        inner = first.weight.detach().double()
        self.widen = Dense(array(inner * gain), array(inner @ moved + first.bias.detach().double()))
        self.narrow = Dense(array(second.weight), array(second.bias), below=self.widen)

        # Whatever the inputs, a frame is never longer than this, for without gain and shift it is sqrt(d) at most.
        longest = math.sqrt(size) * float(np.abs(self.gain).max()) + float(np.linalg.norm(self.shift))
        asked = self.query.reshape(size + 1, heads, -1).transpose(1, 0, 2) @ self.keys  # (H, d + 1, d)
        lengths = [np.linalg.norm(part[:-1], 2) * longest + np.linalg.norm(part[-1]) for part in asked]
        self.largest_score = longest * float(max(lengths))
        """A bound for what a head can score a place, its bias not counted."""


def _biases(slopes: Floats, window: int, beyond: float) -> Floats:
    """Rows (H, W) of what is added to the scores: row W-1-n of a machine with n < W frames before this one, and row
    4W-2-n of one with more, whose n lies between W and 2W.

    A place's distance is that of its number to the present one's, going around the ring. So one frame later the row is
    the same, one place further on, and all rows lie in one line of numbers. What would be below `-beyond` is treated
    as empty, which keeps numbers below the normal range out of the products.
    """
    ahead = np.arange(1 - window, window)  # of the present place
    unfilled = np.where(ahead <= 0, slopes[:, None] * ahead, _NOWHERE)
    filled = slopes[:, None] * -((-ahead) % window)
    line = np.concatenate([unfilled, filled], axis=1).astype(np.float32)
    line[line < -beyond] = _NOWHERE
    return np.lib.stride_tricks.sliding_window_view(line, window, axis=1).transpose(1, 0, 2)
