"""The job that every rival does: read and check a reading, step the machine's LSTM, write its probabilities.

The rivals differ only in how records reach this code and leave it. The model's state is kept in memory; none of the
rivals saves it, although Faultline does.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
import torch

VARIABLES = 52
MACHINES = 1024
"""Room in the arena; the bench has fewer."""


@dataclass(frozen=True)
class Options:
    """What a rival is told on its command line."""

    bootstrap: str
    source: str
    target: str
    group: str
    weights: str
    arithmetic: str


def options() -> Options:
    """From the command line; every rival takes the same."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True, help="host:port of the broker")
    parser.add_argument("--source", required=True, help="topic of readings")
    parser.add_argument("--target", required=True, help="topic of probabilities")
    parser.add_argument("--group", required=True, help="consumer group")
    parser.add_argument("--weights", required=True, help="npz file of the model's weights")
    parser.add_argument("--arithmetic", choices=("torch", "numpy"), default="torch", help="what computes the model")
    return Options(**vars(parser.parse_args()))


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A reading that fits; JSON has no number that is not finite, and msgspec refuses those that overflow."""

    machine: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    time: Annotated[int, msgspec.Meta(ge=0)]
    values: Annotated[list[float], msgspec.Meta(min_length=VARIABLES, max_length=VARIABLES)]


_decode = msgspec.json.Decoder(Reading).decode


def read(value: bytes | None) -> Reading | None:
    """The reading in a record's value, or None if it is not one."""
    try:
        return _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def write(reading: Reading, probabilities: np.ndarray) -> bytes:
    """The message about one reading."""
    answer = {"machine": reading.machine, "time": reading.time, "probabilities": probabilities}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def rounds(readings: Sequence[Reading]) -> list[list[int]]:
    """Positions of the readings in rounds in which a machine stands once, its readings in their order."""
    seen: dict[str, int] = {}
    found: list[list[int]] = []
    for position, reading in enumerate(readings):
        number = seen.get(reading.machine, 0)
        seen[reading.machine] = number + 1
        if number == len(found):
            found.append([])
        found[number].append(position)
    return found


State = list[tuple[Any, Any]]
"""h and c of every layer, each (B, H)."""


class Model:
    """Stacked LSTM layers and a linear head, with the states of all machines.

    A program that calls the model for one reading at a time keeps each machine's state by itself, so nothing has to be
    gathered and put back; one that calls it for many machines at once keeps them as rows of one arena.
    """

    def __init__(self, path: str, arithmetic: str) -> None:
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        weights = dict(np.load(path))
        count = sum(name.startswith("state_bias") for name in weights)
        names = ("input", "state", "input_bias", "state_bias")
        self._layers = [tuple(weights[f"{name}_{layer}"] for name in names) for layer in range(count)]
        self._head = weights["head"], weights["head_bias"]
        self._sizes = [layer[1].shape[1] for layer in self._layers]
        self._numpy = arithmetic == "numpy"
        self._states: dict[str, State] = {}
        self._slots: dict[str, int] = {}
        self._arena = [(self._zeros(MACHINES, size), self._zeros(MACHINES, size)) for size in self._sizes]
        if self._numpy:
            # One product instead of two, in the layout that numpy multiplies fastest.
            self._joined = [(np.concatenate(layer[:2], axis=1).T.copy(), layer[2] + layer[3]) for layer in self._layers]
            self._head = self._head[0].T.copy(), self._head[1]
        else:
            self._layers = [tuple(map(torch.from_numpy, layer)) for layer in self._layers]
            self._head = torch.from_numpy(self._head[0]), torch.from_numpy(self._head[1])

    def one(self, reading: Reading) -> np.ndarray:
        """Probabilities (C,) after one machine's next reading."""
        state = self._states.get(reading.machine)
        if state is None:
            state = [(self._zeros(1, size), self._zeros(1, size)) for size in self._sizes]
        answer, self._states[reading.machine] = self._step(np.array([reading.values], np.float32), state)
        return answer[0]

    def many(self, readings: Sequence[Reading]) -> np.ndarray:
        """Probabilities (B, C) after the next reading of B different machines."""
        rows: Any = np.array([self._slots.setdefault(one.machine, len(self._slots)) for one in readings])
        if not self._numpy:
            rows = torch.from_numpy(rows)
        state = [(h[rows], c[rows]) for h, c in self._arena]
        answer, after = self._step(np.array([one.values for one in readings], np.float32), state)
        for (h, c), (h_after, c_after) in zip(self._arena, after, strict=True):
            h[rows], c[rows] = h_after, c_after
        return answer

    def _zeros(self, rows: int, size: int) -> Any:
        return np.zeros((rows, size), np.float32) if self._numpy else torch.zeros(rows, size)

    def _step(self, values: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        return self._step_numpy(values, state) if self._numpy else self._step_torch(values, state)

    def _step_torch(self, values: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        x, after = torch.from_numpy(values), []
        for weights, before in zip(self._layers, state, strict=True):
            after.append(torch.lstm_cell(x, before, *weights))
            x = after[-1][0]
        return torch.nn.functional.linear(x, *self._head).softmax(1).numpy(), after

    def _step_numpy(self, values: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        x, after = values, []
        for (weights, bias), (h, c) in zip(self._joined, state, strict=True):
            size = h.shape[1]
            gates = np.concatenate([x, h], axis=1) @ weights + bias
            sigmoid = 1 / (1 + np.exp(-gates))
            kept = sigmoid[:, size : 2 * size] * c
            c = kept + sigmoid[:, :size] * np.tanh(gates[:, 2 * size : 3 * size])
            x = sigmoid[:, 3 * size :] * np.tanh(c)
            after.append((x, c))
        logits = x @ self._head[0] + self._head[1]
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return raised / raised.sum(axis=1, keepdims=True), after
