"""The document that says why a diagnosis says what it says: `faultline explain` with words."""

from __future__ import annotations

import msgspec

from agents.console.documents.machine import ModelName


class ExplainedPart(msgspec.Struct, frozen=True):
    """What one variable, text, word, component or modality adds to the evidence for the answer."""

    kind: str
    name: str
    title: str
    said: str
    contribution: float
    """In nats; negative if it speaks against the answer."""
    text: str | None
    """Of a word, the text that it is in."""
    value: float | None
    deviation: float | None


class Omitted(msgspec.Struct, frozen=True):
    """Something without which the answer would be another."""

    kind: str
    name: str
    title: str


class WouldChange(msgspec.Struct, frozen=True):
    """What would change the answer, and to what."""

    without: list[Omitted]
    fault: str
    title: str
    confidence: float


class WhyDocument(msgspec.Struct, frozen=True):
    """Why a diagnosis says what it says."""

    diagnosis: str
    machine: str
    machine_title: str
    fault: str
    title: str
    confidence: float
    frame_start: int
    frame_end: int
    model: ModelName
    method: str
    frames: int
    evidence: float
    evidence_is: str
    evidence_said: str
    against: list[str]
    contributions: list[ExplainedPart]
    would_change: WouldChange | None
    would_change_said: str
    differs: str | None
    """How the published diagnosis differs from the replayed one; None if it does not, or is not known."""
    seconds: float
