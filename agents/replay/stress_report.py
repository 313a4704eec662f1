"""`faultline stress`: how far each kind of mess, level by level, costs accuracy; a table and a plot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.replay.replay import replay_in_memory
from agents.replay.stress import apply_stress, parse_stress
from pipeline.config.profile import PlantProfile
from pipeline.config.settings import Settings
from pipeline.files.atomic_file import replacing
from pipeline.frames import StepRunner
from pipeline.wire.records import Record

LEVELS: Mapping[str, Sequence[str]] = {
    "drop": ("drop=0.1", "drop=0.3", "drop=0.5", "drop=0.7", "drop=0.9"),
    "late": ("late=0.1:10m", "late=0.3:10m", "late=0.5:10m", "late=0.7:10m", "late=0.9:10m"),
    "shuffle": ("shuffle=30s", "shuffle=3m", "shuffle=10m", "shuffle=30m", "shuffle=2h"),
    "duplicate": ("duplicate=0.1", "duplicate=0.3", "duplicate=0.5", "duplicate=0.7", "duplicate=0.9"),
    "no-text": ("no-text",),
}
"""Kinds of stress with their levels, mildest first."""

Row = dict[str, Any]


def stress_report(
    recording: Path,
    settings: Settings,
    profile: PlantProfile,
    runners: Callable[[], Mapping[str, StepRunner]],
    partition_of: Callable[[bytes], int],
    *,
    seed: int,
    on_row: Callable[[Row], None],
) -> list[Row]:
    """Replay the recording undisturbed and at every level; `runners` gives fresh ones each time."""
    rows: list[Row] = []
    for kind, level in [("none", ""), *((kind, level) for kind, levels in LEVELS.items() for level in levels)]:
        change: Callable[[Iterator[Record]], Iterator[Record]] = iter
        if level:
            change = partial(apply_stress, stress=parse_stress(level), rng=np.random.default_rng(seed))
        report = asyncio.run(replay_in_memory(recording, settings, profile, runners(), partition_of, change=change))
        fused = report.scores.get("fused") or {}
        row = {
            "kind": kind,
            "stress": level or "none",
            "late": report.late,
            "accuracy": fused.get("accuracy"),
            "macro_f1": fused.get("macro_f1"),
            "detection_rate": fused.get("detection_rate"),
            "false_alarm_rate": fused.get("false_alarm_rate"),
        }
        rows.append(row)
        on_row(row)
    return rows


def draw_stress(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against level, one line a kind of stress; needs matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    calm = next(row["accuracy"] for row in rows if row["kind"] == "none")
    for kind in LEVELS:
        points = [row for row in rows if row["kind"] == kind]
        axes.plot(range(len(points) + 1), [calm, *(row["accuracy"] for row in points)], marker="o", label=kind)
        axes.annotate(points[-1]["stress"], (len(points), points[-1]["accuracy"]), fontsize=8)
    axes.set_xlabel("level of stress (0 = undisturbed)")
    axes.set_ylabel("accuracy of the fused diagnosis")
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix(".") or "png", dpi=120)
