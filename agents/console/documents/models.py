"""Documents about models: what each says and how right it is where labels come, drift of their machines, labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class Interval(msgspec.Struct, frozen=True, gc=False):
    """What a model's diagnoses of all partitions say in an interval of event time."""

    start_ms: int
    end_ms: int
    diagnoses: int
    labelled: int
    confidence_mean: float | None
    accuracy: float | None
    macro_f1: float | None


class ModelRow(msgspec.Struct, frozen=True):
    """A model, over the intervals that are known of it."""

    hash: str
    name: str
    kind: str
    """`machine` or `area`."""
    machine_types: Sequence[str]
    machines: int
    newest_ms: int | None
    diagnoses: int
    no_evidence: int
    confidence_mean: float | None
    entropy_mean: float | None
    disagreement_mean: float | None
    weights_mean: Mapping[str, float]
    labelled: int
    scores: Mapping[str, float | None]
    """Over labelled frames; accuracy is exact, the others are means over intervals and partitions."""
    intervals: Sequence[Interval]


class DriftRow(msgspec.Struct, frozen=True, gc=False):
    """A statistic of a machine that drifts, or did; times are milliseconds."""

    machine: str
    name: str
    kind: str
    kind_title: str
    variable: str | None
    variable_title: str | None
    direction: str
    size: float
    value: float
    reference: float
    since_ms: int
    reported_ms: int | None
    ended_ms: int | None
    model: str


class LabelRow(msgspec.Struct, frozen=True, gc=False):
    """What a technician found."""

    machine: str
    name: str
    fault: str
    fault_title: str
    start_ms: int
    end_ms: int | None
    note: str | None
    by: str | None
    corrects: str | None
    written_ms: int


class Labels(msgspec.Struct, frozen=True):
    """How many labels there are, and the newest."""

    count: int
    newest: Sequence[LabelRow]


class ModelsDocument(msgspec.Struct, frozen=True):
    """Models, drift and labels."""

    version: int
    read_ms: int | None
    models: Sequence[ModelRow]
    drift: Sequence[DriftRow]
    """Open ones first, then the newest that have ended."""
    labels: Labels
