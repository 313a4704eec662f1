"""Rounds: how a machine group's model, diagnoses and alarms follow from its frames, and who watches that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.arrays import Ints
from pipeline.compiled import Notify
from pipeline.config.classes import are_classes_for, labelled_classes, unknown_class
from pipeline.engine.alarms import AlarmRule, Alarms
from pipeline.engine.diagnoses import Answers, DiagnosedMachine, DiagnosisWriter, RememberedText
from pipeline.engine.machines import Machine, MachineGroup
from pipeline.engine.stats import CONFIDENCE_BOUNDS, Outcome
from pipeline.errors import SettingsError
from pipeline.frames import Frames, StepResult, StepRunner
from pipeline.wire.labels import LabelledSpan
from pipeline.wire.messages import ModelRef


@dataclass(frozen=True, slots=True)
class Round:
    """Frames of one machine group, at most one per machine, with what the model and the diagnoses say about them."""

    model: ModelRef
    classes: Sequence[str]
    faults: Sequence[str]  # the classes that labels have, too: all but `recovering` and `unknown`
    modalities: tuple[str, ...]
    machines: Sequence[DiagnosedMachine]  # of each row
    frames: Frames
    result: StepResult
    answers: Answers


class Watcher(Protocol):
    """Sees every diagnosis without decoding it, and every label."""

    def diagnosed(self, diagnosed: Round) -> None:
        """A round of frames has been diagnosed."""

    def announced(
        self, model: ModelRef, modalities: tuple[str, ...], machine: DiagnosedMachine, start_ms: int, period_ms: int
    ) -> None:
        """A frame of a silent machine has been announced."""

    def labelled(self, label: LabelledSpan) -> None:
        """A label has come."""


class GroupModel:
    """The model of one machine group: its runner, its alarms and the writer of its diagnoses."""

    def __init__(self, group: MachineGroup, runner: StepRunner, rule: AlarmRule, notify: Notify) -> None:
        machine_type = group.machine_type
        self._faults = machine_type.faults
        self._unknown = unknown_class(runner.classes, self._faults)
        if not are_classes_for(runner.classes, self._faults):
            text = f"model {runner.name} knows other faults than machine type {group.name} of the profile"
            raise SettingsError(text)
        self.runner = runner
        self.alarms = Alarms(rule, notify)
        self.writer = DiagnosisWriter(machine_type, runner, notify)
        group.attach(self)

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        self.alarms.reserve(slots)
        self.runner.reserve(slots)

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self.alarms.drop(slot)
        self.runner.reset(np.array([slot]))

    def diagnose(self, frames: Frames, machines: Sequence[Machine], outcome: Outcome) -> Round:
        """Step the model over a round, and write its diagnoses and what changed in the alarms."""
        stats, outputs, runner = outcome.stats, outcome.outputs, self.runner
        result = runner.step(frames)
        _remember_texts(frames, machines, result.unknown_texts)
        stats.frames += len(machines)
        stats.texts += len(frames.texts)
        stats.unknown_texts += len(result.unknown_texts)
        stats.masked_frames += int((~frames.observed.any(axis=1)).sum())
        answers = self.writer.write(frames, result, machines, outputs, stats.diagnoses)
        confidence = answers.confidence
        stats.confidence_counts += np.bincount(
            np.searchsorted(CONFIDENCE_BOUNDS, confidence), minlength=len(CONFIDENCE_BOUNDS) + 1
        )
        stats.confidence_sum += float(confidence.sum())
        faults = answers.faults
        if len(runner.classes) > len(self._faults):
            # A plant that recovers raises no alarm, and lets one clear as the normal state does.
            faults = labelled_classes(faults, len(self._faults), self._unknown)
        for change in self.alarms.step(frames.slots, faults, confidence):
            row = change.row
            stats.alarms["raised" if change.raised else "cleared"] += 1
            outputs.append(self.writer.alarm(machines[row], int(frames.start_ms[row]), change, float(confidence[row])))
        return Round(
            self.writer.model, runner.classes, self._faults, runner.modalities, machines, frames, result, answers
        )

    def save(self, slots: Ints) -> list[tuple[bytes, bytes]]:
        """Of each machine the runner's and the alarms' state."""
        return list(zip(self.runner.save(slots), self.alarms.save(slots), strict=True))

    def load(self, slot: int, runner: bytes, alarms: bytes) -> None:
        """Put back what `save` gave; raises StateError if it does not fit."""
        self.runner.load(slot, runner)
        self.alarms.load(slot, alarms, len(self.runner.classes))


def _remember_texts(frames: Frames, machines: Sequence[Machine], unknown: Sequence[int]) -> None:
    """Keep the texts that the model has taken in, as evidence to show; a reset leaves those of its own frame."""
    for row in np.flatnonzero(frames.reset).tolist():
        machines[row].texts.clear()
    for index, (row, text) in enumerate(frames.texts):
        if index not in unknown:
            machines[row].texts.append(RememberedText(text.id, text.text, text.time_ms, text.late))
