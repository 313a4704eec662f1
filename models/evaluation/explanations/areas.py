"""Explanations of an area's frame by leaving out: what its model would have said without each machine and text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from pipeline.areas.frames import AreaFrame, AreaResult, AreaRunner, Presence
from pipeline.areas.layout import AreaLayout
from pipeline.config.classes import faultless_classes

NodeKind = Literal["machine", "modality", "utility", "text"]

_TINY: Final = 1e-38
"""Smallest probability in a logarithm: that of a float32."""
_MAX_REMOVED: Final = 12
"""More groups than this are no small set that changes an answer."""


class NodeGroup(NamedTuple):
    """Evidence that is left out together."""

    kind: NodeKind
    name: str
    """Of a machine or utility its id, of a modality machine and modality, of a text the text."""
    node: int
    """The number of the machine, or of the utility that a text is about."""
    part: int | str = -1
    """Of a modality its number, of a text its id."""


class NodeContribution(NamedTuple):
    """What one group adds to the evidence for an answer, in nats; negative if it speaks against it."""

    group: NodeGroup
    amount: float


@dataclass(frozen=True, slots=True)
class AreaWindow:
    """The last W frames of an area, oldest first, and the state of its model before the first of them."""

    frames: tuple[AreaFrame, ...]
    state: bytes

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("a window needs at least one frame")

    @property
    def layout(self) -> AreaLayout:
        """Of the area."""
        return self.frames[-1].layout


@dataclass(frozen=True, slots=True)
class AreaQuestion:
    """Why this cause and not the best other one; or why this answer of a machine in the light of its area.

    The evidence is ln(p_answer / sum of p_against), of causes or of a machine's corrected classes.
    """

    answer: int
    against: tuple[int, ...]
    machine: int | None = None
    """None of the cause."""

    @classmethod
    def of_cause(cls, result: AreaResult) -> AreaQuestion:
        """About the most probable cause of a frame; of equal ones the first."""
        best = int(result.causes.argmax())
        others = result.causes.copy()
        others[best] = -1
        return cls(best, (int(others.argmax()),))

    @classmethod
    def of_machine(cls, result: AreaResult, layout: AreaLayout, machine: int) -> AreaQuestion:
        """About a machine's corrected answer: a fault is held against no fault, another answer against all others."""
        classes = layout.classes_of(machine)
        answer = int(result.probabilities[machine, : len(classes)].argmax())
        quiet = faultless_classes(classes)
        against = tuple(quiet) if answer not in quiet else tuple(one for one in range(len(classes)) if one != answer)
        return cls(answer, against, machine)

    def evidence(self, result: AreaResult) -> float:
        """In nats."""
        shares = result.causes if self.machine is None else result.probabilities[self.machine]
        others = math.fsum(float(shares[one]) for one in self.against)
        return math.log(max(float(shares[self.answer]), _TINY)) - math.log(max(others, _TINY))

    def answer_of(self, result: AreaResult) -> tuple[int, float]:
        """What a result names in its place, and how probable that is."""
        shares = result.causes if self.machine is None else result.probabilities[self.machine]
        best = int(shares.argmax())
        return best, float(shares[best])


class WithoutNodes(NamedTuple):
    """What the answer would be without some groups."""

    groups: tuple[NodeGroup, ...]
    answer: int
    probability: float


@dataclass(frozen=True, slots=True)
class AreaExplanation:
    """Why an area's frame says what it says."""

    frames: int
    """W: how many frames were looked at."""
    evidence: float
    contributions: tuple[NodeContribution, ...]
    """Of all kinds, the largest first. What two machines say alike neither is missed for, so they do not add up."""
    would_change: WithoutNodes | None


def step_without_nodes(runner: AreaRunner, window: AreaWindow, left_out: Sequence[NodeGroup]) -> AreaResult:
    """The result of a window's last frame without some groups in all of its frames.

    A machine that is left out was never heard, and a text never written. Overwrites the runner's first slot. Raises
    StateError if the window's state is not of this model.
    """
    runner.reserve(1)
    runner.reset(0)
    if not window.frames[0].reset:
        runner.load(0, window.state)
    return [runner.step(_without(frame, left_out)) for frame in window.frames][-1]


def explain_area(runner: AreaRunner, window: AreaWindow, question: AreaQuestion) -> AreaExplanation:
    """Leave each group out, and find what would change the answer. Overwrites the runner's first slot."""
    groups = groups_of(window, runner.modalities)
    evidence = question.evidence(step_without_nodes(runner, window, ()))
    amounts = [evidence - question.evidence(step_without_nodes(runner, window, [group])) for group in groups]
    found = map(NodeContribution, groups, amounts)
    ordered = sorted(found, key=lambda one: (-one.amount, one.group.kind, one.group.name))
    removable = [one.group for one in ordered if one.group.kind in ("machine", "text")]
    return AreaExplanation(
        len(window.frames), evidence, tuple(ordered), _would_change(runner, window, removable, question)
    )


def groups_of(window: AreaWindow, modalities: Sequence[str]) -> list[NodeGroup]:
    """The machines that gave answers in a window, their modalities if the model takes them, and texts about utilities.

    A modality that is left out is missing from what the area's model sees of it; the machine's fused answer stays.
    """
    layout, groups = window.layout, []
    for number, machine in enumerate(layout.machines):
        if any(frame.has_answer[number] for frame in window.frames):
            groups.append(NodeGroup("machine", machine, number))
        for part, modality in enumerate(modalities):
            if any(frame.modality_present[number, part] for frame in window.frames):
                groups.append(NodeGroup("modality", f"{machine} {modality}", number, part))
    texts = {text.id: (utility, text.text) for frame in window.frames for utility, text in frame.texts}
    for number in sorted({utility for utility, _ in texts.values()}):
        groups.append(NodeGroup("utility", layout.utilities[number].id, number))
    groups += (NodeGroup("text", text, utility, id_) for id_, (utility, text) in texts.items())
    return groups


def _would_change(
    runner: AreaRunner, window: AreaWindow, left: list[NodeGroup], question: AreaQuestion
) -> WithoutNodes | None:
    """A small set of machines and texts without which the answer would be another, found greedily; None if there is
    none. No smaller part of the set is enough, but a set with other members may be smaller."""
    removed: list[NodeGroup] = []
    found: WithoutNodes | None = None
    while left and len(removed) < _MAX_REMOVED and found is None:
        results = [step_without_nodes(runner, window, [*removed, group]) for group in left]
        evidence = [question.evidence(result) for result in results]
        best = evidence.index(min(evidence))
        removed.append(left[best])
        left = [one for one in left if one is not left[best]]
        found = _changed(removed, results[best], question)
    if found is None:
        return None
    for group in tuple(removed[:-1]):
        fewer = [one for one in removed if one is not group]
        if (smaller := _changed(fewer, step_without_nodes(runner, window, fewer), question)) is not None:
            removed, found = fewer, smaller
    return found


def _changed(removed: Sequence[NodeGroup], result: AreaResult, question: AreaQuestion) -> WithoutNodes | None:
    now, probability = question.answer_of(result)
    return None if now == question.answer else WithoutNodes(tuple(removed), now, probability)


def _without(frame: AreaFrame, left_out: Sequence[NodeGroup]) -> AreaFrame:
    """A frame for the first slot, without some groups."""
    machines = [group.node for group in left_out if group.kind == "machine"]
    changed = replace(
        frame,
        slot=0,
        presence=frame.presence.copy(),
        age_ms=frame.age_ms.copy(),
        probabilities=frame.probabilities.copy(),
        modality_present=frame.modality_present.copy(),
        modality_answer=frame.modality_answer.copy(),
        modality_confidence=frame.modality_confidence.copy(),
        modality_age_ms=frame.modality_age_ms.copy(),
        embedded=frame.embedded.copy(),
        embeddings=tuple(features.copy() for features in frame.embeddings),
        texts=[one for one in frame.texts if not _is_left_out(one[0], one[1].id, left_out)],
    )
    changed.presence[machines], changed.age_ms[machines], changed.probabilities[machines] = Presence.UNHEARD, -1, 0
    parts = [(machine, part) for machine in machines for part in range(frame.modality_present.shape[1])]
    parts += [
        (group.node, group.part) for group in left_out if group.kind == "modality" and isinstance(group.part, int)
    ]
    for place in parts:
        changed.modality_present[place] = changed.embedded[place] = False
        changed.modality_answer[place] = changed.modality_age_ms[place] = -1
        changed.modality_confidence[place] = 0
        if changed.embeddings:
            changed.embeddings[place[1]][place[0]] = 0
    return changed


def _is_left_out(utility: int, text: str, left_out: Sequence[NodeGroup]) -> bool:
    return any(
        (group.kind == "utility" and group.node == utility) or (group.kind == "text" and group.part == text)
        for group in left_out
    )
