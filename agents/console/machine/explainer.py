"""Explains a diagnosis on demand: the machine is replayed up to it from the topics, and groups of evidence left out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from agents.audit.why.explained import Explained
from agents.audit.why.from_log import replay_from_log
from agents.audit.why.replayed import DiagnosisId
from agents.console.documents.machine import ModelName
from agents.console.documents.why import ExplainedPart, Omitted, WhyDocument, WouldChange
from agents.console.errors import BadRequestError, ConflictError, NotFoundError, TookTooLongError
from agents.console.machine.logs import OpenLog
from agents.words import Words
from models.evaluation.explanations.explain import explain_by_leaving_out
from models.evaluation.explanations.question import Question
from pipeline.config.profile import PlantProfile
from pipeline.engine.machines import is_machine_id
from pipeline.errors import DataError, SettingsError
from pipeline.frames import StepRunner
from pipeline.mapping.schemas import Schemas
from pipeline.wire.records import Record

LoadRunners = Callable[[], Mapping[str, StepRunner]]
"""Loads models that nothing else uses, as explaining overwrites states; raises FaultlineError."""

WINDOW_FRAMES = 60
"""Frames by which an answer is explained, as `faultline explain` does without `--window`."""

_HISTORY_FRAMES = 1_000
"""Frames before the diagnosis from which on the machine is replayed at first: long enough for most models to forget
how they began, and a fraction of what the topics hold."""


@dataclass(frozen=True, slots=True)
class Explainer:
    """Makes explanations, one at a time."""

    open_log: OpenLog
    profile: PlantProfile
    load_runners: LoadRunners
    schemas: Schemas | None = None

    def explain(
        self, diagnosis: str, runners: Mapping[str, StepRunner], clock: Callable[[], float], until: float
    ) -> WhyDocument:
        """Explain a diagnosis, or the one that raised an alarm, by its id; gives up when the clock passes `until`.

        Raises NotFoundError, ConflictError if it is of another model, TookTooLongError, or the errors of a log.
        """
        began = clock()
        try:
            wanted = DiagnosisId.parse(diagnosis)
        except SettingsError as error:
            raise BadRequestError(str(error)) from None
        kind = self.profile.type_of(wanted.machine)
        if kind is None or not is_machine_id(wanted.machine):
            raise NotFoundError(f"{wanted.machine[:80]!r} is no machine of plant {self.profile.plant}")
        runner = runners.get(kind.name)
        if runner is None or not runner.hash.startswith(wanted.model):
            own = "none" if runner is None else runner.hash[:12]
            raise ConflictError(
                f"{wanted} is of model {wanted.model}, and the console has {own}",
                do="start the console with the file of that model, or use `faultline explain --model`",
            )

        def watched(records: Iterator[Record]) -> Iterator[Record]:
            for record in records:
                if clock() > until:
                    raise TookTooLongError(
                        "reading the machine's records took too long",
                        do=f"use `faultline explain {wanted}`, which has no limit",
                    )
                yield record

        history_frames = max(_HISTORY_FRAMES, 2 * kind.text_ttl_frames)
        explained = self._explained(wanted, runners, watched, history_frames * kind.frame_period_ms)
        if explained.differs is not None:  # its state may be older than that
            with contextlib.suppress(TookTooLongError):
                explained = self._explained(wanted, runners, watched, None)
        return _document(explained, Words(self.profile), round(clock() - began, 2))

    def _explained(
        self,
        wanted: DiagnosisId,
        runners: Mapping[str, StepRunner],
        watched: Callable[[Iterator[Record]], Iterator[Record]],
        history_ms: int | None,
    ) -> Explained:
        kind = self.profile.type_of(wanted.machine)
        assert kind is not None
        runner = runners[kind.name]
        try:
            with self.open_log() as log:
                published, replayed = replay_from_log(
                    log,
                    self.profile,
                    runners,
                    wanted,
                    frames=WINDOW_FRAMES,
                    history_ms=history_ms,
                    schemas=self.schemas,
                    watch=watched,
                )
        except DataError as error:
            raise NotFoundError(str(error)) from error
        question = Question.of(replayed.answer, runner.classes, kind.faults)
        found = explain_by_leaving_out(runner, kind, replayed.window, question)
        return Explained.of(replayed, question, found, runner, kind, published)


def _document(explained: Explained, words: Words, seconds: float) -> WhyDocument:
    one, found, machine = explained.diagnosis, explained.explanation, explained.diagnosis.machine
    change = found.would_change
    return WhyDocument(
        diagnosis=one.id,
        machine=machine,
        machine_title=words.machine(machine),
        fault=one.fault,
        title=words.fault(machine, one.fault),
        confidence=one.confidence,
        frame_start=one.frame_start,
        frame_end=one.frame_end,
        model=ModelName(one.model.name, one.model.hash),
        method=found.method,
        frames=found.frames,
        evidence=round(found.evidence, 5),
        evidence_is="novelty" if explained.question.by_novelty else "odds",
        evidence_said=explained.evidence_said(),
        against=[explained.classes[number] for number in explained.question.against],
        contributions=[
            ExplainedPart(
                each.kind,
                each.name,
                explained.title(each.kind, each.name, words),
                explained.said(each, words),
                round(each.amount, 5),
                each.text,
                None if (known := explained.value_of(each)) is None else round(known.value, 5),
                None if known is None else round(known.deviation, 2),
            )
            for each in found.contributions
        ],
        would_change=None
        if change is None
        else WouldChange(
            [
                Omitted(group.kind, group.name, explained.title(group.kind, group.name, words))
                for group in change.groups
            ],
            explained.classes[change.answer],
            words.fault(machine, explained.classes[change.answer]),
            round(change.probability, 5),
        ),
        would_change_said=explained.change_said(words),
        differs=explained.differs,
        seconds=seconds,
    )
