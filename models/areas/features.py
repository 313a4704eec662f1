"""What a network of areas is given about a frame: log odds and their running means, and each utility's summed evidence.

Compiled: training and serving compute the same bits, frame by frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.areas.config import AreaShape
from models.areas.graph import AreaGraph
from pipeline.arrays import Bools, Floats, Ints
from pipeline.compiled import CompiledFunction, Notify
from pipeline.compiled.logarithm import log

SPEEDS: Final = (np.float32(1 / 4), np.float32(1 / 16))
"""Share of a new frame in the fast and in the slow running mean."""
LOWEST, HIGHEST = np.float32(-4), np.float32(8)
"""Limits of log odds."""
FLOOR: Final = np.float32(5e-4)
"""Smaller probabilities count as this; diagnoses do not carry them."""
MOST_EVIDENCE: Final = np.float32(6)
"""As evidence log odds count from 0 to this: a machine that does not show a fault yet is no evidence against it."""
EVIDENCE: Final = 7
"""P: of the log odds and of both running means, the sum over all machines but the one with the largest, and the second
largest; and the log odds from 0 up by the texts about the utility. A shared cause must not rest on one machine."""
SCALE: Final = np.float32(0.25)
"""Log odds as inputs are multiplied by it."""
TEXT_FRAMES: Final = 8
"""For how many frames an event text is a node of its area's graph."""


@dataclass(frozen=True, slots=True)
class AreaInputs:
    """One frame of one area; N machines, M modalities, C classes, U utilities, X event texts of D numbers."""

    probabilities: Floats
    """(N, C) fused answers; not used of machines without any modality."""
    present: Bools
    """(N, M)"""
    answers: Ints
    """(N, M) the most probable class by each modality alone, and"""
    confidence: Floats
    """(N, M) its probability; not used where it is absent."""
    embeddings: tuple[Floats, ...]
    """Of each modality (N, D_m); not used where it is absent."""
    utility_probabilities: Floats
    """(U, C) what the texts about a utility make of it; not used without one."""
    utility_present: Bools
    """(U,) whether there is one."""
    texts: Floats
    """(X, D) event texts, as what a text model makes of them."""
    text_machines: Bools
    """(X, N): the machines that a text is about."""
    text_utilities: Bools
    """(X, U): the utilities that it is about."""


@dataclass(frozen=True, slots=True)
class AreaFeatures:
    """A frame of an area as a network takes it."""

    machines: tuple[Floats, ...]
    """Of each modality (N, 4 C + D_m): fused log odds, both running means, the modality's answer, its embedding; 0
    where it is absent."""
    present: Bools
    evidence: Floats
    """(U, C, P)"""
    log_probabilities: Floats
    """(N, C) fused, uniform for a machine without any modality."""
    utility_probabilities: Floats
    utility_present: Bools
    texts: Floats
    text_machines: Bools
    text_utilities: Bools


def machine_feature_sizes(classes: int, embeddings: Sequence[int]) -> tuple[int, ...]:
    """Numbers of a machine's features for each modality."""
    return tuple((2 + len(SPEEDS)) * classes + size for size in embeddings)


def area_shape(
    classes: int, embeddings: Sequence[int], *, text_size: int, text_modality: int, quiet: Sequence[int]
) -> AreaShape:
    """Sizes for machines whose modalities have embeddings of these sizes, and event texts of `text_size` numbers.

    A utility gives its summed evidence as modality 0, and what its texts make of it as `text_modality`. Without texts,
    `text_size` 0, it has only the first.
    """
    modalities = range(len(embeddings))
    of_texts = [classes if text_size and m == text_modality else 0 for m in modalities]
    return AreaShape(
        classes=classes,
        quiet=tuple(quiet),
        machine_features=machine_feature_sizes(classes, embeddings),
        utility_features=(classes * EVIDENCE, *of_texts[1:]),
        text_features=tuple(text_size if m == text_modality else 0 for m in modalities),
        answer_features=machine_feature_sizes(classes, (0,))[0],
        evidence=EVIDENCE,
    )


def initial_averages(machines: int, classes: int) -> Floats:
    """State (N, 2, C) of machines that nothing is known about."""
    return np.full((machines, len(SPEEDS), classes), LOWEST, np.float32)


def _advance(
    probabilities: Floats, known: Bools, quiet: Bools, averages: Floats, odds: Floats, log_probabilities: Floats
) -> None:
    """Log-probabilities and bounded log odds (N, C) of a frame, and the running means (N, 2, C) with them.

    Odds are against the more probable quiet class, so no sum of probabilities is needed.
    """
    machines, classes = odds.shape
    for n in range(machines):
        if not known[n]:
            for c in range(classes):
                odds[n, c] = np.float32(0)
                log_probabilities[n, c] = -np.float32(log(np.float64(classes)))
            continue
        rest = np.float32(-1e30)
        for c in range(classes):
            value = np.float32(log(np.float64(max(probabilities[n, c], FLOOR))))
            log_probabilities[n, c] = value
            if quiet[c] and value > rest:
                rest = value
        for c in range(classes):
            value = min(max(log_probabilities[n, c] - rest, LOWEST), HIGHEST)
            odds[n, c] = value
            for speed in range(2):
                mean = averages[n, speed, c]
                averages[n, speed, c] = mean + SPEEDS[speed] * (value - mean)


def _sum_evidence(
    odds: Floats,
    averages: Floats,
    known: Bools,
    members: Bools,
    quiet: Bools,
    said: Floats,
    told: Bools,
    evidence: Floats,
) -> None:
    """Evidence (U, C, P) from the known machines that share a utility, of which fewer than two give none, and from what
    was `said` about it (U, C), if it was `told` (U,)."""
    utilities, classes, _ = evidence.shape
    machines = odds.shape[0]
    for u in range(utilities):
        rest = FLOOR
        for c in range(classes):
            if told[u] and quiet[c] and said[u, c] > rest:
                rest = said[u, c]
        for c in range(classes):
            evidence[u, c, 6] = np.float32(0)
            if told[u] and said[u, c] > rest:
                ratio = np.float32(log(np.float64(said[u, c])) - log(np.float64(rest)))
                evidence[u, c, 6] = min(ratio, HIGHEST)
            for part in range(3):
                total, largest, second, count = np.float32(0), np.float32(-1e30), np.float32(-1e30), 0
                for n in range(machines):
                    if not (members[u, n] and known[n]):
                        continue
                    value = odds[n, c] if part == 0 else averages[n, part - 1, c]
                    value = min(max(value, np.float32(0)), MOST_EVIDENCE)
                    count += 1
                    total += value
                    if value > largest:
                        largest, second = value, largest
                    elif value > second:
                        second = value
                evidence[u, c, 2 * part] = total - largest if count > 1 else np.float32(0)
                evidence[u, c, 2 * part + 1] = second if count > 1 else np.float32(0)


_SOURCES = (Path(__file__),)
_ADVANCE: Final = CompiledFunction(
    _advance,
    "void(f4[:, ::1], b1[::1], b1[::1], f4[:, :, ::1], f4[:, ::1], f4[:, ::1])",
    _SOURCES,
    what="the inputs of area networks",
)
_SUM_EVIDENCE: Final = CompiledFunction(
    _sum_evidence,
    "void(f4[:, ::1], f4[:, :, ::1], b1[::1], b1[:, ::1], b1[::1], f4[:, ::1], b1[::1], f4[:, :, ::1])",
    _SOURCES,
    what="the evidence of areas",
)


class FeatureBuilder:
    """Features of frames of one area, whose running means it keeps."""

    def __init__(self, graph: AreaGraph, quiet: Sequence[int], notify: Notify) -> None:
        """`quiet` are the classes without a fault: normal, and recovering if there is one."""
        classes = graph.faults.shape[1]
        self.graph = graph
        self.averages = initial_averages(graph.machines, classes)
        self._quiet = np.isin(np.arange(classes), quiet)
        self._odds = np.zeros((graph.machines, classes), np.float32)
        self._advance = _ADVANCE.load(notify)
        self._sum_evidence = _SUM_EVIDENCE.load(notify)

    def step(self, inputs: AreaInputs) -> AreaFeatures:
        """Features of the next frame."""
        self.advance(inputs.probabilities, np.asarray(inputs.present.any(axis=1)))
        return self.features(inputs)

    def advance(self, probabilities: Floats, known: Bools) -> None:
        """Take a frame's answers (N, C), and which machines have one, into the running means."""
        self._known = known
        self._log_probabilities = np.empty_like(self._odds)
        probabilities = np.ascontiguousarray(probabilities, np.float32)
        self._advance(probabilities, self._known, self._quiet, self.averages, self._odds, self._log_probabilities)

    def features(self, inputs: AreaInputs) -> AreaFeatures:
        """Features of the frame that was taken last."""
        classes = self._odds.shape[1]
        evidence = np.zeros((self.graph.utilities, classes, EVIDENCE), np.float32)
        said = np.ascontiguousarray(inputs.utility_probabilities, np.float32)
        told = np.ascontiguousarray(inputs.utility_present)
        members = self.graph.members
        self._sum_evidence(self._odds, self.averages, self._known, members, self._quiet, said, told, evidence)
        fused = SCALE * np.concatenate([self._odds, self.averages[:, 0], self.averages[:, 1]], 1)
        machines = []
        for m, embedding in enumerate(inputs.embeddings):
            answer = np.arange(classes) == inputs.answers[:, m, None]
            said = np.where(answer, inputs.confidence[:, m, None], np.float32(0))
            joined = np.concatenate([fused, said, embedding], 1, dtype=np.float32)
            machines.append(np.where(inputs.present[:, m, None], joined, np.float32(0)))
        about = inputs.utility_present[:, None]
        return AreaFeatures(
            machines=tuple(machines),
            present=inputs.present,
            evidence=evidence,
            log_probabilities=self._log_probabilities,
            utility_probabilities=np.where(about, inputs.utility_probabilities, np.float32(0)),
            utility_present=inputs.utility_present,
            texts=inputs.texts,
            text_machines=inputs.text_machines,
            text_utilities=inputs.text_utilities,
        )
