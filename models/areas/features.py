"""What a network of areas is given about a frame: log odds and their running means, and each utility's summed evidence.

Compiled: training and serving compute the same bits, frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.areas.graph import AreaGraph
from pipeline.arrays import Bools, Floats
from pipeline.compiled import CompiledFunction, Notify

SPEEDS: Final = (np.float32(1 / 4), np.float32(1 / 16))
"""Share of a new frame in the fast and in the slow running mean."""
LOWEST, HIGHEST = np.float32(-4), np.float32(8)
"""Limits of log odds."""
EVIDENCE: Final = 6
"""P: of the log odds and of both running means, the sum over all machines but the one with the largest, and the second
largest. A shared cause must not rest on one machine."""
SCALE: Final = np.float32(0.25)
"""Log odds as inputs are multiplied by it."""


@dataclass(frozen=True, slots=True)
class AreaInputs:
    """One frame of one area as its machines' answers; N machines, M modalities, C classes, U utilities."""

    log_probabilities: Floats
    """(N, C) fused; not used where no modality is present."""
    modality_log_probabilities: Floats
    """(N, M, C)"""
    present: Bools
    """(N, M)"""
    embeddings: tuple[Floats, ...]
    """Of each modality (N, D_m); not used where it is absent."""
    texts: Floats
    """(X, D) event texts."""
    text_machines: Bools
    """(X, N): the machines that a text is about."""
    text_utilities: Bools
    """(X, U): the utilities that it is about."""


@dataclass(frozen=True, slots=True)
class AreaFeatures:
    """A frame of an area as a network takes it."""

    machines: tuple[Floats, ...]
    """Of each modality (N, 3 C + D_m): log odds, both running means, embedding; 0 where it is absent."""
    present: Bools
    evidence: Floats
    """(U, C, P)"""
    log_probabilities: Floats
    """(N, C) fused, uniform for a machine without any modality."""
    modality_log_probabilities: Floats
    """(N, M, C), uniform where absent."""
    texts: Floats
    text_machines: Bools
    text_utilities: Bools


def machine_feature_sizes(classes: int, embeddings: Sequence[int]) -> tuple[int, ...]:
    """Numbers of a machine's features for each modality."""
    return tuple((1 + len(SPEEDS)) * classes + size for size in embeddings)


def initial_averages(machines: int, modalities: int, classes: int) -> Floats:
    """State (N, 1 + M, 2, C) of machines that nothing is known about."""
    return np.full((machines, 1 + modalities, len(SPEEDS), classes), LOWEST, np.float32)


def _advance(
    fused: Floats, alone: Floats, present: Bools, quiet: Bools, averages: Floats, odds: Floats, there: Bools
) -> None:
    """Log odds (N, 1 + M, C) of a frame, bounded, and the running means with them.

    Odds are against the more probable quiet class, so no logarithm is needed.
    """
    machines, series, classes = odds.shape
    for n in range(machines):
        there[n, 0] = False
        for s in range(1, series):
            there[n, s] = present[n, s - 1]
            if present[n, s - 1]:
                there[n, 0] = True
        for s in range(series):
            if not there[n, s]:
                for c in range(classes):
                    odds[n, s, c] = np.float32(0)
                continue
            values = fused[n] if s == 0 else alone[n, s - 1]
            rest = np.float32(-1e30)
            for c in range(classes):
                if quiet[c] and values[c] > rest:
                    rest = values[c]
            for c in range(classes):
                value = min(max(values[c] - rest, LOWEST), HIGHEST)
                odds[n, s, c] = value
                for speed in range(2):
                    mean = averages[n, s, speed, c]
                    averages[n, s, speed, c] = mean + SPEEDS[speed] * (value - mean)


def _sum_evidence(odds: Floats, averages: Floats, there: Bools, members: Bools, evidence: Floats) -> None:
    """Evidence (U, C, P) from the machines that share a utility and are there; with fewer than two there is none."""
    utilities, classes, _ = evidence.shape
    machines = odds.shape[0]
    for u in range(utilities):
        for c in range(classes):
            for part in range(3):
                total, largest, second, count = np.float32(0), np.float32(-1e30), np.float32(-1e30), 0
                for n in range(machines):
                    if not (members[u, n] and there[n, 0]):
                        continue
                    value = odds[n, 0, c] if part == 0 else averages[n, 0, part - 1, c]
                    count += 1
                    total += value
                    if value > largest:
                        largest, second = value, largest
                    elif value > second:
                        second = value
                evidence[u, c, 2 * part] = total - largest if count > 1 else np.float32(0)
                evidence[u, c, 2 * part + 1] = second if count > 1 else LOWEST


_SOURCES = (Path(__file__),)
_ADVANCE: Final = CompiledFunction(
    _advance,
    "void(f4[:, ::1], f4[:, :, ::1], b1[:, ::1], b1[::1], f4[:, :, :, ::1], f4[:, :, ::1], b1[:, ::1])",
    _SOURCES,
    what="the inputs of area networks",
)
_SUM_EVIDENCE: Final = CompiledFunction(
    _sum_evidence,
    "void(f4[:, :, ::1], f4[:, :, :, ::1], b1[:, ::1], b1[:, ::1], f4[:, :, ::1])",
    _SOURCES,
    what="the evidence of areas",
)


class FeatureBuilder:
    """Features of frames of one area, whose running means it keeps."""

    def __init__(self, graph: AreaGraph, modalities: int, quiet: Sequence[int], notify: Notify) -> None:
        """`quiet` are the classes without a fault: normal, and recovering if there is one."""
        classes = graph.faults.shape[1]
        self.graph = graph
        self.averages = initial_averages(graph.machines, modalities, classes)
        self._quiet = np.isin(np.arange(classes), quiet)
        self._odds = np.zeros((graph.machines, 1 + modalities, classes), np.float32)
        self._there = np.zeros((graph.machines, 1 + modalities), np.bool_)
        self._advance = _ADVANCE.load(notify)
        self._sum_evidence = _SUM_EVIDENCE.load(notify)

    def step(self, inputs: AreaInputs) -> AreaFeatures:
        """Features of the next frame."""
        fused, alone = inputs.log_probabilities, inputs.modality_log_probabilities
        present = np.ascontiguousarray(inputs.present)
        classes = fused.shape[1]
        self._advance(
            np.ascontiguousarray(fused),
            np.ascontiguousarray(alone),
            present,
            self._quiet,
            self.averages,
            self._odds,
            self._there,
        )
        evidence = np.zeros((self.graph.utilities, classes, EVIDENCE), np.float32)
        self._sum_evidence(self._odds, self.averages, self._there, self.graph.members, evidence)
        uniform = np.float32(-np.log(classes))
        machines = []
        for m, embedding in enumerate(inputs.embeddings):
            known = self._odds[:, m + 1], self.averages[:, m + 1, 0], self.averages[:, m + 1, 1]
            joined = np.concatenate([*(SCALE * part for part in known), embedding], 1, dtype=np.float32)
            machines.append(np.where(present[:, m, None], joined, np.float32(0)))
        return AreaFeatures(
            machines=tuple(machines),
            present=present,
            evidence=evidence,
            log_probabilities=np.where(self._there[:, :1], fused, uniform).astype(np.float32),
            modality_log_probabilities=np.where(present[:, :, None], alone, uniform).astype(np.float32),
            texts=inputs.texts,
            text_machines=inputs.text_machines,
            text_utilities=inputs.text_utilities,
        )
