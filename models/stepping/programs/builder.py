"""A model as a program: the table of operations that its step is, with their numbers, and the layout of its memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from models.stepping.kernels import operations
from models.stepping.kernels.codes import FIRST_OF_MODALITIES, OPERANDS, STATE, WORK, padded
from models.stepping.kernels.dense import PANEL, pack
from models.stepping.kernels.lanes import LANES
from models.stepping.programs.weights import WeightReader
from pipeline.arrays import Floats, Ints
from pipeline.compiled import Compiled, CompiledCallback, Notify, compile_all

LAYER_NORM_EPS: Final = 1e-5
"""What torch's LayerNorm adds to the variance unless told otherwise."""


class Piece(NamedTuple):
    """Consecutive numbers of a row."""

    space: int
    """WORK or STATE."""
    start: int
    size: int


Vector = tuple[Piece, ...]
"""A vector of a row; its parts need not lie together."""


@dataclass(frozen=True, slots=True)
class Program:
    """What the interpreter needs of a model, apart from where its inputs and answers lie."""

    operations: Sequence[CompiledCallback]
    lines: Ints
    """(N, OPERANDS): of each operation the set of rows and its operands; addresses are still missing."""
    weights: Floats
    initial: Floats
    """(S,) state before the first frame, with every vector padded to whole lanes."""
    saved: Ints
    """Where in a state each number of its saved form stands."""
    work_size: int

    def compiled(self, others: Sequence[Compiled], what: str, notify: Notify) -> Ints:
        """The table with the addresses of its operations; compiles what has not been compiled, with `others`."""
        compile_all([*others, *dict.fromkeys(self.operations)], what, notify)
        table = self.lines.copy()
        table[:, 0] = [operation.address for operation in self.operations]
        return table


class ProgramBuilder:
    """Collects operations in the order in which they are done, and shares out weights, state and working memory."""

    def __init__(self, reader: WeightReader, modalities: int) -> None:
        self.reader = reader
        self.modalities = modalities
        self._operations: list[CompiledCallback] = []
        self._lines: list[list[int]] = []
        self._weights: list[Floats] = []
        self._weights_size = 0
        self._initial: list[Floats] = []
        self._state_size = 0
        self._saved: list[Ints] = []
        self._work_size = 0

    def finish(self) -> Program:
        """The program of all that has been emitted."""
        return Program(
            self._operations,
            np.array(self._lines, np.int64),
            np.concatenate(self._weights),
            np.concatenate(self._initial),
            np.concatenate(self._saved),
            self._work_size,
        )

    # Sets of rows

    def present(self, modality: int) -> int:
        """Rows in which this modality has evidence."""
        return FIRST_OF_MODALITIES + modality

    def absent(self, modality: int) -> int:
        """Rows in which it has none."""
        return FIRST_OF_MODALITIES + self.modalities + modality

    def alone(self, modality: int) -> int:
        """Rows in which it is the only one."""
        return FIRST_OF_MODALITIES + 2 * self.modalities + modality

    def place(self, index: int) -> int:
        """Rows whose machine has a text in this place of its event ring."""
        return FIRST_OF_MODALITIES + 3 * self.modalities + index

    # Memory

    def work(self, size: int) -> int:
        """Room in each row for so many numbers and what pads the last panel of a product."""
        start = self._work_size
        self._work_size += -(-size // PANEL) * PANEL
        self.reader.require_size("working memory", self._work_size)
        return start

    def state(self, vectors: int, size: int, initial: float = 0.0) -> int:
        """Room in each machine's state for so many vectors, each padded to whole lanes; calls follow the saved form."""
        start, width = self._state_size, padded(size)
        self.reader.require_size("state", start + vectors * width)
        self._initial.append(np.full(vectors * width, initial, np.float32))
        self._saved.append((start + np.arange(vectors)[:, None] * width + np.arange(size)).ravel())
        self._state_size += vectors * width
        return start

    def numbers(self, values: Floats | Sequence[float]) -> int:
        """Numbers of the model, where they stand among its weights; whole lanes, padded with zeros."""
        flat = np.asarray(values, np.float32).ravel()
        start = self._weights_size
        size = max(padded(flat.size), LANES)
        self._weights.append(np.concatenate([flat, np.zeros(size - flat.size, np.float32)]))
        self._weights_size += size
        return start

    def mask(self, size: int) -> int:
        """Eight numbers: 1 where the last lanes of a vector of this size hold something, else 0."""
        used = size - (padded(size) - LANES)
        return self.numbers([float(lane < used) for lane in range(LANES)])

    # Operations

    def emit(self, operation: CompiledCallback, rows: int, *operands: int) -> None:
        """Append an operation for a set of rows."""
        self._operations.append(operation)
        self._lines.append([0, rows, *operands, *[0] * (OPERANDS - 2 - len(operands))])

    def dense(
        self,
        rows: int,
        source: Vector,
        matrix: Floats,
        bias: Floats | None,
        *,
        target: int | None = None,
        adding: bool = False,
        groups: int = 1,
        relu: bool = False,
    ) -> int:
        """target = matrix (out, in) times source plus bias, or += if `adding`; returns where the target is.

        The outputs come in so many groups of equal size, each padded to whole lanes.
        """
        outputs, inputs = matrix.shape
        assert inputs == sum(piece.size for piece in source), "the matrix does not fit its input"
        size = outputs // groups
        columns = (np.arange(groups)[:, None] * padded(size) + np.arange(size)).ravel()
        width = -(-groups * padded(size) // PANEL) * PANEL
        spread = np.zeros((inputs, width), np.float32)
        spread[:, columns] = matrix.T
        shift = np.zeros(width, np.float32)
        if bias is not None:
            shift[columns] = bias
        if target is None:
            target = self.work(width)
        done = 0
        for index, piece in enumerate(source):
            adds = adding or index > 0
            weights = self.numbers(pack(spread[done : done + piece.size], None if adds else shift))
            last = index == len(source) - 1
            self.emit(
                operations.DENSE,
                rows,
                piece.space,
                piece.start,
                piece.size,
                target,
                width,
                weights,
                int(adds),
                int(relu and last),
            )
            done += piece.size
        return target

    def linear(self, rows: int, key: str, source: Vector, size: int, *, relu: bool = False) -> Vector:
        """A linear layer of the model file."""
        matrix, bias = self.reader.linear(key, sum(piece.size for piece in source), size)
        return (Piece(WORK, self.dense(rows, source, matrix, bias, relu=relu), size),)

    def mlp(
        self, rows: int, key: str, source: Vector, hidden: Sequence[int], size: int, *, relu: bool = False
    ) -> tuple[Vector, Vector]:
        """Linear layers with ReLU between them, and behind the last if wanted: the last layer's input and output."""
        for index, width in enumerate(hidden):
            source = self.linear(rows, f"{key}.{2 * index}", source, width, relu=True)
        return source, self.linear(rows, f"{key}.{2 * len(hidden)}", source, size, relu=relu)

    def layer_norm(self, rows: int, key: str, source: int, size: int) -> int:
        """A layer norm of the model file; returns where its output is."""
        gain, shift = self.reader.take(f"{key}.weight", size), self.reader.take(f"{key}.bias", size)
        eps = np.zeros(LANES, np.float32)
        eps[0] = LAYER_NORM_EPS
        filled = np.zeros((2, padded(size)), np.float32)
        filled[0, :size], filled[1, :size] = gain, shift
        target = self.work(size)
        parameters = self.numbers(np.concatenate([eps, filled.ravel()]))
        self.emit(operations.LAYER_NORM, rows, source, target, size, padded(size), parameters, self.mask(size))
        return target

    def softmax(self, rows: int, source: int, size: int, temperature: float, target: int) -> None:
        """target = softmax(source / temperature)."""
        self.emit(operations.SOFTMAX, rows, source, target, padded(size), self.numbers([temperature]), self.mask(size))

    def zero(self, rows: int, vector: Vector) -> None:
        """Set a vector to 0."""
        for piece in vector:
            zeros = self.numbers(np.zeros(piece.size, np.float32))
            self.emit(operations.CONSTANT, rows, zeros, piece.start, piece.size)


def grouped(start: int, groups: int, size: int) -> Vector:
    """A vector that lies in working memory in groups, each padded to whole lanes."""
    return tuple(Piece(WORK, start + group * padded(size), size) for group in range(groups))


def at_state(start: int, size: int) -> Vector:
    """A vector of a machine's state."""
    return (Piece(STATE, start, size),)


def at_work(start: int, size: int) -> Vector:
    """A vector in working memory."""
    return (Piece(WORK, start, size),)


def inverse_root(size: int) -> np.float32:
    """1 / sqrt(size), the scale of attention scores; both operations are exact to the last bit everywhere."""
    return np.float32(1 / math.sqrt(size))
