"""Networks as area models: the state of every area, the network's inputs from its frames, and results in its layout."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from models.areas import exact
from models.areas.features import (
    MOST_EVIDENCE,
    SPEEDS,
    TEXT_FRAMES,
    AreaFeatures,
    AreaInputs,
    FeatureBuilder,
    initial_averages,
)
from models.areas.graph import AreaGraph, area_graph
from models.areas.rules import fault_log_odds
from models.areas.stepping.edges import StepEdges, step_edges
from models.areas.stepping.model_file import AreaModel
from models.areas.stepping.network import CompiledAreaNetwork, NetworkAnswer
from models.areas.utility_texts import UtilityTexts
from pipeline.areas.frames import AreaFrame, AreaResult, EmbeddingShape
from pipeline.areas.layout import AreaLayout, CauseKind, Relation
from pipeline.arrays import Bools, Floats, Ints
from pipeline.compiled import Notify
from pipeline.errors import ModelFileError, StateError

_SIZES: Final = struct.Struct("<3I")
"""Machines, utilities and event texts of a saved state."""


class _Text(NamedTuple):
    """A text about a utility that is a node of the graph."""

    age_frames: int
    utility: int
    answer: Floats  # (C,)


@dataclass(slots=True)
class _State:
    """What is remembered of one area."""

    averages: Floats  # (N, 2, C)
    utilities: int
    texts: list[_Text] = field(default_factory=list)
    """Oldest first, at most one of each frame and utility."""


class _Area(NamedTuple):
    """An area as the network sees it."""

    graph: AreaGraph
    builder: FeatureBuilder
    edges: StepEdges
    """Of frames without event texts."""
    columns: Ints  # (C,) where the network's classes are among the layout's
    classes: Ints  # (C_layout,) and the reverse; -1 of those that it does not have
    causes: Ints  # (U, C) which cause a utility's fault is, -1 where it is none


class AreaNetworkRunner:
    """Implements `AreaRunner` by a trained network.

    Its state is the running means of the machines' log odds and the texts of the last frames; each area has its own.
    A utility is named where the score of one of its faults is over all others by more than the file's threshold.
    """

    def __init__(self, model: AreaModel, texts: UtilityTexts | None, notify: Notify) -> None:
        """`texts` reads those about utilities, if the network was trained with them; `notify` gets a line if code has
        to be compiled first. Raises ModelFileError if a weight does not fit."""
        header = model.header
        self.name, self.hash = header.name, header.hash
        self.modalities = header.modalities
        self.embeddings: Mapping[str, EmbeddingShape] = {}
        if header.network.embeddings:
            shape = EmbeddingShape(header.machine_model, header.modalities, header.embeddings)
            self.embeddings = {header.machine_type: shape}
        self._header, self._path, self._notify, self._texts = header, model.path, notify, texts
        self._shape = header.shape
        self._network = CompiledAreaNetwork(header.network, self._shape, model.tensors, path=model.path, notify=notify)
        self._areas: dict[str, _Area] = {}
        self._states: dict[int, _State] = {}

    def require(self, layouts: Sequence[AreaLayout]) -> None:
        """Raise ModelFileError unless all machines are of the type that the network was trained for."""
        header = self._header
        for layout in layouts:
            if layout.types != (header.machine_type,) or layout.period_ms != header.frame_period_ms:
                kinds = ", ".join(layout.types)
                raise ModelFileError(
                    f"area model {self._path} is for machines of type {header.machine_type} with frames of "
                    f"{header.frame_period_ms} ms, area {layout.name} has {kinds} with {layout.period_ms} ms; train "
                    "one for it, or use a rule"
                )
            faults = [fault for utility in layout.utilities for fault in utility.faults]
            known = [name for place, name in enumerate(header.classes) if place not in self._shape.quiet]
            if missing := [name for name in faults if name not in known]:
                raise ModelFileError(
                    f"area model {self._path} has no fault {missing[0]}, which area {layout.name} has; train one for it"
                )
            if missing := [name for name in header.classes if name not in layout.classes[0]]:
                raise ModelFileError(
                    f"area model {self._path} has a class {missing[0]}, which machine type {header.machine_type} does "
                    "not have; train one for this profile"
                )
        if self._texts is not None and layouts:
            self._texts.require(layouts)

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        exact.load_code(self._notify)
        self._network.load_code()

    def reserve(self, slots: int) -> None:
        """Make room for the texts of so many areas; the rest of an area's state is made with its first frame."""
        if self._texts is not None:
            self._texts.reserve(slots)

    def reset(self, slot: int) -> None:
        """Forget an area."""
        self._states.pop(slot, None)
        if self._texts is not None:
            self._texts.reset(slot)

    def save(self, slot: int) -> bytes:
        """The state of an area; of one without a frame it has no machines."""
        state = self._states.get(slot) or _State(self._initial(0), 0)
        parts = [_SIZES.pack(len(state.averages), state.utilities, len(state.texts))]
        parts.append(state.averages.astype("<f4").tobytes())
        for text in state.texts:
            parts.append(struct.pack("<2I", text.age_frames, text.utility) + text.answer.astype("<f4").tobytes())
        if self._texts is not None:
            parts.append(self._texts.save(slot))
        return b"".join(parts)

    def load(self, slot: int, state: bytes) -> None:
        """Restore it; raises StateError if the bytes are no state of this network."""
        reader, classes = _Bytes(state), self._shape.classes
        machines, utilities, count = _SIZES.unpack(reader.take(_SIZES.size))
        averages = reader.numbers(machines * len(SPEEDS) * classes).reshape(machines, len(SPEEDS), classes)
        texts = []
        for _ in range(count):
            age, utility = struct.unpack("<2I", reader.take(8))
            if age >= TEXT_FRAMES or utility >= utilities:
                raise StateError("the state of an area has a text that is too old, or about no utility")
            texts.append(_Text(age, utility, reader.numbers(classes)))
        if self._texts is not None:
            self._texts.load(slot, reader.rest())
        elif reader.rest():
            raise StateError("the state of an area has bytes left over")
        self._states[slot] = _State(averages, utilities, texts)

    def step(self, frame: AreaFrame) -> AreaResult:
        """Advance an area by one frame."""
        layout = frame.layout
        area = self._areas.get(layout.digest) or self._areas.setdefault(layout.digest, self._area(layout))
        state = self._states.get(frame.slot)
        if state is None or frame.reset or len(state.averages) != len(layout.machines):
            state = self._states[frame.slot] = _State(self._initial(len(layout.machines)), len(layout.utilities))
        inputs = self._inputs(frame, area, state)
        area.builder.averages = state.averages
        features = area.builder.step(inputs)
        edges = area.edges
        if len(features.texts):
            edges = step_edges(area.graph, features.text_machines, features.text_utilities)
        answer = self._network.step(features, edges)
        return self._result(frame, area, features, answer)

    def _initial(self, machines: int) -> Floats:
        return initial_averages(machines, self._shape.classes)

    def _area(self, layout: AreaLayout) -> _Area:
        names, columns = self._header.classes, layout.classes[0]
        feeds: dict[int, list[int]] = {}
        fed = layout.edges[Relation.FEEDS]
        for source, target in zip(fed.sources.tolist(), fed.targets.tolist(), strict=True):
            feeds.setdefault(source, []).append(target)
        graph = area_graph(
            [one.machines.tolist() for one in layout.utilities],
            [[names.index(fault) for fault in one.faults] for one in layout.utilities],
            machines=len(layout.machines),
            classes=len(names),
            machine_types=[layout.types[0]] * len(layout.machines),
            feeds=feeds,
        )
        utility_of = {one.name: place for place, one in enumerate(layout.utilities)}
        causes = np.full(graph.faults.shape, -1, np.int64)
        for number, cause in enumerate(layout.causes):
            if cause.kind == CauseKind.UTILITY:
                causes[utility_of[cause.name or ""], names.index(cause.fault or "")] = number
        return _Area(
            graph,
            FeatureBuilder(graph, self._shape.quiet, self._notify),
            step_edges(graph, *_about(np.zeros(0, np.int64), graph)),
            np.array([columns.index(name) for name in names], np.int64),
            np.array([names.index(name) if name in names else -1 for name in columns], np.int64),
            causes,
        )

    def _inputs(self, frame: AreaFrame, area: _Area, state: _State) -> AreaInputs:
        """What the network is given of a frame, after its texts have been taken in."""
        utilities, classes = area.graph.utilities, self._shape.classes
        answers, has_text = np.zeros((utilities, classes), np.float32), np.zeros(utilities, np.bool_)
        if self._texts is not None:
            answers, has_text = self._texts.step(frame)
            older = [text._replace(age_frames=text.age_frames + 1 + frame.skipped) for text in state.texts]
            heard = {utility for utility, text in frame.texts if self._texts.knows(text.text)}
            state.texts = [text for text in older if text.age_frames < TEXT_FRAMES]
            state.texts += [_Text(0, utility, answers[utility].copy()) for utility in sorted(heard)]
        machines, utility_texts = _about(np.array([text.utility for text in state.texts], np.int64), area.graph)
        nothing = np.zeros((len(frame.probabilities), 0), np.float32)
        places = np.where(frame.modality_answer < 0, -1, area.classes[frame.modality_answer])
        return AreaInputs(
            probabilities=frame.probabilities[:, area.columns],
            present=frame.modality_present & frame.has_answer[:, None],
            answers=places,
            confidence=frame.modality_confidence,
            embeddings=frame.embeddings or (nothing,) * self._shape.modalities,
            utility_probabilities=answers,
            utility_present=has_text,
            texts=np.array([text.answer for text in state.texts], np.float32).reshape(-1, classes),
            text_machines=machines,
            text_utilities=utility_texts,
        )

    def _result(self, frame: AreaFrame, area: _Area, features: AreaFeatures, answer: NetworkAnswer) -> AreaResult:
        layout = frame.layout
        scores = np.zeros(len(layout.causes), np.float32)
        shared = area.causes >= 0
        scores[0], scores[layout.own_causes] = answer.none, answer.own
        scores[area.causes[shared]] = answer.shared[shared] - np.float32(self._header.threshold)
        causes = exact.softmax(scores)
        corrected = np.zeros_like(frame.probabilities)
        corrected[:, area.columns] = answer.machines
        known = np.asarray(features.present.any(axis=1))
        if answer.neighbours is None:
            corrected[~known] = 0
        else:  # of a machine that says nothing, only what its neighbours say is known
            corrected[~known & ~answer.neighbours.any(axis=1)] = 0
        support = self._support(int(causes.argmax()), layout, area, features, known)
        return AreaResult(causes, corrected, support, answer.neighbours)

    def _support(self, best: int, layout: AreaLayout, area: _Area, features: AreaFeatures, known: Bools) -> Floats:
        """(N + U,) the log odds of a utility's fault by its machines, and by the texts about it, as the network weighs
        them; a machine's own fault is supported by that machine."""
        machines = len(layout.machines)
        support = np.zeros(machines + len(layout.utilities), np.float32)
        own = layout.own_causes
        if best >= own.start:
            support[best - own.start] = 1
        elif best:
            (utility, fault), *_ = np.argwhere(area.causes == best).tolist()
            of_machines, of_texts = self._network.evidence_weights
            odds = fault_log_odds(features.log_probabilities, self._shape.quiet, 0, float(MOST_EVIDENCE))[:, fault]
            support[:machines] = np.where(area.graph.members[utility] & known, of_machines * odds, np.float32(0))
            support[machines + utility] = of_texts * features.evidence[utility, fault, -1]
            total = np.float32(np.add.accumulate(support)[-1])
            support = support / total if total > 0 else np.zeros_like(support)
        return support


class _Bytes:
    """Reads a saved state from its beginning to its end."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes; raises StateError if there are fewer."""
        found = self._content[self._at : self._at + size]
        if len(found) != size:
            raise StateError(f"{len(self._content)} bytes are no state of an area: they end too early")
        self._at += size
        return found

    def numbers(self, count: int) -> Floats:
        """The next float32 numbers; raises StateError."""
        found = np.frombuffer(self.take(4 * count), "<f4").astype(np.float32)
        if not np.isfinite(found).all():
            raise StateError("the state of an area holds values that are no numbers; it was damaged")
        return found

    def rest(self) -> bytes:
        """All that is left."""
        return self._content[self._at :]


def _about(utilities: Ints, graph: AreaGraph) -> tuple[Bools, Bools]:
    """Of texts about these utilities (X,): the machines (X, N), none, and the utilities (X, U) that they are about."""
    machines = np.zeros((len(utilities), graph.machines), np.bool_)
    return machines, utilities[:, None] == np.arange(graph.utilities)
