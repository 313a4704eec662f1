"""Writes what a model says about a round of frames as diagnoses, and what changed as alarms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline import messages
from pipeline.alarms import AlarmChange
from pipeline.alignment import Resets
from pipeline.frames import Bools, Floats, Frames, Ints, StepResult, StepRunner
from pipeline.messages import Diagnosis, Evidence, ModalityAnswer, TextEvidence, VariableEvidence
from pipeline.profile import MachineType
from pipeline.records import Output
from pipeline.topics import ALARMS, DIAGNOSES

NO_EVIDENCE = "no_evidence"
_TOP_VARIABLES = 3
_NOTABLE_DEVIATION = 3.0
_DIGITS = 7
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class RememberedText:
    """A text that a machine's recent frames have taken."""

    id: str
    text: str
    time_ms: int
    late: bool


class DiagnosedMachine(Protocol):
    """What the writer needs to know of a machine."""

    name: str
    partition: int

    @property
    def texts(self) -> Sequence[RememberedText]: ...


class DiagnosisWriter:
    """Turns step results of one machine type into output records."""

    def __init__(self, kind: MachineType, runner: StepRunner) -> None:
        self._kind = kind
        self._classes = runner.classes
        self._modalities = runner.modalities
        self._model = messages.ModelRef(runner.name, runner.hash)
        self._variables = kind.variable_names
        self._ttl_ms = kind.text_ttl_frames * kind.frame_period_ms

    def write(
        self,
        frames: Frames,
        result: StepResult,
        machines: Sequence[DiagnosedMachine],
        outputs: list[Output],
        counts: Counter[str],
    ) -> tuple[Ints, Floats]:
        """Append one diagnosis a row; returns each row's fault (class index, -1 = no evidence) and confidence."""
        evidence: Bools = np.any(result.present, axis=0)
        probabilities = np.round(result.probabilities.astype(np.float64), _DIGITS)
        best = probabilities.argmax(axis=1)
        confidence = probabilities.max(axis=1)
        p = np.maximum(result.probabilities, _TINY)
        entropy = np.round(-(p * np.log(p)).sum(axis=1), _DIGITS).tolist()
        disagreement = np.round(jensen_shannon(result.modality_probabilities, result.present), _DIGITS).tolist()
        own_best = result.modality_probabilities.argmax(axis=2).tolist()
        own_confidence = np.round(result.modality_probabilities.max(axis=2).astype(np.float64), _DIGITS).tolist()
        weights = np.round(result.weights.astype(np.float64), _DIGITS).tolist()
        present = result.present.tolist()
        sensor_age = np.where(frames.age_ms >= 0, frames.age_ms, np.iinfo(np.int64).max).min(axis=1)
        silent: Bools = ~np.any(frames.observed, axis=1)
        classes, model = self._classes, self._model
        variables = self._variable_evidence(frames, result)
        rows = zip(
            machines,
            frames.start_ms.tolist(),
            best.tolist(),
            confidence.tolist(),
            probabilities.tolist(),
            evidence.tolist(),
            strict=True,
        )
        period = frames.period_ms
        for row, (machine, start, fault, sure, all_probabilities, has_evidence) in enumerate(rows):
            end = start + period
            texts = [text for text in machine.texts if end - text.time_ms <= self._ttl_ms]
            revision = int(frames.revision[row])
            reason = int(frames.reset_reason[row])
            answers = {}
            for index, modality in enumerate(self._modalities):
                here = present[index][row]
                if modality == "text":
                    age = end - max(text.time_ms for text in texts) if texts else None
                else:
                    age = int(sensor_age[row]) if here else None
                answers[modality] = ModalityAnswer(
                    classes[own_best[index][row]] if here else NO_EVIDENCE,
                    own_confidence[index][row] if here else 0.0,
                    weights[index][row],
                    here,
                    age,
                )
            name = classes[fault] if has_evidence else NO_EVIDENCE
            counts[name] += 1
            diagnosis = Diagnosis(
                id=self._id(machine.name, end, revision),
                machine=machine.name,
                frame_start=start,
                frame_end=end,
                fault=name,
                confidence=sure if has_evidence else 0.0,
                probabilities=dict(zip(classes, all_probabilities, strict=True)),
                modalities=answers,
                entropy=entropy[row],
                disagreement=disagreement[row],
                evidence=Evidence(
                    variables[row],
                    [TextEvidence(t.id, t.text, end - t.time_ms, t.late) for t in texts],
                ),
                status="silent" if silent[row] else "active",
                reset=Resets(reason).name.lower() if reason else None,
                revision=revision,
                model=model,
            )
            outputs.append(Output(DIAGNOSES, machine.partition, machine.name.encode(), messages.encode(diagnosis), end))
        return np.where(evidence, best, -1), confidence.astype(np.float32)

    def _variable_evidence(self, frames: Frames, result: StepResult) -> list[list[VariableEvidence]]:
        """For each row the variables furthest from their normal range, the furthest first."""
        distance = np.abs(result.scaled)
        notable = np.flatnonzero((distance >= _NOTABLE_DEVIATION).any(axis=1))
        evidence: list[list[VariableEvidence]] = [[] for _ in range(len(distance))]
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
            model=self._model,
        )
        return NO_EVIDENCE, Output(DIAGNOSES, partition, machine.encode(), messages.encode(diagnosis), end)

    def alarm(self, machine: DiagnosedMachine, start_ms: int, change: AlarmChange, confidence: float) -> Output:
        """The record of an alarm that was raised or cleared by the frame that starts at `start_ms`."""
        end = start_ms + self._kind.frame_period_ms
        fault = self._classes[change.fault]
        state = "raised" if change.raised else "cleared"
        message = messages.Alarm(
            id=f"{machine.name}:{end}:{self._model.hash[:12]}:{fault}:{state}",
            machine=machine.name,
            fault=fault,
            state="raised" if change.raised else "cleared",
            time=end,
            confidence=round(confidence, _DIGITS),
            diagnosis=self._id(machine.name, end, 0),
        )
        return Output(ALARMS, machine.partition, machine.name.encode(), messages.encode(message), end)

    def _id(self, machine: str, end_ms: int, revision: int) -> str:
        return f"{machine}:{end_ms}:{self._model.hash[:12]}:{revision}"


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
