"""The document of one machine, made from its history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agents.audit.reports.alarm_list import AlarmStatus, summarize_alarms
from agents.audit.reports.drift_list import summarize_drift
from agents.console.documents.machine import (
    AlarmRecord,
    Choice,
    ComponentShare,
    DriftSpell,
    FaultWords,
    Frames,
    LabelGiven,
    MachineAlarms,
    MachineDocument,
    MachineName,
    Measurement,
    ModalityFrames,
    ModelName,
    Named,
    Newest,
    NormalBand,
    NormalBands,
    OpenAlarm,
    Probability,
    ReadingStatus,
    Remaining,
    TextEvent,
    TextSeen,
    Trend,
    VariableChoice,
)
from agents.console.machine.history import Frame, MachineHistory
from agents.console.machine.normal import SIGMA, NormalState
from agents.console.machine.readings import Rows
from agents.console.machine.thinning import MAX_POINTS, points
from agents.words import Words
from pipeline.config.classes import NO_EVIDENCE, RECOVERING, UNKNOWN
from pipeline.config.profile import MachineType, Variable
from pipeline.config.quantities.durations import shown_duration
from pipeline.config.sections.alarms import alarm_names
from pipeline.engine.reports.lifecycle.records import Alarm
from pipeline.wire.messages import MAX_TIME_MS, Diagnosis, RemainingLife

TRENDS = 6
"""Trends of which nobody has asked."""
MAX_TRENDS = 16
_MAX_FRAMES = 600
_MAX_RECORDS = 200
_MAX_TEXTS = 500


class Span(NamedTuple):
    """From a time until another one, both included, milliseconds."""

    from_ms: int
    until_ms: int

    def has(self, time_ms: int) -> bool:
        """Whether a time is in it."""
        return self.from_ms <= time_ms <= self.until_ms


@dataclass(frozen=True, slots=True)
class MachineView:
    """How documents of one machine are made."""

    history: MachineHistory
    words: Words
    normal: NormalState | None

    @property
    def _kind(self) -> MachineType:
        return self.history.machine_type

    def document(self, span: Span, reading: ReadingStatus, requested: Sequence[str]) -> MachineDocument:
        """The document of a span; `requested` are variables whose trends are wanted besides."""
        history, newest = self.history, self.history.newest
        frames = [history.frames[end_ms] for end_ms in sorted(history.frames) if span.has(end_ms)]
        named = Counter(name for frame in frames for name in frame.named)
        rows = _within(history.readings.rows(), span)
        of_frames = _within(history.readings.of_frames(history.readings.rows()), span)
        deviations = self._deviations(rows, of_frames)
        names = self._ranked(named, deviations)
        chosen = list(dict.fromkeys([*names[:TRENDS], *(name for name in requested if name in names)]))[:MAX_TRENDS]
        alarms = summarize_alarms(history.alarms[offset] for offset in sorted(history.alarms))
        shown = self._frames(frames)
        hash_ = None if newest is None else newest.model.hash
        own_hash = None if self.normal is None else self.normal.model_hash
        return MachineDocument(
            machine=self._name(),
            from_ms=span.from_ms,
            until_ms=span.until_ms,
            newest_ms=None if newest is None else newest.frame_end,
            frame_period_ms=self._kind.frame_period_ms,
            reading=reading,
            model=None if newest is None else ModelName(newest.model.name, newest.model.hash),
            normal=NormalBands(SIGMA, None if own_hash is None else own_hash[:12], own_hash == hash_),
            faults=self._faults(shown, alarms.alarms),
            variables=[self._choice(name, named[name]) for name in names],
            trends=[
                self._trend(name, rows, of_frames, span, named[name], deviations.get(name), name in requested)
                for name in chosen
            ],
            texts=self._texts(span),
            frames=shown,
            newest=None if newest is None else self._newest(newest),
            alarms=self._alarms(alarms.alarms, alarms.history),
            alarm_faults=[Choice(name, self._title(name)) for name in alarm_names(self._kind.faults)],
            label_faults=[Choice(name, self._title(name)) for name in dict.fromkeys((*self._kind.faults, UNKNOWN))],
            drift=self._drift(),
            labels=self._labels(),
        )

    # -- words ------------------------------------------------------------------------------------------------

    def _name(self) -> MachineName:
        machine = self.history.machine
        title = self.words.machine(machine).removeprefix(machine).strip() or None
        return MachineName(machine, title, self._kind.name, self.words.area(machine))

    def _title(self, fault: str) -> str | None:
        """The title of a fault, or of an alarm about the machine, without its id."""
        return self.words.alarm(self.history.machine, fault).removeprefix(fault).strip() or None

    def _faults(self, frames: Frames, alarms: Sequence[AlarmStatus]) -> dict[str, FaultWords]:
        names = [*self._kind.faults, RECOVERING, UNKNOWN, NO_EVIDENCE, *frames.fault, *(one.fault for one in alarms)]
        return {name: self._about(name) for name in dict.fromkeys(names)}

    def _about(self, fault: str) -> FaultWords:
        described = self.words.about_fault(self.history.machine, fault)
        if described is None:
            return FaultWords(self._title(fault), None, [], None, None)
        component = self.words.component(self.history.machine, fault)
        checks = list(described.check_first)
        return FaultWords(described.title, described.description, checks, component, described.priority)

    # -- trends -----------------------------------------------------------------------------------------------

    def _deviations(self, rows: Rows, of_frames: Rows) -> dict[str, float]:
        """Of the newest value of each variable."""
        if self.normal is None:
            return {}
        found = {}
        for column, variable in enumerate(self._kind.variables):
            values = (rows if variable.aggregation == "last" else of_frames).values[:, column]
            known = np.flatnonzero(~np.isnan(values))
            if len(known):
                found[variable.name] = round(self.normal.deviation(column, float(values[known[-1]])), 2)
        return found

    def _ranked(self, named: Counter[str], deviations: dict[str, float]) -> list[str]:
        """Variables, those that matter most first: by how often evidence names them, then by their deviations."""
        return sorted(self._kind.variable_names, key=lambda name: (-named[name], -abs(deviations.get(name, 0.0))))

    def _choice(self, name: str, named: int) -> VariableChoice:
        variable = self._kind.variables[self._kind.variable_names.index(name)]
        return VariableChoice(name, self.words.variable(self.history.machine, name), _unit(variable), named)

    def _trend(
        self,
        name: str,
        rows: Rows,
        of_frames: Rows,
        span: Span,
        named: int,
        deviation: float | None,
        is_requested: bool,
    ) -> Trend:
        column = self._kind.variable_names.index(name)
        variable = self._kind.variables[column]
        source = self._kind.sources[variable.source]
        times, values = rows if variable.aggregation == "last" else of_frames
        known = ~np.isnan(values[:, column])
        times, values = times[known], values[known, column]
        newest = self.history.newest
        band = None if self.normal is None else NormalBand(*(float(f"{x:.7g}") for x in self.normal.band(column)))
        return Trend(
            name=name,
            title=self.words.variable(self.history.machine, name),
            unit=_unit(variable),
            component=None if variable.component is None else self._component(variable.component),
            aggregation=variable.aggregation,
            steps=source.on_change,
            named=named,
            deviation=deviation,
            normal=band,
            values=len(times),
            thinned=len(times) > MAX_POINTS,
            frozen=newest is not None and name in newest.evidence.frozen,
            requested=is_requested,
            points=points(times, values, span.from_ms, span.until_ms, self._kind.hold_ms(variable.source)),
        )

    def _component(self, name: str) -> str:
        return self._kind.components[name].title or name

    # -- texts and frames -------------------------------------------------------------------------------------

    def _texts(self, span: Span) -> list[TextEvent]:
        history = self.history
        own = sorted((one for one in history.texts.values() if span.has(one.time_ms)), key=lambda one: one.time_ms)
        return [
            TextEvent(
                one.id,
                one.time_ms,
                one.text,
                one.source,
                one.severity,
                late=one.id in history.late_texts,
                refused=one.place in history.refused,
            )
            for one in own[-_MAX_TEXTS:]
        ]

    def _frames(self, frames: list[Frame]) -> Frames:
        every = -(-len(frames) // _MAX_FRAMES) or 1
        if every > 1:
            answers = [None, *(frame.fault for frame in frames)]
            last = len(frames) - 1
            frames = [
                frame
                for place, frame in enumerate(frames)
                if (last - place) % every == 0 or frame.fault != answers[place]
            ]
        names = dict.fromkeys(name for frame in frames for name in frame.modalities)
        return Frames(
            id=[frame.id for frame in frames],
            end_ms=[frame.end_ms for frame in frames],
            fault=[frame.fault for frame in frames],
            confidence=[frame.confidence for frame in frames],
            status=[frame.status for frame in frames],
            reset=[frame.reset for frame in frames],
            novelty=[frame.novelty for frame in frames],
            entropy=[frame.entropy for frame in frames],
            disagreement=[frame.disagreement for frame in frames],
            every=every,
            modalities=[self._modality(name, frames) for name in names],
        )

    def _modality(self, name: str, frames: Iterable[Frame]) -> ModalityFrames:
        answers = [frame.modalities.get(name) for frame in frames]
        declared = self._kind.modalities.get(name)
        return ModalityFrames(
            name=name,
            title=None if declared is None else declared.title,
            fault=[None if one is None else one.fault for one in answers],
            confidence=[None if one is None else one.confidence for one in answers],
            weight=[None if one is None else one.weight for one in answers],
            present=[None if one is None else one.present for one in answers],
            age_ms=[None if one is None else one.age_ms for one in answers],
        )

    # -- the newest diagnosis ---------------------------------------------------------------------------------

    def _newest(self, one: Diagnosis) -> Newest:
        machine, words = self.history.machine, self.words
        likely = sorted(one.probabilities.items(), key=lambda item: -item[1])
        components = sorted((one.components or {}).items(), key=lambda item: -item[1])
        units = {variable.name: _unit(variable) for variable in self._kind.variables}
        return Newest(
            id=one.id,
            frame_end_ms=one.frame_end,
            fault=one.fault,
            title=self._title(one.fault),
            confidence=one.confidence,
            status=one.status,
            entropy=one.entropy,
            disagreement=one.disagreement,
            novelty=one.novelty,
            probabilities=[Probability(fault, self._title(fault), share) for fault, share in likely],
            candidates=one.candidates,
            variables=[
                Measurement(
                    each.name,
                    words.variable(machine, each.name),
                    each.value,
                    units.get(each.name, ""),
                    each.deviation,
                    words.measurement(machine, each),
                )
                for each in one.evidence.variables
            ],
            texts=[TextSeen(text.id, text.text, one.frame_end - text.age_ms, text.late) for text in one.evidence.texts],
            frozen=[Named(name, words.variable(machine, name)) for name in one.evidence.frozen],
            components=[
                ComponentShare(name, self._component(name) if name in self._kind.components else name, share)
                for name, share in components
            ],
            remaining=None if one.remaining is None else self._remaining(one.remaining),
        )

    def _remaining(self, life: RemainingLife) -> Remaining:
        period_ms = self._kind.frame_period_ms
        ms, low_ms, high_ms = (round(count * period_ms) for count in (life.frames, life.low, life.high))
        said = f"about {shown_duration(ms)} ({shown_duration(low_ms)} to {shown_duration(high_ms)})"
        return Remaining(life.frames, life.low, life.high, ms, low_ms, high_ms, said)

    # -- alarms, drift, labels --------------------------------------------------------------------------------

    def _alarms(self, alarms: Sequence[AlarmStatus], history: Sequence[Alarm]) -> MachineAlarms:
        opened = [
            OpenAlarm(
                one.fault,
                self._title(one.fault),
                one.state.value,
                one.priority,
                one.id,
                one.raised_ms,
                one.since_ms,
                one.until_ms,
                one.by,
                one.why,
            )
            for one in alarms
        ]
        records = [
            AlarmRecord(
                one.id,
                one.fault,
                self._title(one.fault),
                one.state,
                one.time,
                one.priority,
                one.alarm,
                one.diagnosis or None,
                one.suppressed,
                one.by,
                one.why,
                one.sent,
                one.until,
            )
            for one in history[-_MAX_RECORDS:]
        ]
        return MachineAlarms(opened, records)

    def _drift(self) -> list[DriftSpell]:
        history = self.history
        episodes = summarize_drift(history.drift[offset] for offset in sorted(history.drift)).episodes
        return [
            DriftSpell(
                one.kind,
                one.variable,
                one.kind if one.variable is None else self.words.variable(history.machine, one.variable),
                one.direction,
                one.size,
                one.since_ms,
                one.reported_ms,
                one.ended_ms,
            )
            for one in episodes[:_MAX_RECORDS]
        ]

    def _labels(self) -> list[LabelGiven]:
        own = [label for _, label in sorted(self.history.labels.values(), key=lambda one: one[1].start_ms)]
        return [
            LabelGiven(
                one.fault,
                self._title(one.fault),
                one.start_ms,
                None if one.end_ms >= MAX_TIME_MS else one.end_ms,
                one.note,
                one.by,
                one.corrects,
                one.written_ms,
            )
            for one in own[-_MAX_RECORDS:]
        ]


def _within(rows: Rows, span: Span) -> Rows:
    begin, end = np.searchsorted(rows.times, span.from_ms), np.searchsorted(rows.times, span.until_ms, side="right")
    return Rows(rows.times[begin:end], rows.values[begin:end])


def _unit(variable: Variable) -> str:
    return "" if variable.aggregation == "count" else variable.unit
