"""Training areas put together from machines of recorded ones: quiet stretches, and faults spliced into them.

An area's recording has few causes. What a fault does to a machine does not depend on its neighbours, so machines of
different recordings make new areas, in which a fault reaches one machine or, with delays, all that share a utility.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.areas.graph import AreaGraph
from models.areas.training.sequences import UNLABELLED, AreaSequence, MachineTrack, UtilityTrack
from pipeline.arrays import Ints
from pipeline.errors import DataError

FRAMES = 88
"""Length of a composed area."""
_EARLIEST, _LATEST = 20, 40
"""When a cause begins."""
_DELAY = 10
"""Up to how many frames later it reaches a machine."""
_TOLD = 60
"""For so many frames after a failure texts may still speak of it."""
_SHARED, _OWN_BESIDE, _OWN_ALONE = 0.5, 0.3, 0.7
"""Chances of a shared cause, and of own faults beside it and without it."""


@dataclass(frozen=True, slots=True)
class _Stretch:
    sequence: int
    node: int
    start: int
    stop: int


class Composer:
    """Draws composed areas from recorded ones."""

    def __init__(self, sequences: Sequence[AreaSequence]) -> None:
        """Raises DataError if no machine is quiet for long enough, or no fault was recorded."""
        self.sequences = sequences
        self._quiet: list[_Stretch] = []
        self._faults: dict[int, list[_Stretch]] = {}
        self._quiet_utilities: list[_Stretch] = []
        self._told: dict[int, list[_Stretch]] = {}
        for number, sequence in enumerate(sequences):
            for machine in range(sequence.graph.machines):
                for label, start, stop in _runs(sequence.machines.labels[:, machine]):
                    found = _Stretch(number, machine, start, stop)
                    if label == 0 and stop - start >= FRAMES:
                        self._quiet.append(found)
                    elif label > 0:
                        self._faults.setdefault(label, []).append(found)
            for utility in range(sequence.graph.utilities):
                failed = np.where(sequence.shared[:, 0] == utility, sequence.shared[:, 1], 0)
                for _, _, end in [run for run in _runs(failed) if run[0]]:
                    failed[end : end + _TOLD] = UNLABELLED
                for fault, start, stop in _runs(failed):
                    found = _Stretch(number, utility, start, stop)
                    if fault > 0:
                        self._told.setdefault(fault, []).append(found)
                    elif fault == 0 and stop - start >= FRAMES:
                        self._quiet_utilities.append(found)
        if not self._quiet or not self._faults or not self._quiet_utilities:
            raise DataError(
                f"{len(sequences)} areas have no machine without faults for {FRAMES} frames, or no fault; record longer"
            )

    def draw(self, rng: np.random.Generator) -> AreaSequence:
        """An area of FRAMES frames with the graph of a recorded one."""
        template = self.sequences[int(rng.integers(len(self.sequences)))]
        graph = template.graph
        track = self._quiet_machines(graph, template.machines, rng)
        texts = self._quiet_texts(graph, template.utilities, rng)
        shared = np.full((FRAMES, 2), UNLABELLED, np.int64)
        own, usable = np.zeros((FRAMES, graph.machines), np.bool_), np.ones(FRAMES, np.bool_)
        start = int(rng.integers(_EARLIEST, _LATEST + 1))
        candidates = [(int(u), int(f)) for u, f in np.argwhere(graph.faults) if int(f) in self._faults]
        reached: Ints = np.zeros(0, np.int64)
        failing = bool(candidates) and rng.random() < _SHARED
        if failing:
            utility, fault = candidates[int(rng.integers(len(candidates)))]
            reached = np.flatnonzero(graph.members[utility])
            onsets = [self._splice(track, int(m), fault, start + int(rng.integers(_DELAY + 1)), rng) for m in reached]
            self._tell(texts, utility, fault, start, rng)
            shared[min(onsets) :] = utility, fault
            usable[start : min(onsets)] = False
        if rng.random() < (_OWN_BESIDE if failing else _OWN_ALONE):
            others = np.setdiff1d(np.arange(graph.machines), reached)
            for machine in rng.permutation(others)[: rng.integers(1, 3)].tolist():
                fault = int(rng.choice(sorted(self._faults)))
                own[self._splice(track, machine, fault, int(rng.integers(_EARLIEST, _LATEST + 1)), rng) :, machine] = (
                    True
                )
        return AreaSequence(graph, track, texts, shared, own, usable, template.embedding_sizes)

    def _quiet_machines(self, graph: AreaGraph, like: MachineTrack, rng: np.random.Generator) -> MachineTrack:
        track = like.empty(FRAMES, graph.machines)
        for machine in range(graph.machines):
            frames, found = self._window(self._quiet, rng)
            track.put(slice(0, FRAMES), machine, self.sequences[found.sequence].machines.cut(frames, found.node))
        return track

    def _quiet_texts(self, graph: AreaGraph, like: UtilityTrack, rng: np.random.Generator) -> UtilityTrack:
        texts = UtilityTrack(*(np.zeros((FRAMES, *a.shape[1:]), a.dtype) for a in _arrays(like)))
        for utility in range(graph.utilities):
            frames, found = self._window(self._quiet_utilities, rng)
            self._copy_texts(texts, utility, slice(0, FRAMES), found, frames)
        return texts

    @staticmethod
    def _window(stretches: Sequence[_Stretch], rng: np.random.Generator) -> tuple[slice, _Stretch]:
        found = stretches[int(rng.integers(len(stretches)))]
        first = int(rng.integers(found.start, found.stop - FRAMES + 1))
        return slice(first, first + FRAMES), found

    def _splice(self, track: MachineTrack, machine: int, fault: int, onset: int, rng: np.random.Generator) -> int:
        """Let a recorded fault begin at a machine, and hold its last frame if it ends early; returns the onset."""
        found = self._faults[fault][int(rng.integers(len(self._faults[fault])))]
        frames = min(found.stop - found.start, FRAMES - onset)
        part = self.sequences[found.sequence].machines.cut(slice(found.start, found.start + frames), found.node)
        track.put(slice(onset, onset + frames), machine, part)
        for frame in range(onset + frames, FRAMES):
            track.put(slice(frame, frame + 1), machine, part.cut(slice(frames - 1, frames), 0))
        return onset

    def _tell(self, texts: UtilityTrack, utility: int, fault: int, start: int, rng: np.random.Generator) -> None:
        """Let the texts of a recorded failure be written about a utility."""
        if told := self._told.get(fault):
            found = told[int(rng.integers(len(told)))]
            frames = min(found.stop - found.start, FRAMES - start)
            recorded = slice(found.start, found.start + frames)
            self._copy_texts(texts, utility, slice(start, start + frames), found, recorded)

    def _copy_texts(self, to: UtilityTrack, utility: int, frames: slice, found: _Stretch, recorded: slice) -> None:
        for target, source in zip(_arrays(to), _arrays(self.sequences[found.sequence].utilities), strict=True):
            target[frames, utility] = source[recorded, found.node]


def _arrays(track: UtilityTrack) -> tuple[np.ndarray, ...]:
    return track.probabilities, track.present, track.has_text


def _runs(values: Ints) -> list[tuple[int, int, int]]:
    """Value, start and end of each run of equal values (T,)."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    stops = np.concatenate([starts[1:], [len(values)]])
    return [(int(values[a]), int(a), int(b)) for a, b in zip(starts, stops, strict=True)]
