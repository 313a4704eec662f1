"""The incidents of a plant: made from alarms and labels, and searched for those that are like a diagnosis or a text.

What the book holds depends on the alarms and labels that it was given and not on the order in which alarms came before
labels, nor on repetitions: a worker that reads its input again after a crash writes the same incidents again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

import msgspec

from pipeline.config.profile import NORMAL
from pipeline.engine.reports.incidents.bm25 import BM25
from pipeline.engine.reports.incidents.record import (
    AlarmChange,
    Incident,
    SimilarIncident,
    decode_incident,
    incident_of_alarm,
)
from pipeline.engine.reports.incidents.similarity import (
    Signature,
    SignatureIndex,
    Vector,
    area_signature,
    diagnosis_signature,
)
from pipeline.wire.labels import LabelledSpan
from pipeline.wire.messages import MAX_TIME_MS, Diagnosis, RejectedError

SHOWN = 3
"""How many incidents an alarm carries."""

_MAX_TEXT = 300
"""Characters of what was written that an alarm carries of each incident."""
_MIN_SCORE = 1e-5


class IncidentBook:
    """Incidents by their ids; `raised`, `cleared` and `labelled` return those that have changed."""

    def __init__(self, machine_type_of: Callable[[str], str | None]) -> None:
        self.unreadable = 0
        """Records that are no incidents."""
        self._machine_type_of = machine_type_of
        self._incidents: dict[str, Incident] = {}
        self._of_machine: dict[str, dict[str, Incident]] = {}
        self._index = SignatureIndex()
        self._vectors: dict[str, SignatureIndex] = {}
        """By the hash of the model."""

    def __len__(self) -> int:
        return len(self._incidents)

    def incidents(self) -> list[Incident]:
        """Alarms, and labels of faults that no alarm has met, the earliest first."""
        named = {one.label for one in self._incidents.values() if one.kind == "alarm"}
        shown = [
            one
            for one in self._incidents.values()
            if one.kind == "alarm" or (one.id not in named and one.found != NORMAL)
        ]
        return sorted(shown, key=lambda one: (one.start, one.id))

    def get(self, id_: str) -> Incident | None:
        """The incident with this id."""
        return self._incidents.get(id_)

    # -- from the topic ---------------------------------------------------------------------------------------

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Put in what a record of the topic says; one without a value removes its incident."""
        if value is None:
            self._remove((key or b"").decode(errors="replace"))
            return
        try:
            self._put(decode_incident(value))
        except RejectedError:
            self.unreadable += 1

    def clear(self) -> None:
        """Forget everything."""
        self._incidents.clear()
        self._of_machine.clear()
        self._index = SignatureIndex()
        self._vectors.clear()

    # -- from alarms and labels -------------------------------------------------------------------------------

    def raised(self, alarm: AlarmChange, diagnosis: Diagnosis, vector: Vector | None = None) -> list[Incident]:
        """An alarm was raised with a diagnosis, of a vector if its model has a retrieval head."""
        machine_type = self._machine_type_of(alarm.machine)
        if machine_type is None:
            return []
        units = None if vector is None else vector.units
        return self.begun(incident_of_alarm(alarm, diagnosis, machine_type, units))

    def begun(self, incident: Incident) -> list[Incident]:
        """An alarm was raised, with the incident that begins with it."""
        if incident.id in self._incidents:
            return []
        # An alarm that was never cleared ended at the latest with the next one: the machine was reset in between.
        changed = self._end(incident.machine, incident.diagnosed or "", incident.start)
        named = self._named(incident)
        self._put(named)
        return [*changed, named]

    def cleared(self, alarm: AlarmChange) -> list[Incident]:
        """An alarm of a machine was cleared."""
        return self._end(alarm.machine, alarm.fault, alarm.time)

    def labelled(self, label: LabelledSpan) -> list[Incident]:
        """A technician has found something; a label takes the place of an earlier one with the same start."""
        machine_type = self._machine_type_of(label.machine)
        if machine_type is None:
            return []
        end_ms = None if label.end_ms >= MAX_TIME_MS else label.end_ms
        incident = Incident(
            id=f"{label.machine}:{label.start_ms}:label",
            kind="label",
            machine=label.machine,
            machine_type=machine_type,
            start=label.start_ms,
            end=end_ms,
            found=label.fault,
            note=label.note,
        )
        changed = [] if self._incidents.get(incident.id) == incident else [incident]
        self._put(incident)
        return changed + self._name_again(label.machine)

    def _end(self, machine: str, fault: str, time_ms: int) -> list[Incident]:
        ended = [
            msgspec.structs.replace(one, end=time_ms)
            for one in self._of_machine.get(machine, {}).values()
            if one.kind == "alarm" and one.end is None and one.diagnosed == fault and one.start <= time_ms
        ]
        changed = [self._named(one) for one in ended]
        for incident in changed:
            self._put(incident)
        return changed

    def _name_again(self, machine: str) -> list[Incident]:
        """The alarms of a machine whose labels have changed, by the labels that there are now."""
        alarms = [one for one in self._of_machine.get(machine, {}).values() if one.kind == "alarm"]
        changed = [after for one in alarms if (after := self._named(one)) != one]
        for incident in changed:
            self._put(incident)
        return changed

    def _named(self, alarm: Incident) -> Incident:
        """An alarm's incident with what the label says that overlaps it most; of equal ones, that which begins last."""
        labels = [one for one in self._of_machine.get(alarm.machine, {}).values() if one.kind == "label"]
        overlapping = [(shared, one.start, one) for one in labels if (shared := _shared_ms(alarm, one)) > 0]
        if not overlapping:
            return msgspec.structs.replace(alarm, found=None, label=None, note=None)
        label = max(overlapping, key=lambda entry: entry[:2])[2]
        return msgspec.structs.replace(alarm, found=label.found, label=label.id, note=label.note)

    def _put(self, incident: Incident) -> None:
        self._incidents[incident.id] = incident
        self._of_machine.setdefault(incident.machine, {})[incident.id] = incident
        if incident.kind != "alarm" or incident.end is None:
            self._withdraw(incident.id)
            return
        self._index.put(incident.id, signature_of(incident))
        if incident.vector is not None and incident.model is not None:
            vector = Vector(incident.model.hash, tuple(incident.vector))
            self._vectors.setdefault(vector.model, SignatureIndex()).put(incident.id, vector.signature)

    def _remove(self, id_: str) -> None:
        incident = self._incidents.pop(id_, None)
        if incident is not None:
            del self._of_machine[incident.machine][id_]
            self._withdraw(id_)

    def _withdraw(self, id_: str) -> None:
        for index in (self._index, *self._vectors.values()):
            index.remove(id_)

    # -- search -----------------------------------------------------------------------------------------------

    def similar(
        self,
        signature: Signature,
        vector: Vector | None = None,
        *,
        machine_type: str | None,
        before_ms: int,
        count: int = SHOWN,
    ) -> list[SimilarIncident]:
        """The incidents that were over at a time and are most like a diagnosis, the most similar first; of equally
        similar ones the newest.

        Those that have a vector of the same model are compared by vectors, all others by signatures.
        """
        scores = dict(zip(self._index.ids, self._index.scores(signature).tolist(), strict=True))
        if vector is not None and (index := self._vectors.get(vector.model)) is not None:
            scores |= zip(index.ids, index.scores(vector.signature).tolist(), strict=True)
        return self._best(scores.items(), machine_type, before_ms, count)

    def similar_to(
        self, diagnosis: Diagnosis, vector: Vector | None = None, *, count: int = SHOWN
    ) -> list[SimilarIncident]:
        """The same for a diagnosis: incidents of machines of its type that were over at the end of its frame."""
        variables = [(one.name, one.deviation) for one in diagnosis.evidence.variables]
        return self.similar(
            diagnosis_signature(diagnosis.probabilities, variables),
            vector,
            machine_type=self._machine_type_of(diagnosis.machine),
            before_ms=diagnosis.frame_end,
            count=count,
        )

    def similar_to_text(
        self, text: str, *, title_of: Callable[[str, str], str] = lambda _, fault: fault, count: int = SHOWN
    ) -> list[SimilarIncident]:
        """The same by the words that were written at the time and those of the fault's title, as BM25 ranks them; the
        score is a share of the best."""
        written = self.incidents()
        scores = BM25([f"{one.words}\n{title_of(one.machine, one.fault or '')}" for one in written]).scores(text)
        best = float(scores.max(initial=0.0)) or 1.0
        pairs = zip((one.id for one in written), (scores / best).tolist(), strict=True)
        return self._best(pairs, None, MAX_TIME_MS, count)

    def _best(
        self, scored: Iterable[tuple[str, float]], machine_type: str | None, before_ms: int, count: int
    ) -> list[SimilarIncident]:
        found = [(round(score, 5), self._incidents[id_]) for id_, score in scored if score >= _MIN_SCORE]
        past = [
            (score, one)
            for score, one in found
            if one.end is not None and one.end <= before_ms and machine_type in (None, one.machine_type)
        ]
        best = heapq.nsmallest(count, past, key=lambda entry: (-entry[0], -entry[1].start, entry[1].id))
        return [_shown(one, score) for score, one in best]


def signature_of(incident: Incident) -> dict[str, int]:
    """By what an alarm's incident is compared."""
    if incident.support:
        return area_signature(incident.probabilities, incident.support)
    return diagnosis_signature(incident.probabilities, [(one.name, one.deviation) for one in incident.variables])


def _shown(incident: Incident, score: float) -> SimilarIncident:
    text = incident.words
    return SimilarIncident(
        id=incident.id,
        machine=incident.machine,
        start=incident.start,
        end=incident.end,
        fault=incident.fault,
        found=incident.found is not None,
        text=text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…",
        score=score,
    )


def _shared_ms(one: Incident, other: Incident) -> int:
    ends = [MAX_TIME_MS if incident.end is None else incident.end for incident in (one, other)]
    return min(ends) - max(one.start, other.start)
