"""What the book reads of records: only the fields that it needs, so that a plant's diagnoses are read quickly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import msgspec

from pipeline.wire.messages import ModelRef, RemainingLife, decoded, is_time_ms

_Message = TypeVar("_Message")


class SeenDiagnosis(msgspec.Struct, frozen=True, gc=False):
    """A machine's diagnosis, as far as a tile shows it; docs/guide/messages.md has the fields."""

    id: str
    machine: str
    frame_start: int
    frame_end: int
    fault: str
    confidence: float
    status: str
    model: ModelRef
    reset: str | None = None
    revision: int = 0
    novelty: float | None = None
    remaining: RemainingLife | None = None


class SeenCause(msgspec.Struct, frozen=True, gc=False):
    """A cause of an area's diagnosis."""

    kind: str
    probability: float
    name: str | None = None
    fault: str | None = None


class SeenSupport(msgspec.Struct, frozen=True, gc=False):
    """How much something speaks for a cause."""

    kind: str
    name: str
    weight: float


class SeenAnswer(msgspec.Struct, frozen=True, gc=False):
    """A machine in an area's diagnosis."""

    fault: str
    confidence: float


class SeenArea(msgspec.Struct, frozen=True):
    """An area's diagnosis."""

    id: str
    area: str
    frame_start: int
    frame_end: int
    cause: SeenCause
    causes: list[SeenCause]
    evidence: list[SeenSupport]
    machines: dict[str, SeenAnswer]
    model: ModelRef


class SeenMetric(msgspec.Struct, frozen=True):
    """What one model's diagnoses of one partition said in one interval of event time."""

    id: str
    model: ModelRef
    partition: int
    interval_start: int
    interval_end: int
    diagnoses: int
    no_evidence: int
    labelled: int
    confidence_mean: float | None = None
    entropy_mean: float | None = None
    disagreement_mean: float | None = None
    weights_mean: dict[str, float] = {}
    accuracy: float | None = None
    macro_f1: float | None = None
    ari: float | None = None
    mutual_information: float | None = None
    conditional_entropy: float | None = None
    candidates_coverage: float | None = None


class SeenForget(msgspec.Struct, frozen=True, gc=False):
    """A control record that says to forget a machine."""

    kind: Literal["forget"]
    machine: str


def _reader(kind: type[_Message]) -> Callable[[bytes], _Message]:
    decode = msgspec.json.Decoder(kind).decode
    return lambda value: decoded(decode, value)


read_diagnosis = _reader(SeenDiagnosis)
read_area = _reader(SeenArea)
read_metric = _reader(SeenMetric)
read_forget = _reader(SeenForget)


def is_time(*times_ms: int) -> bool:
    """Whether all of these can be times."""
    return all(is_time_ms(time_ms) for time_ms in times_ms)
