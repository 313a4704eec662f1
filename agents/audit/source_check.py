"""What the newest records of each source say: rate, lag, how much can be used, why the rest cannot, who is absent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.audit.machine_list import MachineSummary
from agents.audit.source_trial import TopicForm, try_records
from pipeline.config.form import Form
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import FOREIGN, event_topics
from pipeline.engine.frame_stream import FrameStream
from pipeline.mapping.schemas import Schemas
from pipeline.wire.messages import Reason
from pipeline.wire.records import Record

_TOP = 10
_ABOUT_HISTORY = {Reason.LATE.value, Reason.EXPIRED.value}
"""Reasons that depend on what came before the sample."""


@dataclass(slots=True)
class SourceReport:
    """What the newest records of one topic say."""

    topic: str
    holds: str
    records: int = 0
    """Records of the sample."""
    per_second: float | None = None
    newest_age_seconds: float | None = None
    lag: int | None = None
    """Records that the workers' group, or that of `faultline ingest`, has not processed."""
    used: int = 0
    """Records of the sample of which something can be used."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Why records cannot be used."""
    unused: Counter[str] = field(default_factory=Counter)
    """Values that cannot be used, as "variable reason"."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Names that are no variable's."""
    machines: set[str] = field(default_factory=set)
    absent: list[str] = field(default_factory=list)
    """Machines that are known and have sent nothing here for longer than the source may be silent."""

    @property
    def share_used(self) -> float | None:
        """How much of the sample can be used."""
        return self.used / self.records if self.records else None

    @property
    def has_problem(self) -> bool:
        """Whether anything needs a look."""
        return not self.records or self.used < self.records or bool(self.unused or self.unknown or self.absent)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "topic": self.topic.removeprefix(FOREIGN),
            "holds": self.holds,
            "records": self.records,
            "per_second": self.per_second,
            "newest_age_seconds": self.newest_age_seconds,
            "lag": self.lag,
            "share_used": self.share_used,
            "reasons": dict(self.reasons.most_common()),
            "values_unused": dict(self.unused.most_common()),
            "unknown_names": dict(self.unknown.most_common(_TOP)),
            "machines": len(self.machines),
            "absent": self.absent,
        }


def declared_topics(profile: PlantProfile) -> list[tuple[str, TopicForm]]:
    """Every topic that the profile reads, with what it holds."""
    forms, texts = profile.forms, event_topics(profile)
    found = [("readings", TopicForm(topic, forms.get(topic, Form()), False)) for topic in profile.sensor_topics]
    found += [("texts", TopicForm(topic, forms.get(topic, Form()), True)) for topic in texts]
    for entry in profile.ingest:
        if entry.topic is not None:
            is_of_texts = entry.form.text is not None or entry.form.template is not None
            found.append(("for ingest", TopicForm(entry.topic, entry.form, is_of_texts)))
    return found


def check_source(
    profile: PlantProfile,
    holds: str,
    declared: TopicForm,
    records: Sequence[Record],
    machines: Sequence[MachineSummary],
    *,
    now_ms: int,
    partition_of: Callable[[bytes], int] | None,
    schemas: Schemas | None = None,
) -> SourceReport:
    """Read a topic's newest records by the worker's own rules; nothing is kept."""
    report = SourceReport(declared.topic, holds, records=len(records))
    if records:
        stamps = [record.timestamp_ms for record in records]
        span_ms = max(stamps) - min(stamps)
        report.per_second = round((len(records) - 1) / span_ms * 1000, 3) if span_ms > 0 else None
        report.newest_age_seconds = round((now_ms - max(stamps)) / 1000, 3)
    trial = try_records(profile, declared, records, schemas)
    report.machines = set(trial.machines)
    if holds == "for ingest":
        # `faultline ingest` reads them whatever their keys and partitions are.
        for (name, reason), count in trial.unused.items():
            if reason == "unknown_variable":
                report.unknown[name] += count
            else:
                report.unused[f"{name} {reason}"] += count
        for _, explanation in trial.records:
            names = {reading.machine for reading in explanation.readings} | {e.machine for e in explanation.texts}
            if explanation.refused or not names:
                report.reasons[explanation.refused.split(":")[0] if explanation.refused else "empty"] += 1
            elif names <= trial.unmatched:
                report.reasons[Reason.UNKNOWN_MACHINE.value] += 1
        report.used = len(records) - sum(report.reasons.values())
        return report
    stream = FrameStream(profile, lambda *_: None, partition_of=partition_of, schemas=schemas)
    stream.process(sorted(records, key=lambda record: (record.partition, record.offset)))
    stats = stream.stats
    report.reasons.update({one: n for one, n in stats.dead_letters.items() if one not in _ABOUT_HISTORY})
    report.used = len(records) - sum(report.reasons.values())
    report.unused.update({f"{name} {reason}": n for (name, reason), n in stats.values_unused.items() if name})
    report.unknown.update(stats.unknown_names)
    report.absent = _absent(profile, declared.topic, machines, now_ms)
    return report


def _absent(profile: PlantProfile, topic: str, machines: Sequence[MachineSummary], now_ms: int) -> list[str]:
    """Machines whose type has a source in this topic that has been silent for too long."""
    absent = []
    for machine in machines:
        machine_type = profile.machine_type(machine.type)
        for name, source in machine_type.sources.items():
            if source.topic == topic:
                arrived_ms = machine.arrived_ms.get(name)
                if arrived_ms is None or now_ms - arrived_ms > machine_type.idle_after_ms(name):
                    absent.append(machine.machine)
    return sorted(absent)
