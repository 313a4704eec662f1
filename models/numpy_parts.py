"""The pieces of the numpy backend: dense layers, LSTM layers and the event ring on one column a machine.

Everything here is laid out with one row a feature and one column a machine. So the slices that a formula takes, such
as one gate of all machines, lie in one piece; a product of matrices needs no bias of its own, because a row of ones
stands among its inputs; and sums over classes or texts add whole rows, so that a machine's result does not depend on
the column it stands in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.lstm import SeqLSTM
from models.ring import TextModality
from pipeline.frames import Floats

_LANES = 8
"""Rows of a weight matrix are filled up to a multiple of this. At the edge of a matrix, where fewer are left than a
vector register holds, some of the library's kernels depend on the number of columns and round otherwise."""

_HALF = np.full((), 0.5, np.float32)
_ZERO = np.zeros((), np.float32)
_GRAIN = np.full((), 1e-30, np.float32)
_NOWHERE = np.float32(-1e30)
"""Score of an empty place in the ring."""

Carve = Callable[[int], Floats]
"""Takes the next so many rows of a stretch of memory."""


def array(tensor: Tensor) -> Floats:
    """A copy of the tensor in float32."""
    made: Floats = tensor.detach().to("cpu", torch.float32).numpy().copy()
    return made


def turned(weight: Floats) -> Floats:
    """Weights (out, in) with rows of zeros added, stored so that products with (in, columns) are stable and fast.

    Stored the other way round, the same products depend on the number of columns up to about a hundred.
    """
    out, size = weight.shape
    stored = np.zeros((size, -(-out // _LANES) * _LANES), np.float32)
    stored[:, :out] = weight.T
    return stored.T


def softmax(logits: Floats, line: Floats) -> None:
    """In place over the rows of (C, columns); `line` (columns) is scratch."""
    np.maximum.reduce(logits, 0, out=line)
    np.subtract(logits, line, logits)
    np.exp(logits, logits)
    np.add.reduce(logits, 0, out=line)
    np.divide(logits, line, logits)


def carver(memory: Floats, columns: int) -> Carve:
    """Cuts blocks of (rows, columns) off a flat stretch of memory, one after the other."""
    at = 0

    def carve(rows: int) -> Floats:
        nonlocal at
        begin, at = at, at + rows * columns
        return memory[begin:at].reshape(rows, columns)

    return carve


class Filling(NamedTuple):
    """How a round's columns are filled up, so that a machine's bits do not depend on the others in its round."""

    least: int
    before: int
    after: int
    """Columns that are always added before the first machine and after the last one."""

    def width(self, count: int) -> int:
        """Columns for so many machines: one of few widths, because buffers are laid out for each."""
        wanted = max(self.before + count + self.after, self.least)
        if wanted <= 16:
            return wanted if wanted <= 2 else -(-wanted // 4) * 4
        width = -(-wanted // 8) * 8
        # Rows a power of two apart would all fall into the same few lines of the cache.
        return width + 8 if width % 64 == 0 else width

    def widths(self, most: int) -> list[int]:
        """Every width that a round of up to so many machines can have."""
        return sorted({self.width(count) for count in range(1, most + 1)})

    def place(self, count: int) -> slice:
        """The columns in which so many machines stand."""
        return slice(self.before, self.before + count)


class Layer(NamedTuple):
    """One LSTM layer on its pieces of memory."""

    weight: Floats
    x: Floats  # (in, columns), with the layer's own h and a row of ones among its rows
    z: Floats  # (4H filled up, columns)
    sigmoids: Floats
    i: Floats
    f: Floats
    o: Floats
    g: Floats
    c: Floats
    h: Floats

    def step(self) -> None:
        """Advance c and h by one frame."""
        weight, x, z, sigmoids, i, f, o, g, c, h = self
        np.matmul(weight, x, z)
        np.tanh(z, z)
        np.multiply(sigmoids, _HALF, sigmoids)
        np.add(sigmoids, _HALF, sigmoids)
        np.multiply(f, c, c)
        np.multiply(i, g, i)
        np.add(c, i, c)
        np.tanh(c, i)
        np.multiply(o, i, h)


class Sensed(NamedTuple):
    """What a sensor encoder finds in some machines, one column each, the filled-up ones included."""

    answer: Floats  # (C, columns) calibrated probabilities
    features: Floats  # (D + 1, columns), of which the last row is ones


class Read(NamedTuple):
    """What the texts of K machines say."""

    answers: Floats  # (K, C) calibrated probabilities
    features: Floats  # (K, D)


def normalise(y: Floats, eps: float, out: Floats) -> None:
    """Columns (d, columns) less their mean and divided by their standard deviation."""
    size = np.float32(1 / len(y))
    line = np.add.reduce(y, 0)
    line *= size
    np.subtract(y, line, out)
    line = np.add.reduce(np.multiply(out, out), 0)
    line *= size
    line += np.float32(eps)
    np.sqrt(line, line)
    np.divide(np.float32(1), line, line)
    np.multiply(out, line, out)


class Dense:
    """One dense layer on (in + 1, columns), of which the last row is ones; its result ends in a row of ones too."""

    def __init__(self, weight: Floats, bias: Floats, below: Dense | None = None) -> None:
        """`below` is the layer whose whole result this one reads, with the rows that fill it up."""
        self.size_in = weight.shape[1] if below is None else len(below.weight)
        whole = np.zeros((len(weight), self.size_in + 1), np.float32)
        whole[:, : weight.shape[1]], whole[:, -1] = weight, bias
        self.weight: Floats = turned(whole)

    def __call__(self, x: Floats) -> Floats:
        """(in + 1, columns) to (out, filled up, + 1, columns)."""
        z = np.empty((len(self.weight) + 1, x.shape[1]), np.float32)
        np.matmul(self.weight, x, z[:-1])
        z[-1] = 1
        return z


class Head:
    """Dense layers with ReLU between them; their inputs have a row of ones at the end."""

    def __init__(self, head: nn.Sequential, temperature: float) -> None:
        """The temperature divides the last layer's weights and with them the logits."""
        layers = [layer for layer in head if isinstance(layer, nn.Linear)]
        self.classes = layers[-1].out_features
        self.weights: list[Floats] = []
        width = layers[0].in_features
        for layer in layers:
            # Between layers stand the filled-up rows, whose weights are zero, and then the ones.
            weight = np.zeros((layer.out_features, width + 1), np.float32)
            weight[:, : layer.in_features] = array(layer.weight)
            weight[:, -1] = array(layer.bias)
            if layer is layers[-1]:
                weight /= np.float32(temperature)
            self.weights.append(turned(weight))
            width = len(self.weights[-1])

    @property
    def rows(self) -> int:
        """Rows of memory that `bind` carves."""
        return sum(len(weight) + 1 for weight in self.weights)

    def bind(self, x: Floats, carve: Carve) -> BoundHead:
        """The head over this input (in + 1, columns)."""
        steps, ones = [], []
        for weight in self.weights:
            block = carve(len(weight) + 1)
            ones.append(block[-1])
            steps.append((weight, x, block[:-1]))
            x = block
        return BoundHead(steps, steps[-1][2][: self.classes], ones)


class BoundHead(NamedTuple):
    """A head on its pieces of memory."""

    steps: list[tuple[Floats, Floats, Floats]]  # weight, input, output
    logits: Floats  # (C, columns)
    ones: list[Floats]

    def step(self) -> None:
        """Compute the logits."""
        weight, x, z = self.steps[0]
        np.matmul(weight, x, z)
        for weight, after, result in self.steps[1:]:
            np.maximum(z, _ZERO, out=z)
            np.matmul(weight, after, result)
            z = result


class SensorNetwork:
    """A SeqLSTM's weights, and how the memory of a round of given width is laid out.

    The rows are: ones, readings, trends and spreads, observed bits, h of layer 1, ones, h of layer 2, ones, and so on.
    So each layer finds its input, a row of ones and its own state in one piece, and writes its h where the next layer
    wants it.
    """

    def __init__(self, sensors: SeqLSTM, temperature: float) -> None:
        self.config = sensors.config
        self.variables = sensors.variables
        self.rates = array(sensors.rates)[:, None, None]
        self.cells: list[Floats] = []
        half = np.float32(0.5)
        for layer in sensors.layers:
            assert isinstance(layer, nn.LSTM)
            from_input, from_state, *biases = (array(weight) for weight in layer.all_weights[0])
            bias = (biases[0] + biases[1])[:, None]
            parts = [from_input, bias, from_state] if self.cells else [bias, from_input, from_state]
            # torch's order is i, f, g, o. Here the sigmoids stand together, and s(x) = tanh(x / 2) / 2 + 1 / 2 lets
            # one call of tanh serve all four gates.
            i, f, g, o = np.split(np.concatenate(parts, axis=1), 4)
            self.cells.append(turned(np.concatenate([half * i, half * f, half * o, g])))
        self.head = Head(sensors.head, temperature)
        averages = len(self.rates)
        self.state_size = 2 * sum(self.config.hidden) + (averages + bool(averages)) * self.variables
        inputs = self.variables * (1 + averages + self.config.mask_inputs)
        self.inputs = 1 + inputs + sum(self.config.hidden) + len(self.cells)
        gates = max(len(weight) for weight in self.cells)
        scratch = (1 + averages) * self.variables if averages else 0
        rest = self.state_size - sum(self.config.hidden)
        self.rows = self.inputs + rest + gates + scratch + self.head.rows + 1

    def room(self, memory: Floats, columns: int) -> SensorRoom:
        """A round's memory at the beginning of a flat stretch of at least `rows` times `columns`."""
        return SensorRoom(self, memory, columns)


class SensorRoom:
    """The sensor network on the memory of one round: write the inputs and states, `step`, read the answer."""

    def __init__(self, network: SensorNetwork, memory: Floats, columns: int) -> None:
        carve = carver(memory, columns)
        block = carve(network.inputs)
        variables, averages = network.variables, len(network.rates)
        hidden, total = network.config.hidden, sum(network.config.hidden)
        at = 1 + variables * (1 + averages)
        self.readings = block[1 : 1 + variables]
        self.context = block[1 + variables : at].reshape(averages, variables, columns)
        self.observed = block[at : at + variables] if network.config.mask_inputs else None
        at += variables * network.config.mask_inputs
        self.rest = carve(network.state_size - total)
        """Of the state all but h, as it is saved: c of each layer, means, last."""
        self.means = self.rest[total : total + averages * variables].reshape(averages, variables, columns)
        self.last = self.rest[total + averages * variables :]
        gates = carve(max(len(weight) for weight in network.cells))
        if averages:
            self._change, self._away = carve(variables), carve(averages * variables).reshape(self.means.shape)
        self._trends, self._rates = len(network.config.trends), network.rates
        self.ones: list[Floats] = [block[0]]
        self.hs: list[Floats] = []
        self._layers: list[Layer] = []
        begin, below = 0, 0
        for weight, size in zip(network.cells, hidden, strict=True):
            x, z = block[begin : at + size], gates[: len(weight)]
            h, c = block[at : at + size], self.rest[below : below + size]
            i, f, o, g = (z[k * size : (k + 1) * size] for k in range(4))
            self._layers.append(Layer(weight, x, z, z[: 3 * size], i, f, o, g, c, h))
            self.hs.append(h)
            self.ones.append(block[at + size])
            begin, at, below = at, at + size + 1, below + size
        self.features = block[begin:at]
        """(D + 1, columns): h of the last layer, and ones."""
        self._head = network.head.bind(self.features, carve)
        self.ones += self._head.ones
        self.answer = self._head.logits
        """(C, columns): the calibrated probabilities after a step."""
        self._line = carve(1)[0]

    def enter(self) -> None:
        """Put the ones where they belong, after the memory has been used by a room of another width."""
        for line in self.ones:
            line.fill(1.0)

    def step(self) -> None:
        """Advance every column by one frame."""
        if len(self.context):
            self._add_context()
        for layer in self._layers:
            layer.step()
        self._head.step()
        softmax(self.answer, self._line)

    def _add_context(self) -> None:
        readings, means, context, trends = self.readings, self.means, self.context, self._trends
        change, away = self._change, self._away
        np.subtract(readings, self.last, change)
        np.abs(change, change)
        np.copyto(self.last, readings)
        np.subtract(readings, means[:trends], away[:trends])
        np.subtract(change, means[trends:], away[trends:])
        np.multiply(away, self._rates, away)
        np.add(means, away, means)
        # While a reading stands still its means approach zero, where numbers below float32's normal range would make
        # everything after them many times slower. This turns them into zeros and leaves others as they are.
        np.add(means, _GRAIN, means)
        np.subtract(means, _GRAIN, means)
        np.subtract(readings, means[:trends], context[:trends])
        np.copyto(context[trends:], means[trends:])


class TextReader:
    """A TextModality's weights: what the texts in the rings say, for those machines that have any."""

    def __init__(self, text: TextModality, temperature: float) -> None:
        self.size, self.places = text.config.hidden, text.config.ring
        value, score = array(text.value.weight), array(text.score.weight)
        self.age_features = value.shape[1] - self.size
        # log(1 + age) / 4 and exp(-age / 5), exp(-age / 20), exp(-age / 60), as in models.ring.
        self.age_rates = np.array([1 / 4, -1 / 5, -1 / 20, -1 / 60], np.float32)[:, None, None]
        weight = np.zeros((self.size + 1, value.shape[1] + 1), np.float32)
        weight[: self.size, :-1], weight[: self.size, -1] = value, array(text.value.bias)
        weight[self.size, : self.size], weight[self.size, -1] = score[0], array(text.score.bias)[0]
        self.weight = turned(weight)
        self.tau = array(text.log_tau.exp())
        self.head = Head(text.head, temperature)
        self.features = text.feature_size

    def room(self, columns: int) -> TextRoom:
        """Memory for so many machines."""
        return TextRoom(self, columns)


class TextRoom:
    """A text reader with its memory: write rings and ages, `step`, read the answer."""

    def __init__(self, reader: TextReader, columns: int) -> None:
        places, size, features = reader.places, reader.size, reader.age_features
        self._reader = reader
        self.columns = columns
        self._x = np.zeros((places, columns, size + features + 1), np.float32)
        self._x[:, :, -1] = 1
        self.ring = self._x[:, :, :size]
        """(E, columns, d)"""
        self._x_ages = self._x[:, :, size:-1]
        self.age = np.zeros((places, columns), np.float32)
        """(E, columns), of which each column has at least one that is not empty."""
        self._ages = np.zeros((features, places, columns), np.float32)
        self._products = np.zeros((len(reader.weight), places * columns), np.float32)
        pooled = np.ones((size + 2 * features + 1, columns), np.float32)
        self._value, self._aged = pooled[:size], pooled[size : size + features]
        self._youngest = pooled[size + features : -1]
        self.features = pooled[:-1]
        """(D, columns): what the head reads, after a step."""
        memory = np.zeros(reader.head.rows * columns, np.float32)
        self._head = reader.head.bind(pooled, carver(memory, columns))
        for line in self._head.ones:
            line.fill(1.0)
        self.answer = self._head.logits
        """(C, columns): the calibrated probabilities after a step."""
        self._line = np.zeros(columns, np.float32)

    def step(self) -> None:
        """Read every column's ring."""
        reader, age, ages = self._reader, self.age, self._ages
        filled = age >= 0
        known = np.maximum(age, _ZERO)
        np.multiply(known, reader.age_rates, ages)
        np.exp(ages[1:], ages[1:])
        np.log1p(known, ages[0])
        np.multiply(ages[0], reader.age_rates[0], ages[0])
        self._x_ages[:] = ages.transpose(1, 2, 0)
        np.matmul(reader.weight, self._x.reshape(age.size, -1).T, self._products)
        products = self._products.reshape(-1, *age.shape)
        attention = np.where(filled, products[reader.size] - known / reader.tau, _NOWHERE)
        softmax(attention, self._line)
        value = np.tanh(products[: reader.size])
        np.add.reduce(np.multiply(value, attention, value), 1, out=self._value)
        np.add.reduce(ages * attention, 1, out=self._aged)
        self._youngest[:] = ages[:, 0]
        self._head.step()
        softmax(self.answer, self._line)
