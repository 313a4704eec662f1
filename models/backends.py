"""Backends: which implementation of the step a model runs on, chosen by setting or by trial on this very machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from models.diagnoser import Diagnoser
from models.numpy_runner import NumpyRunner
from models.numpy_runner import unsupported as unsupported_by_numpy
from models.onnx_runner import OnnxRunner
from models.onnx_runner import missing as onnx_missing
from models.onnx_runner import unsupported as unsupported_by_onnx
from models.runner import TorchRunner
from pipeline.errors import SettingsError
from pipeline.frames import EventText, Frames, StepResult, StepRunner

Backend = Literal["torch", "numpy", "onnx"]
BackendChoice = Literal["auto", "torch", "numpy", "onnx"]
Clock = Callable[[], float]

TOLERANCE: Final = 1e-5
"""How far a backend's probabilities may be from torch's."""

_CLEARLY: Final = 1.3
"""A backend must be this many times as fast as an earlier one of `_PREFERRED` to be taken instead, so that the choice
does not change from start to start."""

_PREFERRED: Final[tuple[Backend, ...]] = ("numpy", "torch", "onnx")
_CHECKED_MACHINES, _CHECKED_ROUNDS = 12, 24
_TIMED_ROWS, _TIMED_ROUNDS = (1, 12, 128), 5


@dataclass(frozen=True, slots=True)
class Trial:
    """How a backend did with one model on this machine."""

    backend: Backend
    runner: StepRunner
    difference: float
    """Largest distance of any probability from torch's."""
    steady: bool
    """Whether a machine's bits do not depend on the others in its round."""
    seconds: float
    """For one round of each size, at its best."""

    @property
    def passed(self) -> bool:
        return self.steady and self.difference <= TOLERANCE


def choose_runner(
    network: Diagnoser,
    *,
    name: str,
    digest: str,
    classes: tuple[str, ...],
    backend: BackendChoice = "auto",
    clock: Clock = time.perf_counter,
) -> StepRunner:
    """A runner on the backend of this name; `auto` is the fastest that agrees with torch.

    Raises SettingsError if the named backend does not know the network, MissingExtraError if it is not installed.
    """
    if backend != "auto":
        return build_runner(network, backend, name=name, digest=digest, classes=classes)
    runners: dict[Backend, StepRunner] = {}
    for kind in candidates(network):
        try:
            runners[kind] = build_runner(network, kind, name=name, digest=digest, classes=classes)
        except SettingsError:  # an encoder that cannot be exported
            continue
    return best(try_runners(network, runners, clock)).runner if len(runners) > 1 else runners["torch"]


def build_runner(
    network: Diagnoser, backend: Backend, *, name: str, digest: str, classes: tuple[str, ...]
) -> StepRunner:
    """A fresh runner on this backend; raises SettingsError or MissingExtraError."""
    what = {"torch": None, "numpy": unsupported_by_numpy(network), "onnx": unsupported_by_onnx(network)}[backend]
    if what is not None:
        raise SettingsError(
            f"backend {backend} cannot run model {name}: it does not know its {what}; set the backend to torch or auto"
        )
    kinds: dict[Backend, type[TorchRunner | NumpyRunner | OnnxRunner]] = {
        "torch": TorchRunner,
        "numpy": NumpyRunner,
        "onnx": OnnxRunner,
    }
    return kinds[backend](network, name=name, digest=digest, classes=classes)


def candidates(network: Diagnoser) -> list[Backend]:
    """Backends to be tried for this network, the preferred one first.

    Exporting takes seconds, so ONNX Runtime is tried only for what numpy does not know, and where it is installed.
    """
    if unsupported_by_numpy(network) is None:
        return ["numpy", "torch"]
    return ["torch"] if unsupported_by_onnx(network) or onnx_missing() else ["torch", "onnx"]


def try_runners(network: Diagnoser, runners: dict[Backend, StepRunner], clock: Clock) -> list[Trial]:
    """Check fresh runners of one model against its torch runner, which must be among them, and time them all.

    The runners forget what they were shown.
    """
    stream = _Stream(network, _CHECKED_MACHINES)
    apart = dict.fromkeys(runners, 0.0)
    for _ in range(_CHECKED_ROUNDS):
        frames = stream.next_round()
        expected = runners["torch"].step(frames)
        for backend, runner in runners.items():
            if backend != "torch":
                apart[backend] = max(apart[backend], _distance(runner.step(frames), expected))
    seconds = dict.fromkeys(runners, 0.0)
    for rows in _TIMED_ROWS:
        stream = _Stream(network, rows, told=0.0)
        rounds = [stream.next_round(everyone=True) for _ in range(_TIMED_ROUNDS)]
        times: dict[Backend, list[float]] = {backend: [] for backend in runners}
        # Taken in turn, so that what else the machine does meanwhile hits them alike.
        for frames in rounds:
            for backend, runner in runners.items():
                began = clock()
                runner.step(frames)
                times[backend].append(clock() - began)
        for backend in runners:
            seconds[backend] += min(times[backend])
    slots = np.arange(max(*_TIMED_ROWS, _CHECKED_MACHINES))
    for runner in runners.values():
        runner.reset(slots)
        runner.prepare([])
    return [
        Trial(backend, runner, apart[backend], getattr(runner, "steady", True), seconds[backend])
        for backend, runner in runners.items()
    ]


def best(trials: Sequence[Trial]) -> Trial:
    """The first that passed, unless a later one that passed is clearly faster."""
    passed = sorted((trial for trial in trials if trial.passed), key=lambda trial: _PREFERRED.index(trial.backend))
    chosen = passed[0]
    for trial in passed[1:]:
        if trial.seconds * _CLEARLY < chosen.seconds:
            chosen = trial
    return chosen


def _distance(result: StepResult, expected: StepResult) -> float:
    pairs = [
        (result.probabilities, expected.probabilities),
        (result.modality_probabilities, expected.modality_probabilities),
        (result.weights, expected.weights),
    ]
    if result.attention is not None and expected.attention is not None:
        pairs.append((result.attention, expected.attention))
    if not np.array_equal(result.present, expected.present) or any(np.isnan(mine).any() for mine, _ in pairs):
        return np.inf
    return max(float(np.abs(mine - theirs).max()) for mine, theirs in pairs)


class _Stream:
    """Invented rounds for a network: readings with gaps, texts of words it knows, restarts; always the same ones."""

    def __init__(self, network: Diagnoser, machines: int, *, told: float = 0.1) -> None:
        self._rng = np.random.default_rng(0)
        self._machines, self._told, self._number = machines, told, 0
        self._mean, self._std = network.mean.cpu().numpy(), network.std.cpu().numpy()
        self._words = network.text.tokenizer.vocabulary if network.text is not None else ()

    def next_round(self, *, everyone: bool = False) -> Frames:
        rng, period_ms = self._rng, 1000
        some = self._machines if everyone else int(rng.integers(1, self._machines + 1))
        shape = (some, len(self._mean))
        values = (self._mean + self._std * rng.standard_normal(shape)).astype(np.float32)
        if not everyone:
            values[rng.random(shape) < 0.1] = np.nan
            values[rng.random(some) < 0.1] = np.nan
        start_ms = self._number * period_ms
        texts = [
            (row, EventText("", start_ms, " ".join(rng.choice(self._words, 4))))
            for row in range(some)
            if self._words and rng.random() < self._told
        ]
        self._number += 1
        return Frames(
            slots=rng.permutation(self._machines)[:some].astype(np.int64),
            start_ms=np.full(some, start_ms, np.int64),
            period_ms=period_ms,
            values=values,
            observed=~np.isnan(values) & (rng.random(shape) < 0.8),
            age_ms=np.zeros(shape, np.int64),
            reset=rng.random(some) < (0 if everyone else 0.05),
            reset_reason=np.zeros(some, np.int64),
            revision=np.zeros(some, np.int64),
            texts=texts,
        )
