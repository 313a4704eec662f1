"""Turns closed frames of an area into what its model takes, and the model's results into diagnoses and alarms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from pipeline.areas.alignment import ClosedFrame
from pipeline.areas.frames import AreaFrame, AreaResult, AreaRunner, Presence
from pipeline.areas.layout import AreaLayout, Cause, CauseKind
from pipeline.areas.messages import AreaDiagnosis, AreaText, CauseAnswer, CorrectedAnswer, Support, encode_area
from pipeline.arrays import Floats
from pipeline.config.classes import NO_EVIDENCE
from pipeline.config.topics import PLANT
from pipeline.wire.json.embeddings import embedding_of
from pipeline.wire.messages import MIN_PROBABILITY, Diagnosis, ModelRef, RejectedError
from pipeline.wire.records import Output

_MAX_CAUSES: Final = 5
_DECIMALS: Final = 100_000


class FrameBuilder:
    """Makes an area's frames of what has come of its machines."""

    def __init__(self, layout: AreaLayout, runner: AreaRunner) -> None:
        self._layout = layout
        self._modalities = {name: place for place, name in enumerate(runner.modalities)}
        self._columns = [{name: place for place, name in enumerate(classes)} for classes in layout.classes]
        self._shapes = [runner.embeddings.get(name) for name in layout.types]
        sizes = [
            [shape.sizes[shape.modalities.index(name)] for shape in self._shapes if shape and name in shape.modalities]
            for name in runner.modalities
        ]
        self._sizes = [max(own, default=0) for own in sizes] if any(self._shapes) else []

    def build(self, closed: ClosedFrame, slot: int) -> AreaFrame:
        """One frame; embeddings that cannot be used are left out."""
        layout = self._layout
        count, modalities = len(layout.machines), len(self._modalities)
        frame = AreaFrame(
            layout=layout,
            slot=slot,
            start_ms=closed.end_ms - layout.period_ms,
            reset=closed.reset,
            skipped=closed.skipped,
            presence=np.array(closed.presence, np.int64),
            age_ms=np.array(closed.age_ms, np.int64),
            probabilities=np.zeros((count, layout.widest), np.float32),
            modality_present=np.zeros((count, modalities), np.bool_),
            modality_answer=np.full((count, modalities), -1, np.int64),
            modality_confidence=np.zeros((count, modalities), np.float32),
            modality_age_ms=np.full((count, modalities), -1, np.int64),
            embedded=np.zeros((count, modalities), np.bool_),
            embeddings=tuple(np.zeros((count, size), np.float32) for size in self._sizes),
            texts=closed.texts,
        )
        for machine, diagnosis in enumerate(closed.diagnoses):
            if diagnosis is not None:
                self._add(frame, machine, diagnosis)
        return frame

    def _add(self, frame: AreaFrame, machine: int, diagnosis: Diagnosis) -> None:
        columns = self._columns[int(self._layout.type_of[machine])]
        for name, probability in diagnosis.probabilities.items():
            if name in columns:
                frame.probabilities[machine, columns[name]] = probability
        for name, own in diagnosis.modalities.items():
            place = self._modalities.get(name)
            if place is None or not own.present:
                continue
            frame.modality_present[machine, place] = True
            frame.modality_answer[machine, place] = columns.get(own.fault, -1)
            frame.modality_confidence[machine, place] = own.confidence
            frame.modality_age_ms[machine, place] = -1 if own.age_ms is None else own.age_ms
        shape = self._shapes[int(self._layout.type_of[machine])]
        if shape is None or shape.model != diagnosis.model.hash:
            return
        for name, encoded in diagnosis.embeddings.items():
            place = self._modalities.get(name)
            if place is None or name not in shape.modalities:
                continue
            features = _embedding(encoded, shape.sizes[shape.modalities.index(name)])
            if features is not None:
                frame.embeddings[place][machine, : len(features)] = features
                frame.embedded[machine, place] = True


class AreaWriter:
    """Writes an area model's results."""

    def __init__(self, layout: AreaLayout, runner: AreaRunner) -> None:
        self._layout = layout
        self._model = ModelRef(runner.name, runner.hash)
        self._nodes = [("machine", name, name) for name in layout.machines]
        self._nodes += [("utility", one.name, one.id) for one in layout.utilities]

    def write(self, frame: AreaFrame, result: AreaResult, partition: int) -> tuple[Output, Cause, float]:
        """The diagnosis of a frame, its most probable cause and that one's probability."""
        layout = self._layout
        best = int(result.causes.argmax())
        probabilities = [_rounded(value) for value in result.causes.tolist()]
        order = sorted(range(len(probabilities)), key=lambda one: -float(result.causes[one]))
        answers = [self._corrected(frame, result, machine) for machine in range(len(layout.machines))]
        causes = [self._cause(one, probabilities[one], answers) for one in order[:_MAX_CAUSES]]
        diagnosis = AreaDiagnosis(
            id=self.diagnosis_id(frame.end_ms),
            area=layout.name,
            frame_start=frame.start_ms,
            frame_end=frame.end_ms,
            cause=self._cause(best, probabilities[best], answers),
            causes=[one for one in causes if one.probability >= MIN_PROBABILITY],
            evidence=self._support(result.support),
            machines=dict(zip(layout.machines, answers, strict=True)),
            reset=frame.reset,
            model=self._model,
            texts=[
                AreaText(text.id, layout.utilities[utility].name, text.text, text.late) for utility, text in frame.texts
            ],
        )
        output = Output(PLANT, partition, layout.name.encode(), encode_area(diagnosis), frame.end_ms)
        return output, layout.causes[best], probabilities[best]

    def diagnosis_id(self, end_ms: int) -> str:
        """The id of the diagnosis of the frame that ends then."""
        return f"{self._layout.name}:{end_ms}:{self._model.hash[:12]}"

    def _cause(self, index: int, probability: float, answers: Sequence[CorrectedAnswer]) -> CauseAnswer:
        cause = self._layout.causes[index]
        fault = cause.fault
        if cause.kind == CauseKind.MACHINE:
            fault = answers[index - self._layout.own_causes.start].fault
        return CauseAnswer(cause.kind.value, probability, cause.name, fault)

    def _support(self, support: Floats) -> list[Support]:
        weights = [(_rounded(weight), place) for place, weight in enumerate(support.tolist())]
        shown = sorted((one for one in weights if one[0] >= MIN_PROBABILITY), key=lambda one: (-one[0], one[1]))
        kinds: list[Any] = [kind for kind, _, _ in self._nodes]
        return [Support(kinds[place], self._nodes[place][1], weight) for weight, place in shown]

    def _corrected(self, frame: AreaFrame, result: AreaResult, machine: int) -> CorrectedAnswer:
        classes, age_ms = self._layout.classes_of(machine), int(frame.age_ms[machine])
        neighbours = {}
        if result.neighbours is not None:
            taken = enumerate(result.neighbours[machine].tolist())
            neighbours = {self._nodes[at][2]: w for at, given in taken if (w := _rounded(given)) >= MIN_PROBABILITY}
        return CorrectedAnswer(
            Presence(frame.presence[machine]).name.lower(),
            *_answer(result.probabilities[machine], classes),
            *_answer(frame.probabilities[machine], classes),
            None if age_ms < 0 else age_ms,
            neighbours,
        )


def _answer(probabilities: Floats, classes: Sequence[str]) -> tuple[str, float]:
    best = int(probabilities[: len(classes)].argmax())
    confidence = _rounded(float(probabilities[best]))
    return (classes[best], confidence) if probabilities[best] > 0 else (NO_EVIDENCE, 0.0)


def _rounded(number: float) -> float:
    """Five decimals, halves up; the product of a float32 is exact enough to be the same everywhere."""
    return int(number * _DECIMALS + 0.5) / _DECIMALS


def _embedding(encoded: str, size: int) -> Floats | None:
    try:
        features = embedding_of(encoded)
    except RejectedError:
        return None
    return features if len(features) == size else None
