"""How records of a topic would be read by a profile, without reading them as a worker does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.form import Form
from pipeline.config.hints import shown_time
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import FOREIGN, event_topics
from pipeline.errors import SettingsError
from pipeline.mapping.explain import Explanation, explain_readings, explain_texts
from pipeline.mapping.form_reader import FormReader
from pipeline.mapping.schemas import Schemas
from pipeline.wire.readings import Unused, ValueReason
from pipeline.wire.records import Record


@dataclass(frozen=True, slots=True)
class TopicForm:
    """A topic that a profile declares: its short name, its form, and whether it holds texts."""

    topic: str
    form: Form
    is_of_texts: bool


@dataclass(slots=True)
class Trial:
    """What came of some records of a topic."""

    topic: str
    records: list[tuple[Record, Explanation]] = field(default_factory=list)
    machines: Counter[str] = field(default_factory=Counter)
    unmatched: set[str] = field(default_factory=set)
    """Machines that are of no machine type."""
    unused: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many values are not used, by name and reason."""
    used: int = 0
    absent: list[str] = field(default_factory=list)
    """Variables of which no record has a value."""

    @property
    def refused(self) -> int:
        """How many records cannot be read."""
        return sum(bool(explanation.refused) for _, explanation in self.records)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "topic": self.topic,
            "records": [_as_dict(record, explanation) for record, explanation in self.records],
            "refused": self.refused,
            "machines": dict(self.machines),
            "machines_of_no_type": sorted(self.unmatched),
            "values_used": self.used,
            "values_unused": [
                {"name": name, "reason": reason, "count": count} for (name, reason), count in self.unused.most_common()
            ],
            "variables_absent": self.absent,
        }


def _as_dict(record: Record, explanation: Explanation) -> dict[str, Any]:
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "bytes": len(record.value or b""),
        "refused": explanation.refused or None,
        "fields": [one._asdict() for one in explanation.fields],
    }


def topic_form(profile: PlantProfile, name: str, prefix: str) -> TopicForm:
    """The form of a topic, by its name on the broker or without prefix; raises SettingsError if there is none."""
    short = name.removeprefix(prefix)
    texts = event_topics(profile)
    for topic in (FOREIGN + name, short, name):
        if topic in profile.sensor_topics:
            return TopicForm(topic, profile.forms.get(topic, Form()), False)
        if topic in texts:
            return TopicForm(topic, profile.forms.get(topic, Form()), True)
        for entry in profile.ingest:
            if entry.topic == topic:
                is_of_texts = entry.form.text is not None or entry.form.template is not None
                return TopicForm(topic, entry.form, is_of_texts)
    ingested = [entry.topic for entry in profile.ingest if entry.topic is not None]
    declared = [topic.removeprefix(FOREIGN) for topic in (*profile.sensor_topics, *texts, *ingested)]
    raise SettingsError(f"the profile of plant {profile.plant} declares no topic {name}; it has {', '.join(declared)}")


def try_records(
    profile: PlantProfile, declared: TopicForm, records: Sequence[Record], schemas: Schemas | None = None
) -> Trial:
    """Read records of a topic; raises what `schemas` raises where they cannot be asked for."""
    reader = FormReader(declared.form, declared.topic, schemas)
    trial = Trial(declared.topic.removeprefix(FOREIGN))
    by_sent_name, expected = _variables(profile, declared.topic)
    seen: set[str] = set()
    for record in records:
        if declared.is_of_texts:
            explanation = explain_texts(reader, record)
        else:
            explanation = explain_readings(reader, record, by_sent_name)
        trial.records.append((record, explanation))
        trial.machines.update(reading.machine for reading in explanation.readings)
        trial.machines.update(event.machine for event in explanation.texts)
        for reading in explanation.readings:
            by_name = (
                reading.values
                if isinstance(reading.values, dict)
                else dict(zip(expected, reading.values, strict=False))
            )
            for name, value in by_name.items():
                variable = by_sent_name.get(name)
                if variable is None:
                    trial.unused[name, ValueReason.UNKNOWN_VARIABLE.value] += 1
                elif isinstance(value, Unused):
                    trial.unused[variable, value.reason.value] += 1
                elif value is not None:
                    trial.used += 1
                    seen.add(variable)
    trial.unmatched = {machine for machine in trial.machines if profile.type_of(machine) is None}
    trial.absent = [] if declared.is_of_texts or not records else [name for name in expected if name not in seen]
    return trial


def _variables(profile: PlantProfile, topic: str) -> tuple[dict[str, str], list[str]]:
    """Variables by their names and tags, and in their order: those of a source's topic, or all for another topic."""
    chosen = [
        variable
        for machine_type in profile.machine_types
        for variable in machine_type.variables
        if topic not in profile.sensor_topics or machine_type.sources[variable.source].topic == topic
    ]
    by_name = {variable.name: variable.name for variable in chosen}
    by_tag = {variable.tag: variable.name for variable in chosen if variable.tag is not None}
    return by_name | by_tag, list(dict.fromkeys(variable.name for variable in chosen))


def record_title(record: Record) -> str:
    """Where a record is, in one line."""
    key = "no key" if record.key is None else f"key {record.key.decode(errors='replace')[:60]!r}"
    stamp = shown_time(record.timestamp_ms, milliseconds=True) if 0 <= record.timestamp_ms < 2**47 else "no time stamp"
    size = "no value" if record.value is None else f"{len(record.value):,} bytes"
    return f"partition {record.partition}, offset {record.offset}, {stamp}, {key}, {size}"
