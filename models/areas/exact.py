"""Logarithms and softmax over arrays with the same bits on every processor, for rules that numpy computes otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numba
import numpy as np

from models.stepping.kernels.operation import SOURCES
from models.stepping.kernels.vectors import exponentiate
from pipeline.arrays import Floats
from pipeline.compiled import CompiledFunction, Notify, compile_all, logarithm
from pipeline.compiled.logarithm import log

_LANES: Final = 8


def _logs(values: Floats, least: float, logs: Floats) -> None:
    for i in range(len(values)):
        logs[i] = np.float32(log(max(np.float64(values[i]), least)))


def _softmax(scores: Floats, count: int) -> None:
    total = exponentiate(scores, 0, count)
    for i in range(count):
        scores[i] /= total


_FLOATS: Final[Any] = numba.types.Array(numba.float32, 1, "C")
_LOGS: Final = CompiledFunction(
    _logs, numba.void(_FLOATS, numba.float64, _FLOATS), [Path(__file__), Path(logarithm.__file__)], name="area_logs"
)
_SOFTMAX: Final = CompiledFunction(
    _softmax, numba.void(_FLOATS, numba.int64), [Path(__file__), *SOURCES], name="area_softmax"
)


def load_code(notify: Notify) -> None:
    """Load compiled code now; `notify` gets a line if it has to be compiled first."""
    compile_all([_LOGS, _SOFTMAX], "the rules of areas", notify)


def logarithms(values: Floats, least: float) -> Floats:
    """Natural logarithms of numbers, or of `least` where they are smaller."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    logs = np.empty_like(flat)
    _LOGS.load(lambda _: None)(flat, least, logs)
    return logs.reshape(values.shape)


def softmax(scores: Floats) -> Floats:
    """Probabilities (K,) in proportion to e to the power of each score (K,)."""
    padded = np.zeros(-(-len(scores) // _LANES) * _LANES, np.float32)
    padded[: len(scores)] = scores
    _SOFTMAX.load(lambda _: None)(padded, len(scores))
    return padded[: len(scores)].copy()
