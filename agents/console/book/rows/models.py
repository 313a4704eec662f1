"""Models with their scores, drift and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agents.audit.reports.drift_list import DriftEpisode
from agents.console.book.knowledge import Knowledge
from agents.console.book.published import SeenMetric
from agents.console.book.titles import DRIFT_KINDS
from agents.console.documents.models import DriftRow, Interval, LabelRow, Labels, ModelRow
from pipeline.wire.labels import LabelledSpan
from pipeline.wire.messages import MAX_TIME_MS, ModelRef

_INTERVALS = 60
_DRIFT_ENDED = 100
_LABELS = 100
_SCORES = ("accuracy", "macro_f1", "ari", "mutual_information", "conditional_entropy", "candidates_coverage")


@dataclass(slots=True)
class _Model:
    name: str
    kind: str
    types: dict[str, None] = field(default_factory=dict)
    machines: int = 0
    newest_ms: int | None = None

    def see(self, time_ms: int) -> None:
        """It said something at this time."""
        self.newest_ms = time_ms if self.newest_ms is None else max(self.newest_ms, time_ms)


def model_rows(known: Knowledge, machines: Sequence[str]) -> list[ModelRow]:
    """Every model that machines or areas have, or that there are metrics of; the newest first."""
    models: dict[str, _Model] = {}

    def model(seen: ModelRef, kind: str, time_ms: int) -> _Model:
        found = models.setdefault(seen.hash, _Model(seen.name, kind))
        found.see(time_ms)
        return found

    for machine in machines:
        if (one := known.machines.get(machine)) is not None:
            found = model(one.newest.model, "machine", one.newest.frame_end)
            found.machines += 1
            kind = known.machines.type_of(machine)
            found.types[machine if kind is None else kind.name] = None
    for name in known.profile.areas:
        if (state := known.areas.get(name)) is not None:
            model(state.newest.model, "area", state.newest.frame_end)
    metrics = known.models.metrics()
    for own in metrics.values():
        for metric in own:
            model(metric.model, "machine", metric.interval_end)
    rows = [_model_row(digest, one, metrics.get(digest, [])) for digest, one in models.items()]
    return sorted(rows, key=lambda row: (-(row.newest_ms or 0), row.hash))


def _model_row(digest: str, model: _Model, metrics: list[SeenMetric]) -> ModelRow:
    by_interval: dict[tuple[int, int], list[SeenMetric]] = {}
    for one in metrics:
        by_interval.setdefault((one.interval_start, one.interval_end), []).append(one)
    newest = sorted(by_interval)[-_INTERVALS:]
    kept = [one for interval in newest for one in by_interval[interval]]
    modalities = sorted({name for one in kept for name in one.weights_mean})
    return ModelRow(
        hash=digest,
        name=model.name,
        kind=model.kind,
        machine_types=sorted(model.types),
        machines=model.machines,
        newest_ms=model.newest_ms,
        diagnoses=sum(one.diagnoses for one in kept),
        no_evidence=sum(one.no_evidence for one in kept),
        confidence_mean=_mean(kept, lambda one: one.confidence_mean, _evident),
        entropy_mean=_mean(kept, lambda one: one.entropy_mean, _evident),
        disagreement_mean=_mean(kept, lambda one: one.disagreement_mean, _evident),
        weights_mean={name: _mean(kept, _weight_of(name), _evident) or 0.0 for name in modalities},
        labelled=sum(one.labelled for one in kept),
        scores={name: _mean(kept, _score_of(name), _labelled) for name in _SCORES},
        intervals=[_interval(*interval, by_interval[interval]) for interval in newest],
    )


def _interval(start_ms: int, end_ms: int, metrics: list[SeenMetric]) -> Interval:
    return Interval(
        start_ms,
        end_ms,
        sum(one.diagnoses for one in metrics),
        sum(one.labelled for one in metrics),
        _mean(metrics, lambda one: one.confidence_mean, _evident),
        _mean(metrics, _score_of("accuracy"), _labelled),
        _mean(metrics, _score_of("macro_f1"), _labelled),
    )


def _evident(metric: SeenMetric) -> int:
    return metric.diagnoses - metric.no_evidence


def _labelled(metric: SeenMetric) -> int:
    return metric.labelled


def _score_of(name: str) -> Callable[[SeenMetric], float | None]:
    return lambda metric: getattr(metric, name)


def _weight_of(modality: str) -> Callable[[SeenMetric], float | None]:
    return lambda metric: metric.weights_mean.get(modality)


def _mean(
    metrics: Sequence[SeenMetric], value: Callable[[SeenMetric], float | None], weight: Callable[[SeenMetric], int]
) -> float | None:
    """The mean of a number over metrics, by weight; None where no metric has it."""
    given = [(found, weight(one)) for one in metrics if (found := value(one)) is not None]
    total = sum(share for _, share in given)
    return sum(found * share for found, share in given) / total if total > 0 else None


def drift_rows(known: Knowledge) -> list[DriftRow]:
    """Open drift of machines that are known, by machine, and then what has ended last."""
    opened = [one for one in known.drift.open() if known.is_known(one.machine)]
    opened.sort(key=lambda one: (one.machine, one.kind, one.variable or ""))
    ended = [one for _, one in zip(range(_DRIFT_ENDED), known.drift.ended(), strict=False)]
    return [_drift_row(known, one) for one in (*opened, *ended)]


def _drift_row(known: Knowledge, episode: DriftEpisode) -> DriftRow:
    machine, variable = episode.machine, episode.variable
    return DriftRow(
        machine=machine,
        name=known.titles.name(machine),
        kind=episode.kind,
        kind_title=DRIFT_KINDS.get(episode.kind, episode.kind),
        variable=variable,
        variable_title=None if variable is None else known.words.variable(machine, variable),
        direction=episode.direction,
        size=episode.size,
        value=episode.value,
        reference=episode.reference,
        since_ms=episode.since_ms,
        reported_ms=episode.reported_ms,
        ended_ms=episode.ended_ms,
        model=episode.model.rpartition(" ")[2],
    )


def labels(known: Knowledge) -> Labels:
    """How many labels there are, and the newest."""
    newest = [one for _, one in zip(range(_LABELS), known.labels, strict=False)]
    return Labels(known.labels.count, [_label_row(known, one) for one in newest])


def _label_row(known: Knowledge, span: LabelledSpan) -> LabelRow:
    return LabelRow(
        machine=span.machine,
        name=known.titles.name(span.machine),
        fault=span.fault,
        fault_title=known.titles.fault(span.machine, span.fault),
        start_ms=span.start_ms,
        end_ms=None if span.end_ms >= MAX_TIME_MS else span.end_ms,
        note=span.note,
        by=span.by,
        corrects=span.corrects,
        written_ms=span.written_ms,
    )
