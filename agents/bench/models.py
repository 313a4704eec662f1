"""`faultline bench models`: what a step of the models costs, beside torch's step and beside running windows again."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import mean, median, quantiles
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from agents.bench.adaptive import bench_adaptive
from models.configs.diagnoser import DiagnoserConfig
from models.configs.sensors import SeqLSTMConfig
from models.diagnoser import Diagnoser
from models.encoders.lstm import SeqLSTM
from models.evaluation.torch_reference import TorchRunner
from models.network_file import compile_network
from models.training.threads import limit_threads
from pipeline.frames import Frames, StepRunner

VARIABLES, CLASSES = 52, 21
WINDOW, MACHINES = 500, 128
ROWS: Final = (1, 12, 128, 200, 1024)

Clock = Callable[[], float]

_DIFFERENT = 16
"""Rounds with readings of their own, which take turns."""


def paper_network(seed: int) -> Diagnoser:
    """The untrained 52-40-25 LSTM over 52 variables with its head; what it has learned would not change its cost."""
    config = DiagnoserConfig(variables=VARIABLES, classes=CLASSES, sensors=SeqLSTMConfig(mask_inputs=False), text=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Diagnoser(config, None).eval()


def rounds_of(rows: int, seed: int) -> list[Frames]:
    """Rounds in which the same machines stand in changing order."""
    rng = np.random.default_rng(seed)
    return [
        Frames(
            slots=rng.permutation(rows).astype(np.int64),
            start_ms=np.full(rows, number * 1000, np.int64),
            period_ms=1000,
            values=rng.standard_normal((rows, VARIABLES), np.float32),
            observed=np.ones((rows, VARIABLES), bool),
            age_ms=np.zeros((rows, VARIABLES), np.int64),
            reset=np.zeros(rows, bool),
            reset_reason=np.zeros(rows, np.int64),
            revision=np.zeros(rows, np.int64),
        )
        for number in range(_DIFFERENT)
    ]


def step_seconds(runner: StepRunner, rounds: list[Frames], steps: int, clock: Clock) -> list[float]:
    """Of each of so many steps, after as many as there are different rounds to warm up."""
    for frames in rounds:
        runner.step(frames)
    seconds = []
    for number in range(steps):
        frames = rounds[number % len(rounds)]
        began = clock()
        runner.step(frames)
        seconds.append(clock() - began)
    return seconds


def window_seconds(network: Diagnoser, windows: torch.Tensor, clock: Clock) -> float:
    """Running whole windows (B, T, V) from a fresh state to the answer of their last frame, as fast as torch can."""
    assert isinstance(network.sensors, SeqLSTM)
    with torch.inference_mode():
        began = clock()
        y = (windows - network.mean) / network.std
        for layer in network.sensors.layers:
            assert isinstance(layer, nn.LSTM)
            y, _ = layer(y)
        torch.softmax(network.sensors.head(y[:, -1]), dim=1)
        return clock() - began


def bench_models(
    rounds: int = 5, seed: int = 0, clock: Clock = time.perf_counter, *, adaptive_machines: int = 1024
) -> dict[str, Any]:
    """Medians over rounds in which all that is compared takes turns, on one core."""
    limit_threads(1)
    network = paper_network(seed)
    facts: dict[str, Any] = {
        "name": "paper-lstm",
        "digest": "0" * 64,
        "classes": tuple(f"class {k}" for k in range(CLASSES)),
    }
    compiled = compile_network(network, **facts)
    runners: dict[str, StepRunner] = {"compiled": compiled, "torch": TorchRunner(network, **facts)}

    windows = torch.from_numpy(np.random.default_rng(seed).standard_normal((MACHINES, WINDOW, VARIABLES), np.float32))
    machines = rounds_of(MACHINES, seed)
    window_seconds(network, windows[:, :10], clock)
    ratios, rerun, steps, single = [], [], [], []
    per_row: dict[str, dict[int, list[float]]] = {name: {rows: [] for rows in ROWS} for name in runners}
    for number in range(rounds):
        rerun.append(window_seconds(network, windows, clock))
        # As long as the window takes and their mean, so that what else the machine does hits both alike.
        steps.append(mean(step_seconds(compiled, machines, 400, clock)))
        ratios.append(rerun[-1] / steps[-1])
        single += step_seconds(compiled, rounds_of(1, seed + number), 1000, clock)
        for rows in ROWS:
            given = rounds_of(rows, seed + number)
            for name, runner in runners.items():
                seconds = step_seconds(runner, given, max(5, 400 // rows), clock)
                per_row[name][rows].append(median(seconds) / rows)
    adaptive = bench_adaptive(
        rounds_of(adaptive_machines, seed),
        variables=VARIABLES,
        classes=CLASSES,
        rounds=rounds,
        seed=seed,
        clock=clock,
    )
    return {
        "step_vs_window_500": round(median(ratios), 1),
        "single_step_p50_us": round(median(single) * 1e6, 2),
        "adaptive_machine_steps_per_second": adaptive.pop("adaptive_machine_steps_per_second"),
        "adaptive_vs_torch": adaptive.pop("adaptive_vs_torch"),
        "single_step_p99_us": round(quantiles(single, n=100)[98] * 1e6, 2),
        "window_500_of_128_machines_ms": round(median(rerun) * 1e3, 3),
        "step_of_128_machines_ms": round(median(steps) * 1e3, 4),
        "us_per_row": {
            name: {str(rows): round(median(found) * 1e6, 3) for rows, found in by_rows.items()}
            for name, by_rows in per_row.items()
        },
        "rounds": rounds,
        **adaptive,
    }
