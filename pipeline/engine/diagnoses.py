"""Writes a model's results for a round of frames as diagnoses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Floats, Ints
from pipeline.compiled import Notify
from pipeline.config.classes import NO_EVIDENCE, unknown_class
from pipeline.config.profile import MachineType
from pipeline.config.sections.modalities import modality_columns
from pipeline.config.sections.titles import component_table
from pipeline.config.topics import DIAGNOSES
from pipeline.engine.answers import RoundAnswers, parts_of
from pipeline.frames import Frames, Resets, StepResult, StepRunner
from pipeline.wire import messages
from pipeline.wire.diagnosis_columns import (
    AGE_MS,
    CONFIDENCE,
    DEVIATIONS,
    DISAGREEMENT,
    END_MS,
    ENTROPY,
    FAULT,
    HUNDREDTHS,
    LARGEST,
    MODALITIES,
    MODALITY_COLUMNS,
    OWN_CONFIDENCE,
    OWN_FAULT,
    PRESENT,
    REMAINING_NUMBERS,
    RESET,
    REVISION,
    SILENT,
    START_MS,
    TOP,
    UNDEFINED,
    UNIT,
    VARIABLES,
    WEIGHT,
    Parts,
    first_probability,
)
from pipeline.wire.diagnosis_json import Names, RoundTexts, RoundWriter
from pipeline.wire.json.embeddings import with_embeddings
from pipeline.wire.messages import (
    MIN_PROBABILITY,
    Diagnosis,
    Evidence,
    ModalityAnswer,
    ModelRef,
    RemainingLife,
    TextEvidence,
    VariableEvidence,
)
from pipeline.wire.records import Output

TEXT = "text"

_new_output = partial(tuple.__new__, Output)  # half the cost of calling Output
_RESET_NAMES = [reason.name.lower() if reason else None for reason in Resets]


@dataclass(frozen=True, slots=True)
class RememberedText:
    """A text that a machine's recent frames have taken."""

    id: str
    text: str
    time_ms: int
    late: bool
    head: bytes = field(init=False, repr=False, compare=False)
    """As evidence in JSON, up to the text's age."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "head", messages.text_head(self.id, self.text))


@dataclass(frozen=True, slots=True)
class Answers:
    """The main numbers of a round's diagnoses, in arrays with one entry per row."""

    faults: Ints  # class index; -1 = no evidence
    confidence: Floats
    entropy: NDArray[np.float64]  # of the fused probabilities, nats
    disagreement: NDArray[np.float64]  # Jensen-Shannon divergence between the modalities, nats


class DiagnosedMachine(Protocol):
    """What the writer needs to know of a machine."""

    name: str
    key: bytes
    quoted: bytes  # the name as JSON has it between its quotes
    partition: int

    @property
    def texts(self) -> Sequence[RememberedText]: ...


class DiagnosisWriter:
    """Turns step results of one machine type into output records."""

    def __init__(
        self, machine_type: MachineType, runner: StepRunner, notify: Notify, embedded: AbstractSet[str] = frozenset()
    ) -> None:
        """`notify` gets a line if code has to be compiled first; diagnoses of `embedded` machines carry embeddings."""
        self._type = machine_type
        self._embedded = embedded
        self._classes = runner.classes
        self._modalities = runner.modalities
        self.model = ModelRef(runner.name, runner.hash)
        self._variables = machine_type.variable_names
        self._named = (*runner.classes, NO_EVIDENCE)  # the last one is found at index -1, too
        self._ttl_ms = machine_type.text_ttl_frames * machine_type.frame_period_ms
        text = self._modalities.index(TEXT) if TEXT in self._modalities else -1
        self._machines: Sequence[DiagnosedMachine] = ()
        self._last_columns: tuple[Names, list[int], list[bytes]] = Names(()), [], []
        self._unknown = unknown_class(runner.classes, machine_type.faults)
        table = component_table(machine_type.components, machine_type.described_faults)
        self._components = table.names
        columns = np.ones((len(runner.modalities), len(self._variables)), np.bool_)
        for modality, own in modality_columns(machine_type.modalities, self._variables).items():
            if modality in runner.modalities:
                columns[runner.modalities.index(modality)] = np.isin(np.arange(len(self._variables)), own)
        self._answers = RoundAnswers(text, self._unknown, columns, table, notify)
        names = runner.classes, runner.modalities, self._variables, self._components
        self._writer = RoundWriter(self.model, *names, _RESET_NAMES, NO_EVIDENCE, notify)

    def load(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        self._answers.load()
        self._writer.load()

    def write(
        self,
        frames: Frames,
        result: StepResult,
        machines: Sequence[DiagnosedMachine],
        outputs: list[Output],
        counts: Counter[str],
    ) -> Answers:
        """Append one diagnosis per row; returns their main numbers."""
        ends = (frames.start_ms + frames.period_ms).tolist()
        remembered = self._remembered(machines, ends)
        text_age_ms = np.full(len(ends), UNDEFINED)
        texts = None
        if remembered:
            text_age_ms[list(remembered)] = [ends[row] - max(t.time_ms for t in own) for row, own in remembered.items()]
            texts = _round_texts(remembered, ends)
        parts = parts_of(result, len(self._components))
        numbers = self._answers.compute(frames, result, parts, text_age_ms)
        names, partitions, keys = self._columns(machines)
        values, others = self._writer.write(numbers, parts, frames.values, names, texts)
        frozen = () if frames.frozen is None else np.flatnonzero(frames.frozen.any(axis=1)).tolist()
        for row in sorted({*others, *frozen}):
            diagnosis = self._diagnosis(row, machines[row].name, frames, result, numbers, parts, remembered)
            values[row] = messages.encode(diagnosis)
        if self._embedded:
            self._add_embeddings(result, machines, values)
        outputs += map(_new_output, zip(repeat(DIAGNOSES), partitions, keys, values, ends, repeat(())))
        faults = numbers[:, FAULT].copy()
        for fault, count in Counter(faults.tolist()).items():
            counts[self._named[fault]] += count
        summary = numbers[:, [LARGEST, ENTROPY, DISAGREEMENT]] / UNIT
        return Answers(faults, summary[:, 0].astype(np.float32), summary[:, 1], summary[:, 2])

    def _add_embeddings(self, result: StepResult, machines: Sequence[DiagnosedMachine], values: list[bytes]) -> None:
        if result.embeddings is None:
            return
        modalities = list(enumerate(zip(self._modalities, result.embeddings, strict=True)))
        for row, machine in enumerate(machines):
            if machine.name in self._embedded:
                own = {name: features[row] for place, (name, features) in modalities if result.present[place, row]}
                values[row] = with_embeddings(values[row], own)

    def _columns(self, machines: Sequence[DiagnosedMachine]) -> tuple[Names, list[int], list[bytes]]:
        """Names, partitions and keys; most rounds are about the same machines as the one before."""
        if machines is not self._machines:
            self._machines = machines
            self._last_columns = (
                Names([machine.quoted for machine in machines]),
                [machine.partition for machine in machines],
                [machine.key for machine in machines],
            )
        return self._last_columns

    def _remembered(self, machines: Sequence[DiagnosedMachine], ends: Sequence[int]) -> dict[int, list[RememberedText]]:
        """The texts of each row that has any, oldest first."""
        remembered = {}
        for row, machine in enumerate(machines):
            if machine.texts:
                since_ms = ends[row] - self._ttl_ms
                if texts := [text for text in machine.texts if text.time_ms >= since_ms]:
                    remembered[row] = texts
        return remembered

    def _diagnosis(
        self,
        row: int,
        machine: str,
        frames: Frames,
        result: StepResult,
        numbers: Ints,
        parts: Parts,
        remembered: Mapping[int, Sequence[RememberedText]],
    ) -> Diagnosis:
        """The diagnosis of a row with a number that the round's writer cannot write: far from 1, or not finite."""
        given = numbers[row].tolist()
        start_ms, end_ms, revision = given[START_MS], given[END_MS], given[REVISION]
        first = first_probability(len(self._modalities))
        shares = given[first : first + len(self._classes)]
        modalities = {}
        for index, modality in enumerate(self._modalities):
            own = given[MODALITIES + index * MODALITY_COLUMNS :][:MODALITY_COLUMNS]
            age_ms = None if own[AGE_MS] == UNDEFINED else own[AGE_MS]
            modalities[modality] = ModalityAnswer(
                self._named[own[OWN_FAULT]],
                _fraction(own[OWN_CONFIDENCE]),
                _fraction(own[WEIGHT]),
                bool(own[PRESENT]),
                age_ms,
            )
        variables = []
        for place in range(given[VARIABLES]):
            column, deviation = given[TOP + place], given[DEVIATIONS + place]
            # One of so many standard deviations has no decimals.
            distance = float(result.scaled[row, column]) if deviation == UNDEFINED else _fraction(deviation, HUNDREDTHS)
            value = _significant(frames.values[row, column])
            variables.append(VariableEvidence(self._variables[column], value, distance))
        texts = [TextEvidence(t.id, t.text, end_ms - t.time_ms, t.late) for t in remembered.get(row, ())]
        return Diagnosis(
            id=self._id(machine, end_ms, revision),
            machine=machine,
            frame_start=start_ms,
            frame_end=end_ms,
            fault=self._named[given[FAULT]],
            confidence=_fraction(given[CONFIDENCE]),
            probabilities=_shares(self._classes, shares),
            modalities=modalities,
            entropy=_fraction(given[ENTROPY]),
            disagreement=_fraction(given[DISAGREEMENT]),
            evidence=Evidence(variables, texts, self._frozen(frames, row)),
            status="silent" if given[SILENT] else "active",
            reset=_RESET_NAMES[given[RESET]],
            revision=revision,
            model=self.model,
            attention=_attention(given, parts),
            novelty=_known_fraction(given[parts.novelty_at]) if parts.novelty else None,
            candidates=self._candidates(given, parts),
            remaining=_remaining(given, parts),
            components=_shares(self._components, given[parts.components_at :]) if self._components else None,
        )

    def _candidates(self, given: Sequence[int], parts: Parts) -> list[str]:
        if not parts.candidates:
            return []
        marks = given[parts.candidates_at + 1 : parts.remaining_at]
        return [name for name, mark in zip(self._classes, marks, strict=True) if mark]

    def _frozen(self, frames: Frames, row: int) -> list[str]:
        if frames.frozen is None:
            return []
        return [self._variables[column] for column in np.flatnonzero(frames.frozen[row]).tolist()]

    def announce(self, machine: str, partition: int, start_ms: int, *, offline: bool) -> tuple[str, Output]:
        """The diagnosis of a frame that a silent machine let pass: no evidence."""
        end = start_ms + self._type.frame_period_ms
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
            components={} if self._components else None,
        )
        return NO_EVIDENCE, Output(DIAGNOSES, partition, machine.encode(), messages.encode(diagnosis), end)

    def _id(self, machine: str, end_ms: int, revision: int) -> str:
        return f"{machine}:{end_ms}:{self.model.hash[:12]}:{revision}"


def _round_texts(remembered: Mapping[int, Sequence[RememberedText]], ends: Sequence[int]) -> RoundTexts:
    texts = [text for own in remembered.values() for text in own]
    counts = np.zeros(len(ends), np.int64)
    counts[list(remembered)] = [len(own) for own in remembered.values()]
    return RoundTexts(
        heads=[text.head for text in texts],
        age_ms=[ends[row] - text.time_ms for row, own in remembered.items() for text in own],
        late=[text.late for text in texts],
        counts=counts,
    )


def _shares(names: Sequence[str], given: Sequence[int]) -> dict[str, float]:
    """Probabilities by name, without those that are too small to be written."""
    fractions = zip(names, map(_fraction, given), strict=True)
    return {name: share for name, share in fractions if not share < MIN_PROBABILITY}


def _attention(given: Sequence[int], parts: Parts) -> list[list[float]] | None:
    if not parts.attention:
        return None
    starts = range(parts.attention_at, parts.novelty_at, parts.modalities)
    return [[_fraction(units) for units in given[start : start + parts.modalities]] for start in starts]


def _remaining(given: Sequence[int], parts: Parts) -> RemainingLife | None:
    if not parts.remaining or not given[parts.remaining_at]:
        return None
    begin = parts.remaining_at + 1
    return RemainingLife(*(units / UNIT for units in given[begin : begin + REMAINING_NUMBERS]))


def _known_fraction(units: int) -> float | None:
    return None if units == UNDEFINED else units / UNIT


def _fraction(units: int, per_one: int = UNIT) -> float:
    return math.nan if units == UNDEFINED else units / per_one


def _significant(value: np.float32) -> float:
    """The digits that a float32 has."""
    return float(f"{value:.7g}")
