"""Contributions by leaving out: what the compiled step would have answered without each group of evidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models.evaluation.explanations.question import Question
from models.evaluation.explanations.window import Group, Window
from pipeline.arrays import Bools, Floats, Ints
from pipeline.frames import Frames, StepResult, StepRunner

MAX_REMOVED = 12
"""More groups than this are no small set that changes an answer."""


class Without(NamedTuple):
    """What the answer would be without some groups."""

    groups: tuple[Group, ...]
    answer: int
    """Class, of the largest probability."""
    probability: float


def step_without(runner: StepRunner, window: Window, left_out: Sequence[Sequence[Group]]) -> StepResult:
    """The results of a window's last frame, one row for each list of groups that are left out of all its frames.

    Readings that are left out count as never measured in the window, and texts as never written. Overwrites the
    runner's first slots. Raises StateError if the state is not of this model.
    """
    slots = np.arange(len(left_out))
    runner.reserve(len(left_out))
    for slot in slots.tolist():
        if not window.starts_fresh:
            runner.load(slot, window.state)
    masks = np.zeros((len(left_out), window.frames[0].values.shape[1]), np.bool_)
    for row, groups in enumerate(left_out):
        for group in groups:
            masks[row, list(group.columns)] = True
    unread = [frozenset[str]().union(*(group.texts for group in groups)) for groups in left_out]
    rounds = [_without(frames, slots, masks, unread) for frames in window.frames]
    runner.prepare(rounds)
    results = [runner.step(one) for one in rounds]
    return results[-1]


def contributions(
    runner: StepRunner, window: Window, groups: Sequence[Group], question: Question
) -> tuple[float, list[float | None]]:
    """The evidence for an answer with everything, and by how much each group raises it: that, less without the group,
    in nats; None if the detector, which the evidence is of, says nothing without it.

    What two groups say alike neither is missed for: such contributions do not add up to anything.
    """
    result = step_without(runner, window, [(), *((group,) for group in groups)])
    evidence, silent = question.evidence(result), question.is_silent(result)
    return float(evidence[0]), [
        None if is_silent else float(evidence[0] - own) for own, is_silent in zip(evidence[1:], silent[1:], strict=True)
    ]


def would_change(runner: StepRunner, window: Window, groups: Sequence[Group], question: Question) -> Without | None:
    """A small set of variables and texts without which the answer would be another; None if there is none of up to
    MAX_REMOVED groups. That the detector falls silent changes nothing.

    Greedy: what takes most of the evidence is left out first; then what need not be left out is put back. No smaller
    part of the set is enough, but a set with other members may be smaller.
    """
    left = [group for group in groups if group.kind in ("variable", "text")]
    removed: list[Group] = []
    found: Without | None = None
    while left and len(removed) < MAX_REMOVED and found is None:
        result = step_without(runner, window, [(*removed, group) for group in left])
        evidence = np.where(question.is_silent(result), np.inf, question.evidence(result))
        best = int(evidence.argmin())
        if evidence[best] == np.inf:
            return None
        removed.append(left.pop(best))
        found = _changed(removed, result.probabilities[best], question.answer)
    if found is None:
        return None
    for group in tuple(removed[:-1]):
        fewer = [one for one in removed if one is not group]
        result = step_without(runner, window, [fewer])
        if (smaller := _changed(fewer, result.probabilities[0], question.answer)) is not None:
            removed, found = fewer, smaller
    return found


def _changed(removed: Sequence[Group], probabilities: Floats, answer: int) -> Without | None:
    now = int(probabilities.argmax())
    return None if now == answer else Without(tuple(removed), now, float(probabilities[now]))


def _without(frames: Frames, slots: Ints, masks: Bools, unread: Sequence[frozenset[str]]) -> Frames:
    """One frame of the window as a round with a row for each mask (G, V) and set of texts to leave out."""
    count = len(slots)
    return Frames(
        slots=slots,
        start_ms=np.repeat(frames.start_ms, count),
        period_ms=frames.period_ms,
        values=np.where(masks, np.float32(np.nan), frames.values),
        observed=frames.observed & ~masks,
        age_ms=np.where(masks, -1, frames.age_ms),
        reset=np.repeat(frames.reset, count),
        reset_reason=np.repeat(frames.reset_reason, count),
        revision=np.repeat(frames.revision, count),
        texts=[(row, text) for row in range(count) for _, text in frames.texts if text.text not in unread[row]],
    )
