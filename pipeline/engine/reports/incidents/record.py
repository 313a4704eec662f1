"""An incident on the wire: what a machine had, from when to when, what was found, and by what it is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from pipeline.config.topics import INCIDENTS
from pipeline.wire import messages
from pipeline.wire.messages import Diagnosis, ModelRef, VariableEvidence
from pipeline.wire.records import Output

SIMILAR = "faultline-similar"
"""The header of a raised alarm with the most similar past incidents, a JSON list."""


class Incident(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One alarm of a machine or utility, or one label, from `start` until before `end`; times are milliseconds."""

    id: str
    """That of the record that raised the alarm; of a label `machine:start:label`."""
    kind: Literal["alarm", "label"]
    machine: str
    machine_type: str
    start: int
    end: int | None
    """None while it goes on."""
    diagnosed: str | None = None
    """The fault of the alarm."""
    found: str | None = None
    """The fault by a label that overlaps the alarm."""
    label: str | None = None
    """The id of that label's incident."""
    note: str | None = None
    """What the label says besides."""
    texts: list[str] = []
    """What the model had read when the alarm was raised, oldest first."""
    probabilities: dict[str, float] = {}
    """As in the diagnosis that raised the alarm."""
    variables: list[VariableEvidence] = []
    """Those that the diagnosis shows."""
    model: ModelRef | None = None
    vector: list[int] | None = None
    """By the model's retrieval head, in 1 / 4096; None of a model without one."""
    support: dict[str, float] = {}
    """Of a utility's alarm, how much each machine, and the texts about the utility by its name, spoke for it."""

    @property
    def fault(self) -> str | None:
        """The fault that was found, or else diagnosed."""
        return self.diagnosed if self.found is None else self.found

    @property
    def words(self) -> str:
        """All that people have written, one line each."""
        return "\n".join([*([] if self.note is None else [self.note]), *self.texts])


class SimilarIncident(msgspec.Struct, frozen=True, gc=False):
    """A past incident as an alarm carries it."""

    id: str
    machine: str
    start: int
    end: int | None
    fault: str | None
    found: bool
    """Whether somebody found the fault; else it was diagnosed."""
    text: str
    """What was written, cut."""
    score: float
    """Similarity; 1 is as similar as it can be."""


class AlarmChange(msgspec.Struct, frozen=True, gc=False):
    """What an incident needs of a record of the topic of alarms, whatever else is in it."""

    id: str
    machine: str
    fault: str
    state: str
    time: int
    diagnosis: str = ""


_encode = msgspec.json.Encoder().encode
_decode_incident = msgspec.json.Decoder(Incident).decode
_decode_alarm = msgspec.json.Decoder(AlarmChange).decode
_decode_similar = msgspec.json.Decoder(list[SimilarIncident]).decode


def decode_incident(value: bytes) -> Incident:
    """Raises RejectedError."""
    return messages.decoded(_decode_incident, value)


def decode_alarm_change(value: bytes) -> AlarmChange:
    """Raises RejectedError."""
    return messages.decoded(_decode_alarm, value)


def decode_similar(value: bytes) -> list[SimilarIncident]:
    """What the header `faultline-similar` of an alarm holds; raises RejectedError."""
    return messages.decoded(_decode_similar, value)


def encode_similar(similar: Sequence[SimilarIncident]) -> bytes:
    """What `decode_similar` reads."""
    return _encode(similar)


def incident_output(incident: Incident, partition: int, written_ms: int) -> Output:
    """The record of an incident, which takes the place of its earlier ones."""
    return Output(INCIDENTS, partition, incident.id.encode(), messages.encode(incident), written_ms)


def incident_of_alarm(
    alarm: AlarmChange, diagnosis: Diagnosis, machine_type: str, vector: Sequence[int] | None
) -> Incident:
    """The incident that begins with an alarm, by the diagnosis that raised it."""
    return Incident(
        id=alarm.id,
        kind="alarm",
        machine=alarm.machine,
        machine_type=machine_type,
        start=alarm.time,
        end=None,
        diagnosed=alarm.fault,
        texts=[text.text for text in diagnosis.evidence.texts],
        probabilities=diagnosis.probabilities,
        variables=diagnosis.evidence.variables,
        model=diagnosis.model,
        vector=None if vector is None else list(vector),
    )
