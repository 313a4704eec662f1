"""What `faultline explain` shows: the answer, contributions to it by kind, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from agents.audit.dead_letters import shown_time
from agents.audit.why.replayed import Replayed
from agents.cli.views.printable import cell, say
from agents.words import Words
from models.evaluation.explanations.explain import Contribution, Explanation
from models.evaluation.explanations.leave_out import Without, step_without
from models.evaluation.explanations.question import Question
from models.evaluation.explanations.window import Kind
from pipeline.config.profile import MachineType
from pipeline.frames import StepRunner
from pipeline.wire.messages import Diagnosis, VariableEvidence

_HEADINGS: Mapping[Kind, str] = {
    "modality": "modality",
    "component": "component",
    "variable": "variable",
    "text": "text",
    "word": "word",
}
_BAR = 24


@dataclass(frozen=True, slots=True)
class Explained:
    """A diagnosis with its explanation."""

    diagnosis: Diagnosis
    question: Question
    explanation: Explanation
    classes: tuple[str, ...]
    variables: Mapping[str, VariableEvidence]
    """Last known values of the frame, by name."""
    titles: Mapping[Kind, Mapping[str, str]]
    """Of components and modalities, by id."""
    differs: str | None
    """In what the published diagnosis is another than the replayed one."""

    @classmethod
    def of(
        cls,
        replayed: Replayed,
        question: Question,
        explanation: Explanation,
        runner: StepRunner,
        machine_type: MachineType,
        differs: str | None,
    ) -> Explained:
        """With the values of the last frame; overwrites the runner's first slot."""
        scaled = step_without(runner, replayed.window, [()]).scaled[0]
        values = replayed.window.frames[-1].values[0]
        variables = {
            name: VariableEvidence(name, float(value), float(deviation))
            for name, value, deviation in zip(machine_type.variable_names, values, scaled, strict=True)
            if not np.isnan(value)
        }
        titles: dict[Kind, dict[str, str]] = {
            "component": {name: one.title or name for name, one in machine_type.components.items()},
            "modality": {name: one.title or name for name, one in machine_type.modalities.items()},
        }
        return cls(replayed.diagnosis, question, explanation, runner.classes, variables, titles, differs)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        one, found = self.diagnosis, self.explanation
        return {
            "diagnosis": one.id,
            "machine": one.machine,
            "fault": one.fault,
            "confidence": one.confidence,
            "frame_start": one.frame_start,
            "frame_end": one.frame_end,
            "model": msgspec.to_builtins(one.model),
            "method": found.method,
            "frames": found.frames,
            "evidence": round(found.evidence, 5),
            "evidence_is": "novelty" if self.question.by_novelty else "odds",
            "against": [self.classes[number] for number in self.question.against],
            "contributions": [self._contribution(each) for each in found.contributions],
            "covered": _rounded(found.covered),
            "completeness_error": _rounded(found.completeness_error),
            "would_change": None if found.would_change is None else self._change(found.would_change),
            "differs": self.differs,
        }

    def _contribution(self, one: Contribution) -> dict[str, Any]:
        described: dict[str, Any] = {"kind": one.kind, "name": one.name, "contribution": round(one.amount, 5)}
        if one.text is not None:
            described["text"] = one.text
        if one.kind == "variable" and one.name in self.variables:
            known = self.variables[one.name]
            described |= {"value": round(known.value, 5), "deviation": round(known.deviation, 2)}
        return described

    def _change(self, change: Without) -> dict[str, Any]:
        return {
            "without": [{"kind": group.kind, "name": group.name} for group in change.groups],
            "fault": self.classes[change.answer],
            "confidence": round(change.probability, 5),
        }


def show_explained(explained: Explained, words: Words, console: Console, limit: int) -> None:
    """Print an explanation."""
    one, found = explained.diagnosis, explained.explanation
    machine = one.machine
    say(
        f"{words.machine(machine)}, frame until {shown_time(one.frame_end)}: {words.fault(machine, one.fault)}, "
        f"confidence {one.confidence:.2f}"
    )
    say(f"{_evidence(explained)}; contributions of the last {found.frames} frames, by {_method(found)}")
    table = Table("", "", "contribution", "")
    rows = [row for kind in _HEADINGS for row in _rows(explained, kind, words, limit)]
    largest = max((abs(amount) for _, _, amount in rows), default=0.0)
    last = ""
    for heading, name, amount in rows:
        bar = "█" * round(_BAR * abs(amount) / largest) if largest else ""
        table.add_row(cell("" if heading == last else heading, "bold"), cell(name), f"{amount:+.2f}", bar)
        last = heading
    console.print(table)
    if found.covered is not None:
        text = f"these cover {found.covered:.0%} of the change from no evidence, with a completeness error of "
        say(f"{text}{found.completeness_error or 0:.2%}")
    say(_change_text(explained, words))
    if explained.differs is not None:
        say(f"NOT THE SAME: the published diagnosis differs from the replayed one in {explained.differs}")


def _evidence(explained: Explained) -> str:
    found = explained.explanation
    if explained.question.by_novelty:
        return f"novelty {np.exp(found.evidence):.2f} (1 is the alarm limit), {found.evidence:.2f} nats"
    names = [explained.classes[number] for number in explained.question.against]
    against = " and ".join(names) if len(names) <= 2 else "all other answers"
    return f"evidence {found.evidence:.2f} nats over {against}"


def _method(found: Explanation) -> str:
    return "leaving each out" if found.method == "leave-out" else "integrated gradients"


def _rows(explained: Explained, kind: Kind, words: Words, limit: int) -> Iterator[tuple[str, str, float]]:
    """Heading, name in people's words and amount of the largest contributions of a kind, in either direction."""
    largest = sorted(explained.explanation.of_kind(kind), key=lambda each: -abs(each.amount))[:limit]
    for one in sorted(largest, key=lambda each: -each.amount):
        yield _HEADINGS[kind], _name(explained, one, words), one.amount


def _name(explained: Explained, one: Contribution, words: Words) -> str:
    if one.kind in explained.titles:
        return explained.titles[one.kind].get(one.name, one.name)
    if one.kind == "variable" and one.name in explained.variables:
        return words.short_measurement(explained.diagnosis.machine, explained.variables[one.name])
    if one.kind == "variable":
        return words.variable(explained.diagnosis.machine, one.name)
    return f"“{one.name}”"


def _change_text(explained: Explained, words: Words) -> str:
    change, machine = explained.explanation.would_change, explained.diagnosis.machine
    if change is None:
        return "no small set of variables and texts is enough to change the answer"
    names = [
        words.variable(machine, group.name) if group.kind == "variable" else f"the text “{group.name}”"
        for group in change.groups
    ]
    without = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    fault = words.fault(machine, explained.classes[change.answer])
    return f"without {without} it would be {fault}, confidence {change.probability:.2f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
