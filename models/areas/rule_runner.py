"""Rules as area models: from the answers of one frame, whether a utility has failed; they have no state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
from pydantic import model_validator

from models.areas import exact
from models.areas.rules import LEAST_PROBABILITY, NO_UTILITY, RuleShape, fault_log_odds, strongest
from models.areas.utility_texts import UtilityTexts
from pipeline.areas.frames import AreaFrame, AreaResult, EmbeddingShape
from pipeline.areas.layout import AreaLayout
from pipeline.arrays import Bools, Floats, Ints
from pipeline.compiled import Notify
from pipeline.config.classes import faultless_classes
from pipeline.config.profile import NORMAL
from pipeline.errors import StateError

_FAR: Final = 60.0
"""Log odds of what is certain; those of what is out of the question are the same below 0."""

_REVISION: Final = 1
"""Of the computation, which the hash covers; another one is another model."""


class AreaRuleConfig(RuleShape):
    """A rule with its threshold."""

    threshold: float
    """A utility is named where its score is over this: the sum, or the log odds of the machine that is the last to
    agree."""
    text_model: Path | None = None
    """The machine model that reads these texts, relative to the rule's file; needed with `texts`."""

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if bool(self.texts) != (self.text_model is not None):
            raise ValueError("`texts` needs `text_model`, the model file that reads them, and the reverse")
        return self


RULES: Final[Mapping[str, AreaRuleConfig]] = {
    "agreeing": AreaRuleConfig(rule="agreeing", threshold=-0.4),
    "log_odds": AreaRuleConfig(rule="log_odds", threshold=1.2, low=0.0, high=6.0),
}
"""The rules by their names, with the values that they have unless a file gives others (docs/guide/models.md)."""


class _Graph(NamedTuple):
    """What the rules need of a layout; classes are those of all its types on one axis."""

    names: list[str]  # of the classes
    quiet: list[int]  # classes without a fault
    columns: Ints  # (N, C_widest) where each class of a machine is on that axis, -1 where it has none
    members: Bools  # (U, N)
    faults: Bools  # (U, classes)
    causes: Ints  # (U, classes) which cause it is, -1 where it is none
    own: slice


class RuleRunner:
    """Implements `AreaRunner` by a rule, whose only state is that of the texts about utilities, if it reads them.

    A utility is the cause where its score is over the threshold, else a machine's own fault or nothing, whichever its
    log odds say. Machines that only look as the failed utility makes them look have no fault of their own.
    """

    modalities: tuple[str, ...] = ()
    embeddings: Mapping[str, EmbeddingShape] = {}

    def __init__(self, config: AreaRuleConfig, notify: Notify, texts: UtilityTexts | None = None) -> None:
        """`notify` gets a line if code has to be compiled first; `texts` is needed if the rule reads texts."""
        self.config = config
        self.name = config.rule
        self._texts = texts
        essence = [_REVISION, config.model_dump(mode="json", exclude={"texts", "text_model"})]
        if texts is not None:
            essence += [config.texts, texts.hash]
        self.hash = hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).hexdigest()
        self._notify = notify
        self._graphs: dict[str, _Graph] = {}

    def require(self, layouts: Sequence[AreaLayout]) -> None:
        """Rules step any area."""
        if self._texts is not None and layouts:
            self._texts.require(layouts)

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        exact.load_code(self._notify)

    def reserve(self, slots: int) -> None:
        """Make room for the texts of so many areas."""
        if self._texts is not None:
            self._texts.reserve(slots)

    def reset(self, slot: int) -> None:
        """Forget the texts."""
        if self._texts is not None:
            self._texts.reset(slot)

    def save(self, slot: int) -> bytes:
        """The state, which is empty without texts."""
        return b"" if self._texts is None else self._texts.save(slot)

    def load(self, slot: int, state: bytes) -> None:
        """Raises StateError if this is no state of this rule."""
        if self._texts is not None:
            self._texts.load(slot, state)
        elif state:
            raise StateError("rules of areas that read no texts have no state")

    def step(self, frame: AreaFrame) -> AreaResult:
        """What the rule makes of one frame."""
        layout = frame.layout
        graph = self._graphs.get(layout.digest) or self._graphs.setdefault(layout.digest, _graph(layout))
        known, config = frame.has_answer, self.config
        probabilities = _on_one_axis(frame.probabilities, graph)
        logs = exact.logarithms(probabilities, LEAST_PROBABILITY)
        odds = fault_log_odds(logs, graph.quiet, config.low, config.high)
        scores = config.scores(odds[None], known[None], graph.members, graph.faults)
        told = np.zeros(graph.faults.shape, np.float32)
        if self._texts is not None:
            told = np.float32(config.texts) * self._odds_of_texts(frame, graph)
            scores = scores + np.where(graph.faults, told, np.float32(0))
        utility, fault, _ = (int(column[0]) for column in strongest(scores, config.threshold))
        own = _own_odds(logs, known, graph)
        if utility != NO_UTILITY:
            looks_like_it = graph.members[utility] & (probabilities.argmax(axis=1) == fault)
            own = np.where(looks_like_it, np.float32(-_FAR), own)
        causes = self._causes(layout, graph, scores[0], own, named=utility != NO_UTILITY)
        support = np.zeros(len(layout.machines) + len(layout.utilities), np.float32)
        corrected, best = frame.probabilities.copy(), int(causes.argmax())
        if utility != NO_UTILITY:
            _explain(frame, graph, utility, fault, float(causes[graph.causes[utility, fault]]), corrected)
            weights = np.where(graph.members[utility] & known, np.maximum(odds[:, fault], 0), np.float32(0))
            support[: len(weights)], support[len(weights) + utility] = weights, told[utility, fault]
            total = _sum(support)
            support = support / total if total > 0 else np.zeros_like(support)
        elif best >= graph.own.start:
            support[best - graph.own.start] = 1
        return AreaResult(causes, corrected, support)

    def _odds_of_texts(self, frame: AreaFrame, graph: _Graph) -> Floats:
        """(U, classes) log odds from 0 up of each fault by the texts about each utility."""
        assert self._texts is not None
        said, there = self._texts.step(frame)
        spread = np.zeros(graph.faults.shape, np.float32)
        for place, name in enumerate(self._texts.classes):
            if name in graph.names:
                spread[:, graph.names.index(name)] = said[:, place]
        logs = exact.logarithms(spread, LEAST_PROBABILITY)
        odds = fault_log_odds(logs, graph.quiet, 0, np.inf)
        return np.where(there[:, None], odds, np.float32(0))

    def _causes(self, layout: AreaLayout, graph: _Graph, scores: Floats, own: Floats, *, named: bool) -> Floats:
        """Probabilities (K,) of the causes; a utility that is named is ahead of all others."""
        logits = np.zeros(len(layout.causes), np.float32)
        logits[graph.own] = own
        shared = graph.causes >= 0
        ahead = np.float32(max(float(own.max()), 0.0)) if named else np.float32(0)
        logits[graph.causes[shared]] = scores[shared] - np.float32(self.config.threshold) + ahead
        return exact.softmax(np.clip(logits, np.float32(-_FAR), np.float32(_FAR)))


def _graph(layout: AreaLayout) -> _Graph:
    names = list(dict.fromkeys([NORMAL, *(name for classes in layout.classes for name in classes)]))
    columns = np.full((len(layout.machines), layout.widest), -1, np.int64)
    for machine in range(len(layout.machines)):
        classes = layout.classes_of(machine)
        columns[machine, : len(classes)] = [names.index(name) for name in classes]
    members = np.zeros((len(layout.utilities), len(layout.machines)), np.bool_)
    faults = np.zeros((len(layout.utilities), len(names)), np.bool_)
    causes = np.full(faults.shape, -1, np.int64)
    number = 1  # behind `none`
    for place, utility in enumerate(layout.utilities):
        members[place, utility.machines] = True
        for fault in utility.faults:
            faults[place, names.index(fault)] = True
            causes[place, names.index(fault)] = number
            number += 1
    return _Graph(names, faultless_classes(names), columns, members, faults, causes, layout.own_causes)


def _on_one_axis(probabilities: Floats, graph: _Graph) -> Floats:
    spread = np.zeros((len(probabilities), len(graph.names)), np.float32)
    rows, places = np.nonzero(graph.columns >= 0)
    spread[rows, graph.columns[rows, places]] = probabilities[rows, places]
    return spread


def _own_odds(logs: Floats, known: Bools, graph: _Graph) -> Floats:
    """(N,) log odds of each machine's most probable fault, of `unknown` too, against its normal state."""
    faulty = np.delete(logs, graph.quiet, axis=1).max(axis=1) - logs[:, graph.quiet].max(axis=1)
    return np.where(known, faulty, np.float32(-_FAR)).astype(np.float32)


def _explain(frame: AreaFrame, graph: _Graph, utility: int, fault: int, probability: float, corrected: Floats) -> None:
    """Mix the failed utility's fault into the answers of its machines, as probable as it is the cause.

    A machine without an answer has the fault, or else is in its normal state.
    """
    share = np.float32(probability)
    for machine in np.flatnonzero(graph.members[utility]).tolist():
        places = np.flatnonzero(graph.columns[machine] == fault)
        if not len(places):
            continue
        if not frame.has_answer[machine]:
            corrected[machine, 0] = 1
        corrected[machine] *= 1 - share
        corrected[machine, places[0]] += share


def _sum(values: Floats) -> np.float32:
    """A sum in the order of the values."""
    return np.float32(np.add.accumulate(values)[-1])
