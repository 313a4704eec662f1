"""What each kind of record changes in what is known of a plant; what cannot be read is counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agents.console.book import published
from agents.console.book.changes import Changes
from agents.console.book.knowledge import Knowledge
from pipeline.config.topics import (
    ALARMS,
    CONTROL,
    DEAD_LETTER,
    DIAGNOSES,
    DRIFT,
    INCIDENTS,
    LABELS,
    LATE,
    METRICS,
    PLANT,
)
from pipeline.engine.reports.drift_report import decode_drift_report
from pipeline.engine.reports.incidents.record import decode_incident
from pipeline.engine.reports.lifecycle.records import decode_alarm
from pipeline.wire.labels import read_label
from pipeline.wire.messages import MAX_NAME, Reason, RejectedError
from pipeline.wire.records import Record

FOLDED_TOPICS: Final = (DIAGNOSES, PLANT, ALARMS, INCIDENTS, DRIFT, METRICS, LATE, DEAD_LETTER, LABELS, CONTROL)
"""What a book is made from; the topics of areas may not exist."""

_FORGET: Final = b'"forget"'
_MAX_COUNT: Final = 2**53


@dataclass(slots=True)
class TopicCount:
    """How far a topic has been folded."""

    records: int = 0
    unreadable: int = 0
    newest_ms: int | None = None


class Folding:
    """Folds records into what is known, each once: the records of a partition come in the order of their offsets."""

    def __init__(self, known: Knowledge, changes: Changes) -> None:
        self.topics: dict[str, TopicCount] = {topic: TopicCount() for topic in FOLDED_TOPICS}
        self.foreign = 0
        """Records of topics that are none of these."""
        self._known = known
        self._changes = changes
        self._next: dict[tuple[str, int], int] = {}
        self._handlers: Mapping[str, Callable[[Record], None]] = {
            DIAGNOSES: self._diagnosis,
            PLANT: self._area,
            ALARMS: self._alarm,
            INCIDENTS: self._incident,
            DRIFT: self._drift,
            METRICS: self._metric,
            LATE: self._late,
            DEAD_LETTER: self._dead_letter,
            LABELS: self._label,
            CONTROL: self._control,
        }

    @property
    def unreadable(self) -> int:
        """Records that cannot be read, or are foreign."""
        return self.foreign + sum(one.unreadable for one in self.topics.values())

    def fold(self, record: Record) -> None:
        """Take a record; one that was taken before changes nothing."""
        handler = self._handlers.get(record.topic)
        if handler is None:
            self.foreign += 1
            return
        place = record.topic, record.partition
        if record.offset < self._next.get(place, 0):
            return
        self._next[place] = record.offset + 1
        topic = self.topics[record.topic]
        topic.records += 1
        if topic.newest_ms is None or record.timestamp_ms > topic.newest_ms:
            topic.newest_ms = record.timestamp_ms
        try:
            handler(record)
        except RejectedError:
            topic.unreadable += 1

    def begin_again(self, topic: str) -> None:
        """The topic was created again, so its offsets start again."""
        for place in [place for place in self._next if place[0] == topic]:
            del self._next[place]

    # -- one kind of record each ---------------------------------------------------------------------------------

    def _diagnosis(self, record: Record) -> None:
        seen = published.read_diagnosis(record.value or b"")
        _check(seen.machine, seen.fault, seen.model.hash, seen.status, times_ms=(seen.frame_start, seen.frame_end))
        machines = self._known.machines
        before = machines.since_of(seen.machine)
        if machines.take(seen):
            self._changes.next()
            self._changes.note_tile(seen.machine)
            if machines.since_of(seen.machine) is not before:
                self._note_area_of(seen.machine)

    def _note_area_of(self, machine: str) -> None:
        area = self._known.titles.area(machine)
        if area is not None:
            self._changes.note_area(area.id)

    def _area(self, record: Record) -> None:
        seen = published.read_area(record.value or b"")
        _check(seen.area, seen.model.hash, times_ms=(seen.frame_start, seen.frame_end))
        changed = self._known.areas.take(seen)
        if changed is not None:
            self._changes.next()
            self._changes.note_area(seen.area)
            for machine in sorted(changed):
                self._changes.note_tile(machine)

    def _alarm(self, record: Record) -> None:
        alarm = decode_alarm(record.value or b"")
        _check(alarm.machine, alarm.fault, alarm.state, times_ms=(alarm.time,))
        machine, alarms = alarm.machine, self._known.alarms
        before = {row.key for row in alarms.rows(machine)}
        if not alarms.take(alarm, record.headers, self._changes.version + 1):
            return
        self._changes.next()
        self._changes.note_alarms(machine)
        for key in sorted(before - {row.key for row in alarms.rows(machine)}):
            if alarms.find_over(key) is None:
                self._changes.rows.note(key, self._changes.version)
        if machine not in self._known.titles.utilities:
            self._changes.note_tile(machine)
        self._note_area_of(machine)

    def _incident(self, record: Record) -> None:
        if record.value is None:
            id_ = (record.key or b"").decode(errors="replace")
            if self._known.incidents.forget(id_):
                self._changes.next()
            return
        incident = decode_incident(record.value)
        _check(incident.machine, incident.found or "", incident.diagnosed or "", times_ms=(incident.start,))
        if self._known.incidents.take(incident):
            version = self._changes.next()
            if self._known.alarms.touch(incident.machine, incident.id, version):
                self._changes.note_alarms(incident.machine)

    def _drift(self, record: Record) -> None:
        report = decode_drift_report(record.value or b"")
        _check(report.machine, report.kind, report.variable or "", times_ms=(report.time, report.since))
        if self._known.drift.take(report):
            self._changes.next()
            self._changes.note_tile(report.machine)

    def _metric(self, record: Record) -> None:
        metric = published.read_metric(record.value or b"")
        _check(metric.model.name, metric.model.hash, times_ms=(metric.interval_start, metric.interval_end))
        if not all(0 <= count < _MAX_COUNT for count in (metric.diagnoses, metric.no_evidence, metric.labelled)):
            raise RejectedError(Reason.SCHEMA, "a count is none")
        if self._known.models.take(metric):
            self._changes.next()

    def _late(self, record: Record) -> None:
        if self._known.late.take(record):
            self._changes.next()

    def _dead_letter(self, record: Record) -> None:
        if self._known.dead_letters.take(record):
            self._changes.next()

    def _label(self, record: Record) -> None:
        if self._known.labels.take(read_label(record)):
            self._changes.next()

    def _control(self, record: Record) -> None:
        """Ticks, and what people do, show in other topics; only a machine that is forgotten shows in none."""
        if record.value is None or _FORGET not in record.value:
            return
        try:
            control = published.read_forget(record.value)
        except RejectedError:
            return
        if self._known.machines.forget(control.machine, record.timestamp_ms):
            self._changes.next()
            self._changes.note_tile(control.machine)
            self._note_area_of(control.machine)


def _check(*names: str, times_ms: tuple[int, ...]) -> None:
    """Raises RejectedError if a name is longer than Faultline writes, or a time is out of range."""
    if any(len(name) > MAX_NAME for name in names) or not published.is_time(*times_ms):
        raise RejectedError(Reason.SCHEMA, "a name is too long, or a time is out of range")
