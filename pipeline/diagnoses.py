"""Writes what a model says about a round of frames as diagnoses, and what changed as alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline import messages
from pipeline.alarms import AlarmChange
from pipeline.alignment import Resets
from pipeline.frames import Bools, Floats, Frames, Ints, StepResult, StepRunner
from pipeline.messages import Diagnosis, Evidence, ModalityAnswer, ModelRef, TextEvidence, VariableEvidence
from pipeline.profile import MachineType
from pipeline.records import Output
from pipeline.topics import ALARMS, DIAGNOSES

NO_EVIDENCE = "no_evidence"
_TOP_VARIABLES = 3
_NOTABLE_DEVIATION = 3.0
_DIGITS = 7
_TINY = 1e-12


_new_output = partial(tuple.__new__, Output)  # half the cost of calling Output
_NOTHING = Evidence([], [])
_RESET_NAMES = {reason.value: reason.name.lower() if reason else None for reason in Resets}


def _fixed_names(title: str, names: Sequence[str]) -> Callable[..., Any]:
    """A struct that is written as an object with these names, several times faster than a dictionary."""
    fields = [(f"field_{index}", Any) for index in range(len(names))]
    renamed = {field: name for (field, _), name in zip(fields, names, strict=True)}
    return msgspec.defstruct(title, fields, rename=renamed, gc=False)


@dataclass(frozen=True, slots=True)
class RememberedText:
    """A text that a machine's recent frames have taken."""

    id: str
    text: str
    time_ms: int
    late: bool


@dataclass(frozen=True, slots=True)
class Answers:
    """What the diagnoses of a round say, in arrays of one entry a row."""

    faults: Ints  # class index; -1 = no evidence
    confidence: Floats
    entropy: NDArray[np.float64]  # of the fused probabilities, nats
    disagreement: NDArray[np.float64]  # Jensen-Shannon divergence between the modalities, nats


class Watcher(Protocol):
    """Who wants to know of every diagnosis without decoding it."""

    def diagnosed(
        self,
        model: ModelRef,
        classes: Sequence[str],
        modalities: tuple[str, ...],
        machines: Sequence[DiagnosedMachine],
        frames: Frames,
        result: StepResult,
        answers: Answers,
    ) -> None:
        """A round of frames has been diagnosed."""

    def announced(
        self, model: ModelRef, modalities: tuple[str, ...], machine: DiagnosedMachine, start_ms: int, period_ms: int
    ) -> None:
        """A frame of a silent machine has been announced."""


class DiagnosedMachine(Protocol):
    """What the writer needs to know of a machine."""

    name: str
    key: bytes
    partition: int

    @property
    def texts(self) -> Sequence[RememberedText]: ...


class DiagnosisWriter:
    """Turns step results of one machine type into output records."""

    def __init__(self, kind: MachineType, runner: StepRunner) -> None:
        self._kind = kind
        self._classes = runner.classes
        self._modalities = runner.modalities
        self.model = ModelRef(runner.name, runner.hash)
        self._variables = kind.variable_names
        self._named = (*runner.classes, NO_EVIDENCE)  # the last one is found at index -1, too
        self._probabilities = _fixed_names("Probabilities", runner.classes)
        self._answers = _fixed_names("Modalities", runner.modalities)
        self._ttl_ms = kind.text_ttl_frames * kind.frame_period_ms

    def write(
        self,
        frames: Frames,
        result: StepResult,
        machines: Sequence[DiagnosedMachine],
        outputs: list[Output],
        counts: Counter[str],
    ) -> Answers:
        """Append one diagnosis a row; returns what they say."""
        rounded = np.round(result.probabilities.astype(np.float64), _DIGITS)
        has_evidence: Bools = np.any(result.present, axis=0)
        best = np.where(has_evidence, rounded.argmax(axis=1), -1)
        confidence = rounded.max(axis=1)
        p = np.maximum(result.probabilities, _TINY)
        entropy = (-(p * np.log(p)).sum(axis=1)).astype(np.float64).round(_DIGITS)
        divergence: Floats = jensen_shannon(result.modality_probabilities, result.present)
        disagreement = divergence.astype(np.float64).round(_DIGITS)
        ends = (frames.start_ms + frames.period_ms).tolist()
        remembered = [
            [text for text in machine.texts if end - text.time_ms <= self._ttl_ms] if machine.texts else []
            for machine, end in zip(machines, ends, strict=True)
        ]
        named = self._named
        faults = best.tolist()
        for fault, count in Counter(faults).items():
            counts[named[fault]] += count
        names = [machine.name for machine in machines]
        revisions = frames.revision.tolist()
        model = self.model.hash[:12]
        # Everything goes through `map`, by position: a loop in Python would double what a diagnosis costs.
        diagnoses = map(
            Diagnosis,
            [f"{name}:{end}:{model}:{re}" for name, end, re in zip(names, ends, revisions, strict=True)],
            names,
            frames.start_ms.tolist(),
            ends,
            [named[fault] for fault in faults],
            np.where(has_evidence, confidence, 0.0).tolist(),
            map(self._probabilities, *rounded.T.tolist()),
            map(self._answers, *self._modality_answers(frames, result, ends, remembered)),
            entropy.tolist(),
            disagreement.tolist(),
            self._evidence(frames, result, ends, remembered),
            ["silent" if silent else "active" for silent in (~np.any(frames.observed, axis=1)).tolist()],
            [_RESET_NAMES[reset] for reset in frames.reset_reason.tolist()],
            revisions,
            repeat(self.model),
            repeat(None) if result.attention is None else result.attention.astype(np.float64).round(_DIGITS).tolist(),
        )
        values = messages.encode_all(list(diagnoses))
        partitions, keys = [machine.partition for machine in machines], [machine.key for machine in machines]
        outputs += map(_new_output, zip(repeat(DIAGNOSES), partitions, keys, values, ends, repeat(())))
        return Answers(best, confidence.astype(np.float32), entropy, disagreement)

    def _modality_answers(
        self, frames: Frames, result: StepResult, ends: list[int], remembered: list[list[RememberedText]]
    ) -> list[list[ModalityAnswer]]:
        """For each modality its own answer in every row."""
        own = np.round(result.modality_probabilities.max(axis=2).astype(np.float64), _DIGITS).tolist()
        best = result.modality_probabilities.argmax(axis=2).tolist()
        weights = np.round(result.weights.astype(np.float64), _DIGITS).tolist()
        present = result.present.tolist()
        classes, answer = self._classes, ModalityAnswer
        answers = []
        for index, modality in enumerate(self._modalities):
            ages: list[int | None]
            if modality == "text":
                ages = [
                    end - max(text.time_ms for text in texts) if texts else None
                    for end, texts in zip(ends, remembered, strict=True)
                ]
            else:
                newest = np.where(frames.age_ms >= 0, frames.age_ms, np.iinfo(np.int64).max).min(axis=1)
                ages = [age if here else None for age, here in zip(newest.tolist(), present[index], strict=True)]
            answers.append(
                [
                    answer(classes[fault], sure, weight, True, age)
                    if here
                    else answer(NO_EVIDENCE, 0.0, weight, False, age)
                    for fault, sure, weight, here, age in zip(
                        best[index], own[index], weights[index], present[index], ages, strict=True
                    )
                ]
            )
        return answers

    def _evidence(
        self, frames: Frames, result: StepResult, ends: list[int], remembered: list[list[RememberedText]]
    ) -> list[Evidence]:
        """For each row the variables that stand out, and the texts that are remembered."""
        evidence = [_NOTHING] * len(ends)
        variables = self._variable_evidence(frames, result)
        for row in {*variables, *(row for row, texts in enumerate(remembered) if texts)}:
            texts = [TextEvidence(t.id, t.text, ends[row] - t.time_ms, t.late) for t in remembered[row]]
            evidence[row] = Evidence(variables.get(row, []), texts)
        return evidence

    def _variable_evidence(self, frames: Frames, result: StepResult) -> dict[int, list[VariableEvidence]]:
        """Of rows with variables far from their normal range those variables, the furthest first."""
        distance = np.abs(result.scaled)
        notable = np.flatnonzero(distance.max(axis=1) >= _NOTABLE_DEVIATION)
        evidence: dict[int, list[VariableEvidence]] = {}
        if not len(notable):
            return evidence
        top = np.argsort(-distance[notable], axis=1, kind="stable")[:, :_TOP_VARIABLES]
        deviations = np.round(np.take_along_axis(result.scaled[notable], top, axis=1).astype(np.float64), 2)
        values = np.take_along_axis(frames.values[notable], top, axis=1)
        for row, columns, found, given in zip(
            notable.tolist(), top.tolist(), deviations.tolist(), values.tolist(), strict=True
        ):
            evidence[row] = [
                VariableEvidence(self._variables[column], float(f"{value:.7g}"), deviation)
                for column, deviation, value in zip(columns, found, given, strict=True)
                if abs(deviation) >= _NOTABLE_DEVIATION
            ]
        return evidence

    def announce(self, machine: str, partition: int, start_ms: int, *, offline: bool) -> tuple[str, Output]:
        """The diagnosis of a frame that a silent machine let pass: no evidence."""
        end = start_ms + self._kind.frame_period_ms
        silent = ModalityAnswer(NO_EVIDENCE, 0.0, 0.0, False, None)
        diagnosis = Diagnosis(
            id=self._id(machine, end, 0),
            machine=machine,
            frame_start=start_ms,
            frame_end=end,
            fault=NO_EVIDENCE,
            confidence=0.0,
            probabilities={},
            modalities=dict.fromkeys(self._modalities, silent),
            entropy=0.0,
            disagreement=0.0,
            evidence=Evidence([], []),
            status="offline" if offline else "stale",
            reset=None,
            revision=0,
            model=self.model,
        )
        return NO_EVIDENCE, Output(DIAGNOSES, partition, machine.encode(), messages.encode(diagnosis), end)

    def alarm(self, machine: DiagnosedMachine, start_ms: int, change: AlarmChange, confidence: float) -> Output:
        """The record of an alarm that was raised or cleared by the frame that starts at `start_ms`."""
        end = start_ms + self._kind.frame_period_ms
        fault = self._classes[change.fault]
        state = "raised" if change.raised else "cleared"
        message = messages.Alarm(
            id=f"{machine.name}:{end}:{self.model.hash[:12]}:{fault}:{state}",
            machine=machine.name,
            fault=fault,
            state="raised" if change.raised else "cleared",
            time=end,
            confidence=round(confidence, _DIGITS),
            diagnosis=self._id(machine.name, end, 0),
        )
        return Output(ALARMS, machine.partition, machine.key, messages.encode(message), end)

    def _id(self, machine: str, end_ms: int, revision: int) -> str:
        return f"{machine}:{end_ms}:{self.model.hash[:12]}:{revision}"


def jensen_shannon(probabilities: Floats, present: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Floats:
    """Jensen-Shannon divergence in nats between the modalities that are present.

    Args: probabilities (M, B, C), present (M, B). Returns (B,); 0 where fewer than two are present.
    """
    weight = present / np.maximum(present.sum(axis=0), 1)
    p = np.maximum(probabilities, _TINY)
    mean = (weight[:, :, None] * p).sum(axis=0)
    own = (weight * -(p * np.log(p)).sum(axis=2)).sum(axis=0)
    mixed = -(mean * np.log(np.maximum(mean, _TINY))).sum(axis=1)
    divergence: Floats = np.where(present.sum(axis=0) > 1, np.maximum(mixed - own, 0.0), 0.0).astype(np.float32)
    return divergence
