"""Collects a replay's diagnoses and labels and scores the fusion beside each modality alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.evaluation.calibration import ReliabilityBin, calibration_error, reliability, run_mean
from models.evaluation.scoring import NO_EVIDENCE as NO_EVIDENCE_CODE
from models.evaluation.scoring import NORMAL, stream_scores
from models.evaluation.scoring import UNKNOWN as UNKNOWN_CODE
from pipeline.arrays import Bools, Ints
from pipeline.config.classes import NO_EVIDENCE, RECOVERING, UNKNOWN
from pipeline.config.profile import PlantProfile
from pipeline.wire import messages
from pipeline.wire.labels import LabelBook
from pipeline.wire.messages import Diagnosis, RejectedError
from pipeline.wire.records import Record

FUSED = "fused"
UNSEEN = "fused, unseen"
"""The fusion's answers on frames that are not in the model's training data, where others are."""

Frame = tuple[str, int]
"""A machine, and when a frame of it starts in milliseconds."""

_ANNOUNCED = frozenset({"stale", "offline"})


class _Answers(NamedTuple):
    revision: int
    is_announced: bool
    faults: dict[str, str]
    """What each modality and the fusion say."""
    confidence: float
    """What the fusion gives to its answer, as labels would name that."""
    candidates: list[str]


class ScoreBook:
    """The diagnosis of every frame, by the fusion and by each modality, and the true fault.

    Frames that were only announced count while a machine is silent, but not after its last reading. Where the label is
    `unknown`, the fault is none that the model has learnt: that answer is correct, and the name of a fault is not.
    """

    def __init__(self, profile: PlantProfile, trained: Mapping[str, tuple[int, int]] | None = None) -> None:
        """`trained` has the machines that the model's training has seen, with the starts of first and last frame."""
        faults = dict.fromkeys(fault for kind in profile.machine_types for fault in kind.faults)
        self._classes = tuple(faults | {UNKNOWN: None})  # as a label too: a fault that the model has not learnt
        self._index = {name: index for index, name in enumerate(self._classes)}
        self._answer = {RECOVERING: NORMAL, NO_EVIDENCE: NO_EVIDENCE_CODE} | self._index
        self._predicted: dict[tuple[str, int], _Answers] = {}  # the last revision of a frame counts
        self._trained = trained or {}
        self._period_ms: dict[str, int] = {}
        self.labels = LabelBook()
        self.bad_labels = 0

    def add_labels(self, records: Iterable[Record]) -> None:
        """Take label records; invalid ones, and faults that are not in the profile, are counted."""
        for record in records:
            try:
                if self.labels.add(record) not in self._index:
                    self.bad_labels += 1
            except RejectedError:
                self.bad_labels += 1

    def add(self, diagnosis: Diagnosis) -> bool:
        """Take one diagnosis, and say whether it is the newest of its frame; one that was only announced is replaced
        if the frame's readings come later."""
        answers = {name: answer.fault for name, answer in diagnosis.modalities.items()} | {FUSED: diagnosis.fault}
        key = diagnosis.machine, diagnosis.frame_start
        if key not in self._predicted or self._predicted[key].revision <= diagnosis.revision:
            announced = diagnosis.status in _ANNOUNCED
            confidence = self._confidence(diagnosis)
            self._predicted[key] = _Answers(diagnosis.revision, announced, answers, confidence, diagnosis.candidates)
            self._period_ms[diagnosis.machine] = diagnosis.frame_end - diagnosis.frame_start
            return True
        return False

    @property
    def classes(self) -> tuple[str, ...]:
        """What labels can name: the normal state, the faults of all machine types, and `unknown`."""
        return self._classes

    @property
    def machines(self) -> int:
        """How many machines were diagnosed."""
        return len({machine for machine, _ in self._predicted})

    def trained(self) -> dict[str, Any] | None:
        """Which of the machines the model's training has seen, and how many of the frames; None if none of these."""
        machines = sorted({machine for machine, _ in self._predicted} & self._trained.keys())
        if not machines:
            return None
        keys = self.counting_frames()
        seen = sum(self._is_seen(*key) for key in keys)
        return {"machines": machines, "frames": seen, "frames_scored": len(keys)} if seen else None

    def counting_frames(self) -> list[Frame]:
        """The frames that count, by machine and time: not those that were announced after a machine's last reading."""
        last: dict[str, int] = {}
        for (machine, start), answers in self._predicted.items():
            if not answers.is_announced:
                last[machine] = max(last.get(machine, start), start)
        return sorted(key for key in self._predicted if key[1] <= last.get(key[0], -1))

    def _is_seen(self, machine: str, start_ms: int) -> bool:
        first, last = self._trained.get(machine, (0, -1))
        return first <= start_ms <= last

    def scores(self, names: Sequence[str] = (FUSED, "sensors", "text")) -> dict[str, Any]:
        """Scores by the definitions of docs/guide/training.md; None where there are no labels or no such modality."""
        scores = self._scores_of(self.counting_frames(), names)
        unseen = [key for key in self.counting_frames() if not self._is_seen(*key)] if self._trained else []
        if scores.get(FUSED) is not None and 0 < len(unseen) < len(self.counting_frames()):
            scores[UNSEEN] = self._scores_of(unseen, (FUSED,))[FUSED]
        return scores

    def _scores_of(self, keys: Sequence[Frame], names: Sequence[str]) -> dict[str, Any]:
        truth = self.truth_of(keys)
        if not keys or not (truth >= 0).any():
            return dict.fromkeys(names)
        ids = {machine: index for index, machine in enumerate(dict.fromkeys(machine for machine, _ in keys))}
        machines = np.array([ids[machine] for machine, _ in keys], np.int64)
        frames = np.array([start // self._period_ms[machine] for machine, start in keys], np.int64)
        first = dict(reversed(keys))
        begun_before = [ids[machine] for machine, start in first.items() if self.has_begun_before(machine, start)]
        scores: dict[str, Any] = {}
        for name in names:
            predicted = self.answers_of(keys, name)
            if predicted is None:
                scores[name] = None
                continue
            scores[name] = stream_scores(machines, frames, truth, predicted, self._classes, begun_before=begun_before)
            if name == FUSED:
                scores[name] |= self._trust(keys, machines, truth, predicted)
        return scores

    def truth_of(self, keys: Sequence[Frame]) -> Ints:
        """The true class of each frame, (N,), -1 where nobody knows."""
        faults = (self.labels.fault_at(*key) for key in keys)
        return np.array([-1 if fault is None else self._index.get(fault, -1) for fault in faults], np.int64)

    def has_begun_before(self, machine: str, start_ms: int) -> bool:
        """Whether the class of the frame that starts then was the machine's before, too, so that nobody has seen it
        begin where this is the first frame."""
        return self.labels.fault_at(machine, start_ms - 1) == self.labels.fault_at(machine, start_ms)

    def answers_of(self, keys: Sequence[Frame], name: str = FUSED) -> Ints | None:
        """What the fusion or a modality says of frames, (N,), as `stream_scores` takes it; None if it never does."""
        said = [self._predicted[key].faults.get(name) for key in keys]
        if not any(fault is not None for fault in said):
            return None
        codes = (self.class_of(NO_EVIDENCE if fault is None else fault) for fault in said)
        return np.array(list(codes), np.int64)

    def class_of(self, answer: str) -> int:
        """The class that a diagnosis means by a name; a name of none is an unfamiliar state."""
        return self._answer.get(answer, UNKNOWN_CODE)

    def period_ms(self, machine: str) -> int:
        """How long the frames of a machine are."""
        return self._period_ms[machine]

    def reliability(self, keys: Sequence[Frame], truth: Ints, predicted: Ints) -> list[ReliabilityBin]:
        """Confidence of the fusion against its being right, over the labelled frames with evidence."""
        rows = self._with_evidence(keys, truth)
        confidence = np.array([self._predicted[key].confidence for key in keys], np.float64)
        return reliability(confidence[rows], np.asarray(predicted == truth)[rows])

    def _with_evidence(self, keys: Sequence[Frame], truth: Ints) -> Bools:
        has_evidence = [self._predicted[key].faults[FUSED] != NO_EVIDENCE for key in keys]
        return np.asarray((truth >= 0) & np.array(has_evidence, np.bool_))

    def _confidence(self, diagnosis: Diagnosis) -> float:
        """What the fusion gives to its answer; the normal state and `recovering` count together."""
        if self._answer.get(diagnosis.fault) != NORMAL:
            return diagnosis.confidence
        return min(sum(p for name, p in diagnosis.probabilities.items() if self._answer.get(name) == NORMAL), 1.0)

    def _trust(self, keys: Sequence[Frame], machines: Ints, truth: Ints, predicted: Ints) -> dict[str, Any]:
        """How far the fusion's answers can be trusted, over the labelled frames with evidence."""
        answers = [self._predicted[key] for key in keys]
        rows = self._with_evidence(keys, truth)
        bins = self.reliability(keys, truth, predicted)
        named = [{self._answer.get(name, UNKNOWN_CODE) for name in one.candidates} for one in answers]
        rows &= np.array([bool(one) for one in named])
        covered = np.array([int(label) in one for one, label in zip(named, truth, strict=True)])
        sizes = np.array([len(one.candidates) for one in answers], np.int64)
        return {
            "ece": calibration_error(bins),
            "candidates_coverage": run_mean(covered[rows], machines[rows]),
            "candidates_size": run_mean(sizes[rows], machines[rows]),
        }


def diagnosis_of(value: bytes | None) -> Diagnosis:
    """A diagnosis from a record's value; raises RejectedError."""
    return messages.decode_diagnosis(value or b"")
