"""What a step of adaptive fusion over ring attention and texts costs, for a thousand machines on one core."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any, Final

import numpy as np
import torch

from models.configs.diagnoser import DiagnoserConfig
from models.configs.fusion import AdaptiveConfig
from models.configs.sensors import RingAttentionConfig
from models.configs.text import TextConfig
from models.diagnoser import Diagnoser
from models.encoders.tokenizer import Tokenizer
from models.evaluation.torch_reference import TorchRunner
from models.network_file import compile_network
from pipeline.frames import EventText, Frames, StepRunner

TOLD: Final = (0.0, 0.1, 1.0)
"""Shares of the machines that have a text which is not yet forgotten."""
USUAL: Final = 0.1

STEPS: Final = 40
"""Steps after each telling; a text is remembered for 60 frames."""

TORCH_STEPS: Final = 10
"""Steps of torch, beside as many of the compiled step as take about as long."""

_WORDS = ("pump", "valve", "reactor", "leaks", "stuck", "noise", "again", "checked", "bearing", "hot")
_APART = 32
"""Machines begin at different times, up to so many frames apart, so that their rings stand at different places."""

Clock = Callable[[], float]


def adaptive_network(seed: int, *, variables: int, classes: int) -> Diagnoser:
    """All at its default size and untrained; what it has learned would not change its cost."""
    text = TextConfig()
    config = DiagnoserConfig(
        variables=variables,
        classes=classes,
        sensors=RingAttentionConfig(),
        text=text,
        fusion=AdaptiveConfig(),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Diagnoser(config, Tokenizer.fit(_sayings(seed), text)).eval()


def bench_adaptive(
    frames: list[Frames],
    *,
    variables: int,
    classes: int,
    rounds: int,
    seed: int,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Medians over all steps of all rounds, in which shares of machines with text take turns, and torch with them.

    All machines stand in each of the frames, in slots from 0 on.

    Texts are encoded once each, when they come, and that is not counted; reading them at every step is.
    """
    network = adaptive_network(seed, variables=variables, classes=classes)
    facts: dict[str, Any] = {
        "name": "adaptive",
        "digest": "1" * 64,
        "classes": tuple(f"class {k}" for k in range(classes)),
    }
    compiled, reference = compile_network(network, **facts), TorchRunner(network, **facts)
    machines = len(frames[0].slots)
    config = network.config.sensors
    assert isinstance(config, RingAttentionConfig)
    _fill(compiled, frames, config.window + _APART, np.random.default_rng(seed).integers(_APART, size=machines))
    saved = compiled.save(np.arange(machines))

    by_share: dict[float, list[float]] = {share: [] for share in TOLD}
    ratios: list[float] = []
    for _ in range(rounds):
        by_torch = median(_seconds(reference, saved, frames, USUAL, TORCH_STEPS, clock))
        for share in TOLD:
            own = _seconds(compiled, saved, frames, share, STEPS, clock)
            by_share[share] += own
            if share == USUAL:
                ratios.append(by_torch / median(own))
    per_second = {share: round(machines / median(found)) for share, found in by_share.items()}
    return {
        "adaptive_machine_steps_per_second": per_second[USUAL],
        "adaptive_vs_torch": round(median(ratios), 2),
        "adaptive": {
            "machines": machines,
            "share_of_machines_with_text": USUAL,
            "sensors": {key: getattr(config, key) for key in ("kind", "window", "size", "heads", "layers")},
            "variables": variables,
            "machine_steps_per_second_by_share_with_text": {str(share): found for share, found in per_second.items()},
            "fastest_round_ms_by_share_with_text": {
                str(share): round(min(found) * 1e3, 3) for share, found in by_share.items()
            },
            "saved_state_bytes": len(saved[0]),
        },
    }


def _sayings(seed: int) -> list[str]:
    """Texts of four words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(_WORDS, 4)) for _ in range(50)]


def _fill(runner: StepRunner, frames: list[Frames], count: int, starts: np.ndarray) -> None:
    """Step so many rounds, in which each machine stands from its start on."""
    for number in range(count):
        given = frames[number % len(frames)]
        runner.step(_part(given, starts[given.slots] <= number))


def _part(frames: Frames, rows: np.ndarray) -> Frames:
    """The round without the other rows."""
    return Frames(
        slots=frames.slots[rows],
        start_ms=frames.start_ms[rows],
        period_ms=frames.period_ms,
        values=frames.values[rows],
        observed=frames.observed[rows],
        age_ms=frames.age_ms[rows],
        reset=frames.reset[rows],
        reset_reason=frames.reset_reason[rows],
        revision=frames.revision[rows],
    )


def _seconds(
    runner: StepRunner, saved: list[bytes], frames: list[Frames], share: float, steps: int, clock: Clock
) -> list[float]:
    """Of each of so many steps from the saved states on, after one that tells this share of the machines something."""
    for slot, state in enumerate(saved):
        runner.load(slot, state)
    said, told = _sayings(0), round(share * len(saved))
    telling = _part(frames[0], np.ones(len(frames[0].slots), bool))
    telling.texts = [
        (row, EventText("", int(telling.start_ms[row]), said[row % len(said)]))
        for row in np.flatnonzero(telling.slots < told).tolist()
    ]
    runner.prepare([telling])
    runner.step(telling)
    seconds = []
    for number in range(steps):
        given = frames[number % len(frames)]
        began = clock()
        runner.step(given)
        seconds.append(clock() - began)
    return seconds
