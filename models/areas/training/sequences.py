"""Answers along an area as arrays that can be cut and put together again, and what was true of them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from models.areas.data import NOT_ABOUT_ONE, AreaAnswers
from models.areas.features import TEXT_FRAMES, AreaInputs
from models.areas.graph import AreaGraph
from models.evaluation.areas import NONE, AreaTruth
from models.evaluation.scoring import RECOVERY_FRAMES
from pipeline.arrays import Bools, Floats, Ints

Halves = NDArray[np.float16]
"""Halves what many recordings take in memory."""

UNLABELLED = -1


@dataclass(frozen=True, slots=True)
class MachineTrack:
    """What is known along N machines, over T frames; every array begins (T, N)."""

    fused: Floats
    """(T, N, 2^M, C) probabilities if only the modalities had been there whose bits are set."""
    present: Bools  # (T, N, M)
    answers: Ints  # (T, N, M)
    confidence: Floats  # (T, N, M)
    embeddings: Halves  # (T, N, all D_m)
    labels: Ints  # (T, N) true class, or UNLABELLED while a machine recovers

    def cut(self, frames: slice, machine: int) -> MachineTrack:
        """Some frames of one machine; a view."""
        return MachineTrack(*(getattr(self, field.name)[frames, machine : machine + 1] for field in fields(self)))

    def empty(self, frames: int, machines: int) -> MachineTrack:
        """Arrays of the same kinds for so many frames and machines; zeros."""
        arrays = (getattr(self, field.name) for field in fields(self))
        return MachineTrack(*(np.zeros((frames, machines, *a.shape[2:]), a.dtype) for a in arrays))

    def put(self, frames: slice, machine: int, part: MachineTrack) -> None:
        """Overwrite frames of a machine by what `cut` gave."""
        for field in fields(self):
            getattr(self, field.name)[frames, machine] = getattr(part, field.name)[:, 0]


@dataclass(frozen=True, slots=True)
class UtilityTrack:
    """What texts say about U utilities, over T frames."""

    probabilities: Floats  # (T, U, C)
    present: Bools  # (T, U)
    has_text: Bools  # (T, U) whether a text arrived in the frame


@dataclass(frozen=True, slots=True)
class AreaSequence:
    """One area over T frames."""

    graph: AreaGraph
    machines: MachineTrack
    utilities: UtilityTrack
    shared: Ints
    """(T, 2) utility and fault that is the shared cause; UNLABELLED for none."""
    own: Bools  # (T, N) machines with a fault of their own
    usable: Bools
    """(T,) frames whose cause is certain: not while machines recover, or before a cause reaches the first machine."""
    embedding_sizes: tuple[int, ...]

    @property
    def frames(self) -> int:
        """T."""
        return len(self.usable)

    def fused(self, frame: int, missing: Bools | None = None) -> tuple[Floats, Bools]:
        """Fused answers (N, C) and present modalities (N, M) of a frame, had modalities (N, M) been missing."""
        track = self.machines
        present = track.present[frame] if missing is None else track.present[frame] & ~missing
        subsets: Ints = (present << np.arange(present.shape[1])).sum(1)
        fused: Floats = track.fused[frame, np.arange(len(subsets)), subsets]
        return fused, present

    def inputs(self, frame: int, missing: Bools | None = None) -> AreaInputs:
        """One frame, had modalities (N, M) been missing."""
        track, utilities = self.machines, self.utilities
        probabilities, present = self.fused(frame, missing)
        since = max(frame + 1 - TEXT_FRAMES, 0)
        age, utility = np.nonzero(utilities.has_text[since : frame + 1])
        texts = utilities.probabilities[since:][age, utility]
        ends = np.cumsum(self.embedding_sizes)[:-1]
        return AreaInputs(
            probabilities=probabilities,
            present=present,
            answers=track.answers[frame],
            confidence=track.confidence[frame],
            embeddings=tuple(np.split(track.embeddings[frame].astype(np.float32), ends, axis=1)),
            utility_probabilities=utilities.probabilities[frame],
            utility_present=utilities.present[frame],
            texts=texts,
            text_machines=np.zeros((len(texts), self.graph.machines), np.bool_),
            text_utilities=utility[:, None] == np.arange(self.graph.utilities),
        )


def area_sequence(answers: AreaAnswers, truth: AreaTruth, graph: AreaGraph) -> AreaSequence:
    """The answers along an area, and what was true.

    Texts about utilities are nodes, as what the machines' text model made of them: of texts themselves there are too
    few to learn from. Those about machines are a modality of the machines, whose answers have them.
    """
    frames, utilities = len(answers.start_ms), len(answers.utilities)
    there = np.zeros((frames, utilities), np.bool_)
    for text, vector in zip(answers.texts, answers.text_vectors, strict=True):
        if text.utility != NOT_ABOUT_ONE:
            there[text.frame, text.utility] = bool(vector.any())
    labels, shared, own, usable = _truth(truth)
    alone = np.moveaxis(answers.modality_probabilities, 0, 2)
    track = MachineTrack(
        fused=np.ascontiguousarray(np.moveaxis(answers.fused, 0, 2)),
        present=np.ascontiguousarray(np.moveaxis(answers.present, 0, 2)),
        answers=alone.argmax(3),
        confidence=alone.max(3),
        embeddings=np.concatenate(answers.embeddings, 2).astype(np.float16),
        labels=labels,
    )
    texts = UtilityTrack(answers.utility_probabilities, answers.utility_present, there)
    return AreaSequence(graph, track, texts, shared, own, usable, tuple(e.shape[2] for e in answers.embeddings))


def _truth(truth: AreaTruth) -> tuple[Ints, Ints, Bools, Bools]:
    """Labels (T, N), shared cause (T, 2), own faults (T, N), and usable frames (T,)."""
    labels = np.zeros((truth.frames, truth.machines), np.int64)
    shared = np.full((truth.frames, 2), UNLABELLED, np.int64)
    own = np.zeros((truth.frames, truth.machines), np.bool_)
    usable = np.ones(truth.frames, np.bool_)
    for cause in truth.causes:
        for machine, (onset, cleared) in cause.reached.items():
            labels[onset:cleared, machine] = cause.fault
            labels[cleared : cleared + RECOVERY_FRAMES, machine] = UNLABELLED
        onsets = [onset for onset, _ in cause.reached.values()]
        ends = [end for _, end in cause.reached.values()]
        if cause.utility == NONE:
            own[cause.start : cause.end, cause.machine] = True
        else:
            shared[min(onsets) : min(ends)] = cause.utility, cause.fault
            usable[cause.start : min(onsets)] = False
        usable[min(ends) : max(ends) + RECOVERY_FRAMES] = False
    return labels, shared, own, usable
