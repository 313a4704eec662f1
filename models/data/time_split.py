"""Splitting the runs of few machines by time: earlier frames to learn from, later ones to choose by and to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.data.runs import Run, RunSplit
from pipeline.errors import DataError

PARTS = ("train", "validation", "test")


def split_by_time(runs: Sequence[Run], *, validation: float, test: float, gap_frames: int) -> RunSplit:
    """Every machine's first frames for training, later ones for validation, and its last ones for the test.

    The runs of a group follow each other in time. Between two parts `gap_frames` are left out, and besides them the
    rest of a fault that is still there after them: so no part has seen what another one is about. Raises DataError if
    nothing is left of a part.
    """
    parts: dict[str, list[Run]] = {part: [] for part in PARTS}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    for group in groups.values():
        total = sum(len(run) for run in group)
        first = round((1 - validation - test) * total)
        second = total if not test else round((1 - test) * total)
        for part, start, end in (
            ("train", 0, first),
            ("validation", _after_gap(group, first, gap_frames), second),
            ("test", _after_gap(group, second, gap_frames), total),
        ):
            parts[part] += _cut(group, start, end, part)
    for part, wanted in (("train", True), ("validation", True), ("test", test > 0)):
        if wanted and not parts[part]:
            raise DataError(
                f"by time nothing is left for the {part} part of {sum(map(len, runs)):,} frames, with {gap_frames} "
                "frames between the parts and faults kept whole; add data, change the shares, or set split.gap_frames"
            )
    return RunSplit(*(tuple(parts[part]) for part in PARTS))


def _after_gap(group: Sequence[Run], at: int, gap_frames: int) -> int:
    """Where a part begins that follows a cut: behind the gap, and behind a fault that reaches into it."""
    labels = np.concatenate([run.labels for run in group])
    begin = min(at + gap_frames, len(labels))
    while 0 < begin < len(labels) and labels[begin] > 0 and labels[begin] == labels[begin - 1]:
        begin += 1
    return begin


def _cut(group: Sequence[Run], start: int, end: int, part: str) -> list[Run]:
    """What lies between two frames of a group's runs, as runs of the part."""
    pieces, offset = [], 0
    for run in group:
        low, high = max(start - offset, 0), min(end - offset, len(run))
        if low < high:
            piece = run.between(low, high)
            pieces.append(replace(piece, name=f"{run.name}[{low}:{high}]", group=f"{run.group} ({part})"))
        offset += len(run)
    return pieces
