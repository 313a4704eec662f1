"""An area's diagnosis with its explanation, as data: the cause or a machine's answer, and what each node adds to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from agents.audit.verify import difference
from agents.audit.why.areas import ReplayedArea
from models.evaluation.explanations.areas import AreaExplanation, AreaQuestion, NodeContribution, explain_area
from models.evaluation.explanations.areas import step_without_nodes as step
from pipeline.areas.frames import AreaRunner
from pipeline.areas.layout import AreaLayout
from pipeline.areas.messages import AreaDiagnosis, CauseAnswer


@dataclass(frozen=True, slots=True)
class ExplainedArea:
    """Why an area has the cause that it has, or why a machine in it has its corrected answer."""

    diagnosis: AreaDiagnosis
    layout: AreaLayout
    question: AreaQuestion
    explanation: AreaExplanation
    differs: str | None
    """How the published diagnosis differs from the replayed one; None if it does not, or is not known."""

    @classmethod
    def of(
        cls, replayed: ReplayedArea, runner: AreaRunner, published: AreaDiagnosis | None, machine: str | None = None
    ) -> ExplainedArea:
        """Of the cause, or of a machine's answer; overwrites the runner's first slot. `published` is the diagnosis as
        it was given, if it is still there."""
        layout, result = replayed.window.layout, step(runner, replayed.window, ())
        if machine is None:
            question = AreaQuestion.of_cause(result)
        else:
            question = AreaQuestion.of_machine(result, layout, layout.machines.index(machine))
        differs = None
        if published is not None:
            differs = difference(msgspec.to_builtins(published), msgspec.to_builtins(replayed.diagnosis))
        return cls(replayed.diagnosis, layout, question, explain_area(runner, replayed.window, question), differs)

    @property
    def machine(self) -> str | None:
        """The machine whose answer is explained; None of the cause."""
        number = self.question.machine
        return None if number is None else self.layout.machines[number]

    def answer(self, number: int, probability: float = 0.0) -> CauseAnswer | str:
        """A cause, or the class of a machine, by its number."""
        if self.question.machine is not None:
            return self.layout.classes_of(self.question.machine)[number]
        cause = self.layout.causes[number]
        return CauseAnswer(cause.kind.value, probability, cause.name, cause.fault)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        one, found = self.diagnosis, self.explanation
        if self.machine is None:
            said: dict[str, Any] = {"cause": msgspec.to_builtins(one.cause)}
        else:
            answer = one.machines[self.machine]
            said = {"machine": self.machine} | msgspec.to_builtins(answer)
        return {
            "diagnosis": one.id,
            "area": one.area,
            **said,
            "frame_start": one.frame_start,
            "frame_end": one.frame_end,
            "model": msgspec.to_builtins(one.model),
            "frames": found.frames,
            "evidence": round(found.evidence, 5),
            "against": [self._plain(number) for number in self.question.against],
            "contributions": [self._contribution(each) for each in found.contributions],
            "would_change": self._change(),
            "differs": self.differs,
        }

    def _plain(self, number: int) -> Any:
        answer = self.answer(number)
        if isinstance(answer, str):
            return answer
        return {name: value for name, value in msgspec.to_builtins(answer).items() if name != "probability"}

    def _contribution(self, one: NodeContribution) -> dict[str, Any]:
        group = one.group
        described: dict[str, Any] = {"kind": group.kind, "name": group.name, "contribution": round(one.amount, 5)}
        if group.kind == "machine":
            own = self.diagnosis.machines[group.name]
            described |= {"presence": own.presence, "own_fault": own.own_fault, "own_confidence": own.own_confidence}
        if group.kind == "text":
            described |= {"id": group.part, "utility": self.layout.utilities[group.node].id}
        return described

    def _change(self) -> dict[str, Any] | None:
        change = self.explanation.would_change
        if change is None:
            return None
        answer = self._plain(change.answer)
        return {
            "without": [{"kind": group.kind, "name": group.name} for group in change.groups],
            "cause" if self.machine is None else "fault": answer,
            "probability": round(change.probability, 5),
        }
