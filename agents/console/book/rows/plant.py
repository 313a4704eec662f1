"""Tiles of machines, areas with their utilities, and how many machines and alarms there are."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from agents.audit.reports.alarm_list import WAITING, AlarmState, shown_priority
from agents.console.book.chapters.alarms import AlarmRow
from agents.console.book.chapters.areas import AreaState
from agents.console.book.knowledge import Knowledge
from agents.console.book.published import SeenCause, SeenDiagnosis
from agents.console.documents.plant import (
    Area,
    AreaEvidence,
    Cause,
    Corrected,
    PlantCounts,
    Remaining,
    Tile,
    Utility,
)
from pipeline.config.sections.areas import utility_id

HASH_CHARACTERS = 12
"""As many characters of a model's hash are shown as ids of diagnoses have."""
CALLING = frozenset({AlarmState.UNACKNOWLEDGED, AlarmState.ACKNOWLEDGED})
"""Alarms whose fault is there, and that are not put aside."""
_ASIDE = frozenset({AlarmState.OUT_OF_SERVICE, AlarmState.SUPPRESSED})


class _Alarms(NamedTuple):
    """The alarms of a machine or a utility, as its tile shows them."""

    alarm: str | None
    alarm_state: str | None
    priority: str | None
    acknowledged: bool
    shelved: bool
    suppressed: bool


def tile(known: Knowledge, machine: str) -> Tile:
    """A machine as it is; one of which there was no diagnosis is unheard."""
    titles, found = known.titles, known.machines.get(machine)
    kind, area = known.machines.type_of(machine), titles.area(machine)
    rows = known.alarms.rows(machine)
    newest = None if found is None else found.newest
    state = known.state_of(machine)
    since_ms = None if found is None else found.since.time_ms
    if state == "blind" and (blind_ms := known.blind_since(machine)) is not None:
        since_ms = blind_ms
    shown = _alarms(known, rows)
    return Tile(
        id=machine,
        name=titles.name(machine),
        title=titles.machine(machine),
        area=None if area is None else area.id,
        area_title=None if area is None else area.title,
        type="" if kind is None else kind.name,
        state=state,
        status="" if newest is None else newest.status,
        fault=None if newest is None else newest.fault,
        fault_title=None if newest is None else titles.fault(machine, newest.fault),
        confidence=None if newest is None else newest.confidence,
        since_ms=since_ms,
        since_known=state == "blind" or (found is not None and found.since.known),
        frame_start_ms=None if newest is None else newest.frame_start,
        frame_end_ms=None if newest is None else newest.frame_end,
        novelty=None if newest is None else newest.novelty,
        diagnosis=None if newest is None else newest.id,
        model=None if newest is None else newest.model.hash[:HASH_CHARACTERS],
        alarm=shown.alarm,
        alarm_state=shown.alarm_state,
        priority=shown.priority,
        acknowledged=shown.acknowledged,
        shelved=shown.shelved,
        suppressed=shown.suppressed,
        alarms=sum(row.status.id is not None for row in rows),
        remaining=None if newest is None else _remaining(newest),
        drifting=known.drift.count(machine),
        corrected=_corrected(known, machine),
    )


def _alarms(known: Knowledge, rows: list[AlarmRow]) -> _Alarms:
    first = rows[0] if rows else None
    states = {row.status.state for row in rows}
    has_alarm = first is not None and first.status.id is not None
    return _Alarms(
        alarm=None if first is None else first.key,
        alarm_state=None if first is None else first.status.state.value,
        priority=shown_priority(first.status, known.words) if first is not None and has_alarm else None,
        acknowledged=first is not None and first.status.state == AlarmState.ACKNOWLEDGED,
        shelved=AlarmState.SHELVED in states,
        suppressed=not _ASIDE.isdisjoint(states),
    )


def _remaining(newest: SeenDiagnosis) -> Remaining | None:
    given, period_ms = newest.remaining, newest.frame_end - newest.frame_start
    if given is None:
        return None
    return Remaining(
        given.frames,
        given.low,
        given.high,
        round(given.frames * period_ms),
        round(given.low * period_ms),
        round(given.high * period_ms),
    )


def _corrected(known: Knowledge, machine: str) -> Corrected | None:
    answer = known.areas.corrected(machine)
    if answer is None:
        return None
    return Corrected(answer.fault, known.titles.fault(machine, answer.fault), answer.confidence)


def area_ids(known: Knowledge, machines: list[str]) -> dict[str, list[str]]:
    """By the ids of areas their machines: declared areas first, then those that are only words."""
    found: dict[str, list[str]] = {area: list(one.all_machines) for area, one in known.profile.areas.items()}
    said: dict[str, list[str]] = {}
    for machine in machines:
        area = known.titles.area(machine)
        if area is not None and machine not in known.areas.area_of:
            said.setdefault(area.id, []).append(machine)
    return found | {name: said[name] for name in sorted(said) if name not in found}


def area(known: Knowledge, id_: str, machines: list[str]) -> Area:
    """An area as it is."""
    declared, state = known.profile.areas.get(id_), known.areas.get(id_)
    name = known.words.declared_area(id_) if declared is not None else id_
    newest = None if state is None else state.newest
    return Area(
        id=id_,
        name=name,
        title=id_ if declared is None else known.titles.declared(id_).title,
        declared=declared is not None,
        machines=machines,
        states=dict(sorted(Counter(known.state_of(machine) for machine in machines).items())),
        cause=None if state is None else _cause(known, id_, state),
        utilities=[] if declared is None else [_utility(known, id_, one, state) for one in declared.utilities],
        evidence=[]
        if newest is None
        else [
            AreaEvidence(one.kind, node, known.titles.name(node), one.weight)
            for one in newest.evidence
            for node in (utility_id(id_, one.name) if one.kind == "utility" else one.name,)
        ],
        frame_end_ms=None if newest is None else newest.frame_end,
        diagnosis=None if newest is None else newest.id,
        model=None if newest is None else newest.model.hash[:HASH_CHARACTERS],
    )


def _cause(known: Knowledge, area_id: str, state: AreaState) -> Cause:
    cause: SeenCause = state.newest.cause
    node = cause.name
    if node is not None and cause.kind == "utility":
        node = utility_id(area_id, node)
    return Cause(
        kind=cause.kind,
        id=node,
        title=None if node is None else known.titles.machine(node),
        fault=cause.fault,
        fault_title=None if node is None else known.titles.fault_or_none(node, cause.fault),
        probability=cause.probability,
        since_ms=state.cause_since_ms,
    )


def _utility(known: Knowledge, area_id: str, name: str, state: AreaState | None) -> Utility:
    id_ = utility_id(area_id, name)
    seen = None if state is None else state.utilities.get(id_)
    alarms = _alarms(known, known.alarms.rows(id_))
    return Utility(
        id=id_,
        utility=name,
        title=_utility_title(known, id_, name),
        state="unheard" if seen is None else "normal" if seen.fault is None else "fault",
        fault=None if seen is None else seen.fault,
        fault_title=None if seen is None else known.titles.fault_or_none(id_, seen.fault),
        probability=None if seen is None else seen.probability,
        since_ms=None if seen is None else seen.since_ms,
        **alarms._asdict(),
    )


def _utility_title(known: Knowledge, id_: str, name: str) -> str:
    title = known.titles.machine(id_)
    return name if title == id_ else title


def counts(known: Knowledge, machines: list[str]) -> PlantCounts:
    """Machines by state, and alarms that call somebody by priority."""
    states = Counter(known.state_of(machine) for machine in machines)
    statuses = [status for name in known.alarms.machines for status in known.alarms.statuses(name)]
    calling = (one for one in statuses if one.state in CALLING)
    return PlantCounts(
        machines=len(machines),
        states=dict(sorted(states.items())),
        priorities=dict(sorted(Counter(shown_priority(one, known.words) for one in calling).items())),
        unacknowledged=sum(one.state in WAITING for one in statuses),
    )
