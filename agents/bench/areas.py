"""`faultline bench areas`: what a frame of an area costs, by the rules and by every kind of network, side by side."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any, Final, get_args

import numpy as np
import torch

from agents.replay.shipped import demo_model
from models.areas.config import AreaNetworkConfig, Kind
from models.areas.load import load_area_runner
from models.areas.networks.graphs import build_area_network
from models.areas.stepping.model_file import write_area_model
from models.model_file import Model, read_model
from models.training.threads import limit_threads
from pipeline.areas.frames import AreaFrame, AreaRunner, Presence
from pipeline.areas.layout import AreaLayout, area_layouts
from pipeline.config.profile import PlantProfile, parse_profile
from pipeline.frames import EventText

_FRAMES: Final = 240
_TEXT_EVERY: Final = 20
"""Frames from one text about a utility to the next."""
_EMBEDDINGS: Final = (256, 136)
"""Sizes of the shipped model's embeddings, which these networks do not read."""
_SECTION: Final = """
areas:
  hall:
    utilities:
      cooling_water: {{faults: [idv_4, idv_5, idv_11, idv_12], machines: [{first}]}}
      steam: {{faults: [idv_16], machines: [{last}]}}
"""
Clock = Callable[[], float]


def bench_areas(
    machines: int = 12, rounds: int = 5, seed: int = 0, width: int = 16, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """Medians over rounds in which all models take turns on the same frames, on one core; networks are untrained and
    read texts by the shipped model of machines, as the rule `log_odds with texts` does."""
    limit_threads(1)
    plant, model = _plant(machines), read_model(demo_model())
    (layout,) = area_layouts(plant).values()
    frames = list(_frames(layout, model.header.classes, seed))
    with tempfile.TemporaryDirectory() as folder:
        runners = {
            name: load_area_runner(path, plant, _quiet) for name, path in _models(Path(folder), model, width, seed)
        }
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner.load_code()
        runner.reserve(1)
        _pass(runner, frames, clock)
    for _ in range(rounds):
        for name, runner in runners.items():
            seconds[name].append(_pass(runner, frames, clock))
    return {
        "machines": machines,
        "utilities": len(layout.utilities),
        "width": width,
        "ms_per_area_frame": {name: round(1e3 * median(found), 3) for name, found in seconds.items()},
        "rounds": rounds,
    }


def _pass(runner: AreaRunner, frames: list[AreaFrame], clock: Clock) -> float:
    """Seconds per frame."""
    began = clock()
    for frame in frames:
        runner.step(frame)
    return (clock() - began) / len(frames)


def _plant(machines: int) -> PlantProfile:
    """The shipped profile with an area whose first machines share one utility, and whose last ones another."""
    shipped = (resources.files("pipeline.config") / "profiles" / "tennessee_eastman.yaml").read_text("utf-8")
    names = [f"te-{number:02}" for number in range(machines)]
    third = machines // 3
    section = _SECTION.format(first=", ".join(names[:-third]), last=", ".join(names[third:]))
    return parse_profile(shipped + section, where="bench")


def _models(folder: Path, model: Model, width: int, seed: int) -> Iterator[tuple[str, str]]:
    """Names and files of what is compared."""
    yield "log_odds", "log_odds"
    rule = folder / "rule.yaml"
    rule.write_text(f"{{rule: log_odds, threshold: 1.2, low: 0, high: 6, texts: 8, text_model: {model.path}}}")
    yield "log_odds with texts", str(rule)
    for kind in get_args(Kind):
        path = folder / f"{kind}.faultline"
        fields: dict[str, Any] = {
            "name": kind,
            "machine_type": model.header.machine_type,
            "frame_period_ms": model.header.essence.frame_period_ms,
            "machine_model": model.header.hash,
            "classes": model.header.classes,
            "modalities": ("sensors", "text"),
            "embeddings": _EMBEDDINGS,
            "network": AreaNetworkConfig(kind=kind, width=width, heads=2),
            "threshold": 0.0,
            "training": {},
        }
        shape = write_area_model(path, {}, model, **fields).shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = build_area_network(fields["network"], shape)
        tensors = {key: value.detach().numpy() for key, value in network.state_dict().items()}
        write_area_model(path, tensors, model, **fields)
        yield kind, str(path)


def _frames(layout: AreaLayout, classes: tuple[str, ...], seed: int) -> Iterator[AreaFrame]:
    """Frames in which every tenth modality is missing, and now and then somebody writes about a utility."""
    rng, machines = np.random.default_rng(seed), len(layout.machines)
    for number in range(_FRAMES):
        there = rng.random((machines, 2)) < 0.9
        probabilities = np.zeros((machines, layout.widest), np.float32)
        shares = rng.dirichlet([0.2] * len(classes), machines)
        probabilities[:, : len(classes)] = np.where(np.asarray(there.any(axis=1))[:, None], shares, 0)
        said = [(0, EventText(f"{number}", number * layout.period_ms, "cooling water is too warm"))]
        yield AreaFrame(
            layout=layout,
            slot=0,
            start_ms=number * layout.period_ms,
            reset=number == 0,
            skipped=0,
            presence=np.where(there.any(axis=1), int(Presence.ACTIVE), int(Presence.OFFLINE)),
            age_ms=np.zeros(machines, np.int64),
            probabilities=probabilities,
            modality_present=there,
            modality_answer=np.where(there, rng.integers(0, len(classes), there.shape), -1),
            modality_confidence=np.where(there, rng.random(there.shape), 0).astype(np.float32),
            modality_age_ms=np.zeros(there.shape, np.int64),
            embedded=np.zeros(there.shape, np.bool_),
            embeddings=(),
            texts=said if number % _TEXT_EVERY == 0 else [],
        )


def _quiet(line: str) -> None:
    """Compiling is done before anything is measured."""
