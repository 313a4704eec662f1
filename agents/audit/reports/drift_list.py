"""Drift by machine and variable, as the reports say: what stands, and what has ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.engine.reports.drift_report import DriftReport, decode_drift_report
from pipeline.wire.messages import RejectedError


@dataclass(frozen=True, slots=True)
class DriftEpisode:
    """One statistic of a machine from the report of its drift to that of its end; times are milliseconds."""

    machine: str
    kind: str
    variable: str | None
    direction: str
    size: float
    """When it was reported, in standard deviations."""
    value: float
    reference: float
    since_ms: int
    reported_ms: int | None
    """None if the report is not in the topic any more."""
    ended_ms: int | None
    model: str

    @property
    def stands(self) -> bool:
        """Whether no end has been reported."""
        return self.ended_ms is None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class DriftSummary:
    """The episodes of a topic or a recording, and how many of its records could not be read."""

    episodes: list[DriftEpisode]
    unreadable: int


@dataclass(slots=True)
class DriftOfMachine:
    """The drift of one machine's statistics, by its reports in their order."""

    model: str | None = None
    """The hash of the model that its newest report is about."""
    open: dict[tuple[str, str | None], DriftEpisode] = field(default_factory=dict)
    """By kind and variable."""

    def take(self, report: DriftReport) -> list[DriftEpisode]:
        """What changes with a report, which has not been taken before; returns the episodes that have ended.

        Reports of another model say nothing of a drift under this one: it ends with the first report of the other.
        """
        ended = []
        if self.model != report.model.hash:
            ended = [replace(one, ended_ms=report.time) for one in self.open.values()]
            self.open.clear()
            self.model = report.model.hash
        key = report.kind, report.variable
        before = self.open.pop(key, None)
        if report.state == "started":
            self.open[key] = _episode(report, reported_ms=report.time, ended_ms=None)
        elif before is not None:
            ended.append(replace(before, ended_ms=report.time))
        else:
            ended.append(_episode(report, reported_ms=None, ended_ms=report.time))
        return ended


def summarize_drift(values: Iterable[bytes | None]) -> DriftSummary:
    """Episodes from the records of the topic `drift`: what stands first, then the newest first.

    A report that came twice, because its input was read again after a crash, counts once.
    """
    machines: dict[str, DriftOfMachine] = {}
    ended: list[DriftEpisode] = []
    seen: set[str] = set()
    unreadable = 0
    for value in values:
        try:
            report = decode_drift_report(value or b"")
        except RejectedError:
            unreadable += 1
            continue
        if report.id not in seen:
            seen.add(report.id)
            ended += machines.setdefault(report.machine, DriftOfMachine()).take(report)
    standing = [episode for machine in machines.values() for episode in machine.open.values()]
    standing.sort(key=lambda one: (one.machine, one.reported_ms or 0))
    ended.sort(key=lambda one: -(one.ended_ms or 0))
    return DriftSummary([*standing, *ended], unreadable)


def _episode(report: DriftReport, *, reported_ms: int | None, ended_ms: int | None) -> DriftEpisode:
    return DriftEpisode(
        machine=report.machine,
        kind=report.kind,
        variable=report.variable,
        direction=report.direction,
        size=report.size,
        value=report.value,
        reference=report.reference,
        since_ms=report.since,
        reported_ms=reported_ms,
        ended_ms=ended_ms,
        model=f"{report.model.name} {report.model.hash[:12]}",
    )
