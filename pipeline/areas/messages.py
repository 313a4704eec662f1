"""What is published about areas, as JSON: a diagnosis of each frame, with cause, evidence and machines' answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from pipeline.wire.messages import ModelRef, decoded


class CauseAnswer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A cause, and how probable it is."""

    kind: Literal["none", "utility", "machine"]
    probability: float
    name: str | None = None
    """The utility or the machine; absent of `none`."""
    fault: str | None = None
    """Of a utility its fault, of a machine the fault that its corrected answer names."""


class Support(msgspec.Struct, frozen=True, gc=False):
    """How much a machine or a utility's texts speak for the cause; the weights of all sum to 1."""

    kind: Literal["machine", "utility"]
    name: str
    weight: float


class CorrectedAnswer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A machine in an area's frame: its own answer, and what it is in the light of its neighbours."""

    presence: str
    """Whether there was a diagnosis, or why not."""
    fault: str
    confidence: float
    own_fault: str
    own_confidence: float
    age_ms: int | None
    """From the end of its newest frame with an answer to the end of this one."""
    neighbours: dict[str, float] = {}
    """How much was taken from each other machine, and from each utility by its id; absent if the model does not say."""


class AreaText(msgspec.Struct, frozen=True, gc=False):
    """A text about a utility that the frame has taken."""

    id: str
    utility: str
    text: str
    late: bool


class AreaDiagnosis(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The state of one area in one frame, as published; times are integer milliseconds UTC."""

    id: str
    area: str
    frame_start: int
    frame_end: int
    cause: CauseAnswer
    """The most probable one; of equal ones the first."""
    causes: list[CauseAnswer]
    """Up to five, the most probable first, without those below 0.0005."""
    evidence: list[Support]
    machines: dict[str, CorrectedAnswer]
    reset: bool
    model: ModelRef
    texts: list[AreaText] = []


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(AreaDiagnosis).decode


def encode_area(diagnosis: AreaDiagnosis) -> bytes:
    """The JSON of an area's diagnosis."""
    return _encode(diagnosis)


def decode_area(value: bytes) -> AreaDiagnosis:
    """An area's diagnosis from its JSON; raises RejectedError."""
    return decoded(_decode, value)
