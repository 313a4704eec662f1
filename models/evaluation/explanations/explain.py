"""An explanation of one answer by one of two methods: contributions in order, and what would change the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from models.encoders.tokenizer import normalised
from models.evaluation.explanations.leave_out import Without, contributions, step_without, would_change
from models.evaluation.explanations.question import Question
from models.evaluation.explanations.window import Group, Kind, Window, groups_of
from pipeline.config.profile import MachineType
from pipeline.frames import StepRunner

if TYPE_CHECKING:
    from models.diagnoser import Diagnoser

Method = Literal["leave-out", "gradients"]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one group of evidence adds to the evidence for an answer."""

    kind: Kind
    name: str
    amount: float
    """In nats; negative if it speaks against the answer."""
    text: str | None = None
    """Of a word, the text that it is in."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an answer was given."""

    method: Method
    frames: int
    """W: how many frames were looked at."""
    evidence: float
    """For the answer, with everything; see `Question`."""
    contributions: tuple[Contribution, ...]
    """Of all kinds, the largest first; a variable is also in its component and its modality."""
    covered: float | None = None
    """Share of the change from no evidence to the answer that contributions are given for; None for leaving out, whose
    contributions do not add up."""
    completeness_error: float | None = None
    """How far the contributions are from adding up to what is covered, relative to it; None as above."""
    would_change: Without | None = None
    """Variables and texts without which the answer would be another."""

    def of_kind(self, *kinds: Kind) -> list[Contribution]:
        """Contributions of some kinds, the largest first."""
        return [one for one in self.contributions if one.kind in kinds]


def explain_by_leaving_out(
    runner: StepRunner, machine_type: MachineType, window: Window, question: Question, *, change: bool = True
) -> Explanation:
    """What the compiled step would have answered without each group; with `change` also what would change the answer.

    Overwrites the runner's first slots. Raises StateError if the window's state is not of this model.
    """
    groups = groups_of(machine_type, runner.modalities, window)
    evidence, of_groups = contributions(runner, window, groups, question)
    amounts = dict(zip(groups, of_groups, strict=True))
    if question.by_novelty:
        amounts |= _sums_of_components(amounts)
    found = [Contribution(group.kind, group.name, amount) for group, amount in amounts.items() if amount is not None]
    return Explanation(
        "leave-out",
        len(window.frames),
        evidence,
        _ordered(found),
        would_change=would_change(runner, window, groups, question) if change else None,
    )


def explain_by_gradients(
    runner: StepRunner,
    network: Diagnoser,
    machine_type: MachineType,
    window: Window,
    question: Question,
    *,
    change: bool = True,
) -> Explanation:
    """By integrated gradients of `network`, in float64 and with the runner's weights; needs torch.

    Of an answer `unknown` the detector's deviations are given, which add up to the novelty by themselves. As
    `explain_by_leaving_out` otherwise.
    """
    groups = groups_of(machine_type, runner.modalities, window)
    result = step_without(runner, window, [()])
    evidence = float(question.evidence(result)[0])
    covered, error = 1.0, 0.0
    words: list[Contribution] = []
    texts: dict[str, float] = {}
    if question.by_novelty and result.deviations is not None and result.novelty is not None:
        variables = evidence * result.deviations[0].astype(np.float64) / max(float(result.novelty[0]), 1e-12)
        error = abs(float(variables.sum()) - evidence) / max(abs(evidence), 1e-12)
    else:
        from models.evaluation.explanations.gradients import integrated_gradients

        found = integrated_gradients(network, runner.hash, window, question)
        variables, error = found.variables, found.completeness_error
        covered = found.covered(evidence)
        spellings = Counter(normalised(text) for text in {text.text for _, text in window.texts})
        for text in dict.fromkeys(text.text for _, text in window.texts):
            own = found.texts.get(text, ())
            words += [Contribution("word", word, amount, text) for word, amount in own]
            counted = found.messages.get(normalised(text), 0.0) / spellings[normalised(text)]
            texts[text] = sum(amount for _, amount in own) + found.presence.get(text, 0.0) + counted
    amounts = [Contribution(group.kind, group.name, _amount(group, variables, texts)) for group in groups]
    return Explanation(
        "gradients",
        len(window.frames),
        evidence,
        _ordered([*amounts, *words]),
        covered,
        error,
        would_change(runner, window, groups, question) if change else None,
    )


def _sums_of_components(amounts: Mapping[Group, float | None]) -> dict[Group, float | None]:
    """Components as sums of their variables, and no modalities: without so many readings the detector says nothing."""
    of_variable = {group.columns[0]: amount or 0.0 for group, amount in amounts.items() if group.kind == "variable"}
    sums: dict[Group, float | None] = {group: None for group in amounts if group.kind == "modality"}
    for group in amounts:
        if group.kind == "component":
            sums[group] = sum(of_variable.get(column, 0.0) for column in group.columns)
    return sums


def _amount(group: Group, variables: NDArray[np.float64], texts: dict[str, float]) -> float:
    return float(variables[list(group.columns)].sum()) + sum(texts.get(text, 0.0) for text in group.texts)


def _ordered(found: Sequence[Contribution]) -> tuple[Contribution, ...]:
    return tuple(sorted(found, key=lambda one: (-one.amount, one.kind, one.name)))
