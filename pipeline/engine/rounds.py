"""Rounds: how a machine group's model, diagnoses and alarms follow from its frames, and who watches that."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pipeline.arrays import Floats, Ints
from pipeline.compiled import Notify
from pipeline.config.classes import are_classes_for, labelled_classes, unknown_class
from pipeline.config.sections.alarms import AlarmEntry
from pipeline.engine.diagnoses import Answers, DiagnosedMachine, DiagnosisWriter, RememberedText
from pipeline.engine.machines import Machine, MachineGroup
from pipeline.engine.reports.alarms import AlarmRule
from pipeline.engine.reports.drift import Drift
from pipeline.engine.reports.drift_rule import DriftRule
from pipeline.engine.reports.lifecycle.board import AlarmBoard
from pipeline.engine.reports.lifecycle.desk import publish
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


class Watchers:
    """Several watchers in the place of one."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def diagnosed(self, diagnosed: Round) -> None:
        """A round of frames has been diagnosed."""
        for watcher in self._watchers:
            watcher.diagnosed(diagnosed)

    def announced(
        self, model: ModelRef, modalities: tuple[str, ...], machine: DiagnosedMachine, start_ms: int, period_ms: int
    ) -> None:
        """A frame of a silent machine has been announced."""
        for watcher in self._watchers:
            watcher.announced(model, modalities, machine, start_ms, period_ms)

    def labelled(self, label: LabelledSpan) -> None:
        """A label has come."""
        for watcher in self._watchers:
            watcher.labelled(label)


class ModelState(NamedTuple):
    """What is saved of a machine besides its alignment."""

    runner: bytes
    alarms: bytes
    drift: bytes
    alarm_life: bytes


class GroupModel:
    """The model of one machine group: its runner, its alarms, its drift and the writer of its diagnoses."""

    def __init__(
        self,
        group: MachineGroup,
        runner: StepRunner,
        rule: AlarmRule,
        entries: Sequence[AlarmEntry],
        drift_rule: DriftRule | None,
        notify: Notify,
        embedded: AbstractSet[str] = frozenset(),
    ) -> None:
        """`entries` are the profile's settings of alarms, `rule` counts where there is none; `drift_rule` is None if no
        drift is to be reported; `notify` gets a line if code has to be compiled first; diagnoses of `embedded` machines
        carry embeddings.
        """
        machine_type = group.machine_type
        self.name = group.name
        self._faults = machine_type.faults
        self._unknown = unknown_class(runner.classes, self._faults)
        if not are_classes_for(runner.classes, self._faults):
            text = f"model {runner.name} knows other faults than machine type {group.name} of the profile"
            raise SettingsError(text)
        self.runner = runner
        self.writer = DiagnosisWriter(machine_type, runner, notify, embedded)
        self.alarms = AlarmBoard(machine_type, entries, runner.classes, self._unknown, self.writer.model, rule, notify)
        self._period_ms = machine_type.frame_period_ms
        self._remaining: Floats = np.zeros(0, np.float32)  # newest estimate in each slot, in frames, else NaN
        self.drift: Drift | None = None
        if drift_rule is not None:
            self.drift = Drift(drift_rule, machine_type, runner.classes, self.writer.model, notify)
        group.attach(self)

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        self.writer.load()
        self.alarms.load_code()
        if self.drift is not None:
            self.drift.load_code()

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        self.alarms.reserve(slots)
        if self.drift is not None:
            self.drift.reserve(slots)
        self.runner.reserve(slots)

    @property
    def remaining_seconds(self) -> Floats:
        """The newest estimate of the remaining life of each machine that has one, (N,)."""
        known = self._remaining[~np.isnan(self._remaining)]
        return np.asarray(known.astype(np.float64) * (self._period_ms / 1000))

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self.alarms.drop(slot)
        self._remaining[slot : slot + 1] = np.nan
        if self.drift is not None:
            self.drift.drop(slot)
        self.runner.reset(np.array([slot]))

    def diagnose(self, frames: Frames, machines: Sequence[Machine], outcome: Outcome) -> Round:
        """Step the model over a round, and write its diagnoses and what changed in the alarms."""
        stats, outputs, runner = outcome.stats, outcome.outputs, self.runner
        result = runner.step(frames)
        _remember_texts(frames, machines, result.unknown_texts)
        if result.remaining is not None:
            self._keep_remaining(frames.slots, result.remaining[:, 0])
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
        publish(self.alarms.step(frames, faults, confidence, machines), outcome)
        if self.drift is not None:
            for found in self.drift.step(frames, result, answers.faults, confidence, answers.disagreement):
                kind, output = self.drift.report(machines[found.row], int(frames.start_ms[found.row]), found)
                stats.drift[self.name, kind.value, "started" if found.started else "ended"] += 1
                outputs.append(output)
        return Round(
            self.writer.model, runner.classes, self._faults, runner.modalities, machines, frames, result, answers
        )

    def _keep_remaining(self, slots: Ints, estimates: Floats) -> None:
        missing = int(slots.max()) + 1 - len(self._remaining)
        if missing > 0:
            more = np.full(max(missing, len(self._remaining)), np.nan, np.float32)
            self._remaining = np.concatenate([self._remaining, more])
        self._remaining[slots] = estimates

    def save(self, slots: Ints) -> list[ModelState]:
        """The state of each machine."""
        drift = [b""] * len(slots) if self.drift is None else self.drift.save(slots)
        alarms = self.alarms.save(slots)
        return [
            ModelState(runner, detected, drifting, life)
            for runner, (detected, life), drifting in zip(self.runner.save(slots), alarms, drift, strict=True)
        ]

    def load(self, machine: Machine, state: ModelState) -> None:
        """Put back what `save` gave; raises StateError if it does not fit."""
        self.runner.load(machine.slot, state.runner)
        self.alarms.load(machine, state.alarms, state.alarm_life)
        if self.drift is not None:
            self.drift.load(machine.slot, state.drift)


def _remember_texts(frames: Frames, machines: Sequence[Machine], unknown: Sequence[int]) -> None:
    """Keep the texts that the model has taken in, as evidence to show; a reset leaves those of its own frame."""
    for row in np.flatnonzero(frames.reset).tolist():
        machines[row].texts.clear()
    for index, (row, text) in enumerate(frames.texts):
        if index not in unknown:
            machines[row].texts.append(RememberedText(text.id, text.text, text.time_ms, text.late))
