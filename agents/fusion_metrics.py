"""Fusion metrics: what the diagnoses of an interval say of the models, and how right they were where labels exist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from models.scoring import label_scores
from pipeline import messages
from pipeline.diagnoses import NO_EVIDENCE
from pipeline.labels import LabelBook
from pipeline.messages import Diagnosis, RejectedError
from pipeline.records import Output, Record
from pipeline.topics import DIAGNOSES, LABELS, METRICS

_DIGITS = 7


class FusionMetric(msgspec.Struct, frozen=True):
    """What one model's diagnoses of one partition said in one interval of event time; null where undefined."""

    id: str
    model: messages.ModelRef
    partition: int
    interval_start: int
    interval_end: int
    diagnoses: int
    no_evidence: int
    confidence_mean: float | None
    entropy_mean: float | None
    disagreement_mean: float | None
    weights_mean: dict[str, float]
    labelled: int
    accuracy: float | None
    macro_f1: float | None
    ari: float | None
    mutual_information: float | None
    conditional_entropy: float | None


@dataclass(slots=True)
class _Interval:
    diagnoses: int = 0
    no_evidence: int = 0
    confidence: float = 0.0
    entropy: float = 0.0
    disagreement: float = 0.0
    fused: int = 0
    weights: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    said: dict[tuple[str, int], str] = field(default_factory=dict)  # (machine, frame start) -> fault, last revision
    model: messages.ModelRef = field(default_factory=lambda: messages.ModelRef("", ""))


class FusionMetrics:
    """Sums diagnoses per model, partition and interval; an interval is told when the next one is over.

    Labels count if they have come by then. Sums are per partition, so that they do not depend on which worker
    reads which partitions; `diagnoses`, `labelled` and means let a reader combine them.
    """

    def __init__(self, interval_ms: int) -> None:
        self._interval_ms = interval_ms
        self._open: dict[tuple[str, int, int], _Interval] = {}  # (model hash, partition, start)
        self._newest_ms: dict[int, int] = {}
        self._labels = LabelBook()

    def process(self, records: Sequence[Record]) -> list[Output]:
        """Take diagnoses and labels in; return the metrics of every interval that is over."""
        outputs: list[Output] = []
        partitions = set()
        for record in records:
            try:
                if record.topic == DIAGNOSES:
                    self._add(messages.decode_diagnosis(record.value or b""), record.partition)
                    partitions.add(record.partition)
                elif record.topic == LABELS:
                    self._labels.add(record)
            except RejectedError as rejected:
                outputs.append(messages.dead_letter(record, rejected))
        for partition in sorted(partitions):
            outputs += self._tell(partition, self._newest_ms[partition] - self._interval_ms)
        return outputs

    def finish(self) -> list[Output]:
        """Tell every interval that is still open."""
        outputs: list[Output] = []
        for partition in sorted(self._newest_ms):
            outputs += self._tell(partition, self._newest_ms[partition] + self._interval_ms)
        return outputs

    def _add(self, diagnosis: Diagnosis, partition: int) -> None:
        start = diagnosis.frame_start // self._interval_ms * self._interval_ms
        interval = self._open.setdefault((diagnosis.model.hash, partition, start), _Interval())
        interval.model = diagnosis.model
        interval.diagnoses += 1
        self._newest_ms[partition] = max(self._newest_ms.get(partition, 0), diagnosis.frame_end)
        interval.said[diagnosis.machine, diagnosis.frame_start] = diagnosis.fault
        if diagnosis.fault == NO_EVIDENCE:
            interval.no_evidence += 1
            return
        interval.fused += 1
        interval.confidence += diagnosis.confidence
        interval.entropy += diagnosis.entropy
        interval.disagreement += diagnosis.disagreement
        for modality, answer in diagnosis.modalities.items():
            interval.weights[modality] += answer.weight

    def _tell(self, partition: int, until_ms: int) -> list[Output]:
        outputs = []
        over = [key for key in self._open if key[1] == partition and key[2] + self._interval_ms <= until_ms]
        for key in sorted(over):
            metric = self._metric(key, self._open.pop(key))
            value = messages.encode(metric)
            outputs.append(Output(METRICS, partition, metric.model.name.encode(), value, metric.interval_end))
        return outputs

    def _metric(self, key: tuple[str, int, int], interval: _Interval) -> FusionMetric:
        model_hash, partition, start = key
        truth, said = [], []
        for (machine, frame_start), fault in interval.said.items():
            label = self._labels.fault_at(machine, frame_start)
            if label is not None:
                truth.append(label)
                said.append(fault)
        names = sorted(set(truth) | set(said))
        index = {name: i for i, name in enumerate(names)}
        found = label_scores(
            np.array([index[name] for name in truth], np.int64), np.array([index[name] for name in said], np.int64)
        )
        scores = {name: None if score is None else round(float(score), _DIGITS) for name, score in found.items()}
        fused = interval.fused
        mean = (
            {name: round(total / fused, _DIGITS) for name, total in sorted(interval.weights.items())} if fused else {}
        )
        return FusionMetric(
            id=f"{interval.model.name}:{model_hash[:12]}:{partition}:{start + self._interval_ms}",
            model=interval.model,
            partition=partition,
            interval_start=start,
            interval_end=start + self._interval_ms,
            diagnoses=interval.diagnoses,
            no_evidence=interval.no_evidence,
            confidence_mean=round(interval.confidence / fused, _DIGITS) if fused else None,
            entropy_mean=round(interval.entropy / fused, _DIGITS) if fused else None,
            disagreement_mean=round(interval.disagreement / fused, _DIGITS) if fused else None,
            weights_mean=mean,
            labelled=len(truth),
            accuracy=scores["accuracy"],
            macro_f1=scores["macro_f1"],
            ari=scores["ari"],
            mutual_information=scores["mutual_information"],
            conditional_entropy=scores["conditional_entropy"],
        )
