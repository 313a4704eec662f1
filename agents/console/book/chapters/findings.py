"""What was found besides diagnoses and alarms: incidents, labels of technicians, and drift of machines' statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agents.audit.reports.drift_list import DriftEpisode, DriftOfMachine
from agents.console.book.bounded import Limits, Newest, SeenIds
from pipeline.engine.reports.drift_report import DriftReport
from pipeline.engine.reports.incidents.record import Incident
from pipeline.wire.labels import LabelledSpan

_TEXTS = 3
_TEXT_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class KnownIncident:
    """An incident, as far as pages show it."""

    id: str
    kind: str
    machine: str
    start_ms: int
    end_ms: int | None
    diagnosed: str | None
    found: str | None
    note: str | None
    texts: tuple[str, ...]


class IncidentBook:
    """The newest incidents, by their ids."""

    def __init__(self, limits: Limits) -> None:
        self._incidents: Newest[KnownIncident] = Newest(limits.incidents)

    def __len__(self) -> int:
        return len(self._incidents)

    def take(self, incident: Incident) -> bool:
        """Take an incident, which replaces its earlier records; returns whether it is news."""
        known = KnownIncident(
            incident.id,
            incident.kind,
            incident.machine,
            incident.start,
            incident.end,
            incident.diagnosed,
            incident.found,
            incident.note,
            tuple(text[:_TEXT_CHARACTERS] for text in incident.texts[-_TEXTS:]),
        )
        return self._incidents.get(known.id) != known and self._incidents.put(known.id, known.start_ms, known)

    def forget(self, id_: str) -> bool:
        """The incident is no more; returns whether it was known."""
        is_known = id_ in self._incidents
        self._incidents.remove(id_)
        return is_known

    def get(self, id_: str | None) -> KnownIncident | None:
        """An incident; that of an alarm has the alarm's id."""
        return None if id_ is None else self._incidents.get(id_)

    def __iter__(self) -> Iterator[KnownIncident]:
        """The newest first."""
        return iter(self._incidents)


class LabelShelf:
    """The newest labels; one takes the place of an earlier one of the same machine and start."""

    def __init__(self, limits: Limits) -> None:
        self._labels: Newest[LabelledSpan] = Newest(limits.recent)
        self.count = 0
        """How many records of labels were read."""

    def take(self, span: LabelledSpan) -> bool:
        """Take a label."""
        self.count += 1
        self._labels.put(f"{span.machine}:{span.start_ms}", span.start_ms, span)
        return True

    def __iter__(self) -> Iterator[LabelledSpan]:
        """The newest first."""
        return iter(self._labels)


@dataclass(slots=True)
class _Machine:
    drift: DriftOfMachine
    seen: SeenIds


class DriftBook:
    """The drift of every machine."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._machines: dict[str, _Machine] = {}
        self._ended: Newest[DriftEpisode] = Newest(limits.recent)

    def take(self, report: DriftReport) -> bool:
        """Take a report; returns whether it is news."""
        machine = self._machines.get(report.machine)
        if machine is None:
            machine = self._machines[report.machine] = _Machine(DriftOfMachine(), SeenIds(self._limits.ids))
            if len(self._machines) > self._limits.machines:
                idle = (name for name, one in self._machines.items() if not one.drift.open)
                del self._machines[next(idle, next(iter(self._machines)))]
        if not machine.seen.is_new(report.id):
            return False
        for episode in machine.drift.take(report):
            id_ = f"{episode.machine}:{episode.kind}:{episode.variable}:{episode.since_ms}"
            self._ended.put(id_, episode.ended_ms or report.time, episode)
        while len(machine.drift.open) > self._limits.names:
            del machine.drift.open[next(iter(machine.drift.open))]
        return True

    def count(self, machine: str) -> int:
        """How many statistics of a machine drift."""
        found = self._machines.get(machine)
        return 0 if found is None else len(found.drift.open)

    def open(self) -> Iterator[DriftEpisode]:
        """What drifts now."""
        for name in sorted(self._machines):
            yield from self._machines[name].drift.open.values()

    def ended(self) -> Iterator[DriftEpisode]:
        """The newest first."""
        return iter(self._ended)
