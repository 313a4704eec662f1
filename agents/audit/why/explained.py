"""A diagnosis with its explanation, as data: the answer, contributions to it by kind, and what would change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from agents.audit.verify import difference
from agents.audit.why.replayed import Replayed
from agents.words import Words
from models.evaluation.explanations.explain import Contribution, Explanation
from models.evaluation.explanations.leave_out import Without, step_without
from models.evaluation.explanations.question import Question
from models.evaluation.explanations.window import Kind
from pipeline.config.profile import MachineType
from pipeline.frames import StepRunner
from pipeline.wire.messages import Diagnosis, VariableEvidence


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
    """How the published diagnosis differs from the replayed one; None if it does not, or is not known."""

    @classmethod
    def of(
        cls,
        replayed: Replayed,
        question: Question,
        explanation: Explanation,
        runner: StepRunner,
        machine_type: MachineType,
        published: Diagnosis | None,
    ) -> Explained:
        """With the values of the last frame; overwrites the runner's first slot. `published` is the diagnosis as it was
        given, if it is still there."""
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
        differs = None
        if published is not None:
            differs = difference(msgspec.to_builtins(published), msgspec.to_builtins(replayed.diagnosis))
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
        if (known := self.value_of(one)) is not None:
            described |= {"value": round(known.value, 5), "deviation": round(known.deviation, 2)}
        return described

    def _change(self, change: Without) -> dict[str, Any]:
        return {
            "without": [{"kind": group.kind, "name": group.name} for group in change.groups],
            "fault": self.classes[change.answer],
            "confidence": round(change.probability, 5),
        }

    def value_of(self, one: Contribution) -> VariableEvidence | None:
        """The last known value of what contributes, if it is a variable that has one."""
        return self.variables.get(one.name) if one.kind == "variable" else None

    # -- in words ---------------------------------------------------------------------------------------------

    def evidence_said(self) -> str:
        """How strong the evidence for the answer is, and against what."""
        found = self.explanation
        if self.question.by_novelty:
            return f"novelty {np.exp(found.evidence):.2f} (1 is the alarm limit), {found.evidence:.2f} nats"
        names = [self.classes[number] for number in self.question.against]
        against = " and ".join(names) if len(names) <= 2 else "all other answers"
        return f"evidence {found.evidence:.2f} nats over {against}"

    def said(self, one: Contribution, words: Words) -> str:
        """What contributes, with a variable's value."""
        if (known := self.value_of(one)) is not None:
            return words.short_measurement(self.diagnosis.machine, known)
        return self.title(one.kind, one.name, words)

    def title(self, kind: Kind, name: str, words: Words) -> str:
        """What people call it; a text and a word as they were written, between quotation marks."""
        if kind in self.titles:
            return self.titles[kind].get(name, name)
        return words.variable(self.diagnosis.machine, name) if kind == "variable" else f"“{name}”"

    def change_said(self, words: Words) -> str:
        """Without what the answer would be another, and which."""
        change, machine = self.explanation.would_change, self.diagnosis.machine
        if change is None:
            return "no small set of variables and texts is enough to change the answer"
        names = [
            words.variable(machine, group.name) if group.kind == "variable" else f"the text “{group.name}”"
            for group in change.groups
        ]
        without = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        fault = words.fault(machine, self.classes[change.answer])
        return f"without {without} it would be {fault}, confidence {change.probability:.2f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
