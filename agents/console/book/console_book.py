"""The console's book: records of all topics in, documents out, and what has changed since a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from agents.audit.reports.alarm_list import AlarmStatus
from agents.console.book.bounded import Limits
from agents.console.book.changes import Changes
from agents.console.book.folding import Folding
from agents.console.book.knowledge import Knowledge
from agents.console.book.rows import alarms as alarm_rows
from agents.console.book.rows import data as data_rows
from agents.console.book.rows import models as model_rows
from agents.console.book.rows import plant as plant_rows
from agents.console.book.rows.data import SourceState
from agents.console.documents.alarms import Alarm, AlarmCounters, AlarmsDocument, IncidentsDocument
from agents.console.documents.data import DataDocument, TopicRow
from agents.console.documents.models import ModelsDocument
from agents.console.documents.plant import (
    AlarmsUpdate,
    Area,
    AreasUpdate,
    MachinesUpdate,
    PlantCounts,
    PlantDocument,
    Status,
    Tile,
    Updates,
)
from agents.words import Words
from pipeline.config.profile import PlantProfile
from pipeline.wire.records import Record

_INCIDENTS: Final = 500


class ConsoleBook:
    """One picture of a plant. It depends on the records alone, in any order of partitions, however often they come.

    Everything in it is of limited size. It is not thread-safe: fold and ask in one thread.
    """

    def __init__(self, profile: PlantProfile, *, limits: Limits | None = None) -> None:
        limits = Limits() if limits is None else limits
        self.profile = profile
        self._known = Knowledge(profile, limits)
        self._changes = Changes(limits)
        self._folding = Folding(self._known, self._changes)
        self._sources: Sequence[SourceState] = ()
        self._behind: Mapping[str, int] = {}
        self._since_ms: int | None = None
        self._connected = False
        self._away_since_wall_ms: int | None = None
        self._why: str | None = None
        self._still_since_wall_ms: int | None = None
        self._caught_up = False
        self._missing: tuple[str, ...] = ()
        self._frozen = False
        self._counts: tuple[int, PlantCounts] | None = None
        self._counters: tuple[tuple[int, int | None], AlarmCounters] | None = None

    # -- what comes in -------------------------------------------------------------------------------------------

    def fold(self, record: Record) -> None:
        """Take a record, with its topic's short name. What cannot be read is counted, and never raises."""
        self._folding.fold(record)

    def begin_again(self, topic: str) -> None:
        """A topic was created again, so its offsets start again."""
        self._folding.begin_again(topic)

    def note_reading(
        self,
        *,
        connected: bool,
        caught_up: bool,
        behind: Mapping[str, int],
        missing: Sequence[str] = (),
        away_since_wall_ms: int | None = None,
        why: str | None = None,
        since_ms: int | None = None,
        still_since_wall_ms: int | None = None,
    ) -> None:
        """How far reading is; `behind` has for each topic how many records are not read yet."""
        before = self._connected, self._caught_up, self._missing, self._away_since_wall_ms, self._still_since_wall_ms
        self._connected, self._caught_up, self._missing = connected, caught_up, tuple(missing)
        self._away_since_wall_ms, self._why, self._since_ms = away_since_wall_ms, why, since_ms
        self._behind, self._still_since_wall_ms = behind, still_since_wall_ms
        if before != (connected, caught_up, self._missing, away_since_wall_ms, still_since_wall_ms):
            self._note_status()

    def note_sources(self, sources: Sequence[SourceState]) -> None:
        """What was measured of the input topics."""
        if self._sources != sources:
            before, self._sources = self._lag(), sources
            self._changes.next()
            if before != self._lag():
                self._changes.note_status()

    def freeze(self) -> None:
        """Nothing more will come: a demo is over."""
        self._frozen = True
        self._note_status()

    def _note_status(self) -> None:
        self._changes.next()
        self._changes.note_status()

    # -- documents -----------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """That of the newest change."""
        return self._changes.version

    @property
    def read_ms(self) -> int | None:
        """Event time up to which has been read."""
        return self._known.read_ms

    @property
    def words(self) -> Words:
        """What the plant's ids mean."""
        return self._known.words

    def plant(self) -> PlantDocument:
        """Every machine and area."""
        self._expire()
        known, machines = self._known, self._known.machine_ids()
        areas = plant_rows.area_ids(known, machines)
        return PlantDocument(
            plant=self.profile.plant,
            version=self.version,
            read_ms=self.read_ms,
            machines=[plant_rows.tile(known, machine) for machine in machines],
            areas=[plant_rows.area(known, area, own) for area, own in areas.items()],
            counts=self._plant_counts(machines),
            status=self.status(),
        )

    def tile(self, machine: str) -> Tile | None:
        """A machine; None of one that is not known."""
        return plant_rows.tile(self._known, machine) if self._known.is_known(machine) else None

    def alarms(self) -> AlarmsDocument:
        """Alarms that are not normal, and those that are over."""
        known = self._known
        over = (alarm_rows.over_alarm(known, life) for life in known.alarms.over())
        return AlarmsDocument(
            version=self.version,
            read_ms=self.read_ms,
            active=[alarm_rows.active_alarm(known, row) for row in alarm_rows.active_rows(known)],
            recent=[one for one in over if one is not None],
            counters=self._alarm_counters(),
            configured=[alarm_rows.configured(one) for one in known.alarms.configured],
            incidents=len(known.incidents),
        )

    def alarm(self, key: str) -> Alarm | None:
        """An alarm by its key; None of one that is not known."""
        life = self._known.alarms.find_over(key)
        if life is not None:
            return alarm_rows.over_alarm(self._known, life)
        rows = (row for row in alarm_rows.active_rows(self._known) if row.key == key)
        return next((alarm_rows.active_alarm(self._known, row) for row in rows), None)

    def history(self, machine: str) -> list[Alarm]:
        """A machine's alarms: those that are not normal, and then those that are over, the newest first."""
        known = self._known
        active = [alarm_rows.active_alarm(known, row) for row in known.alarms.rows(machine)]
        return [*active, *self._over(machine, 0)]

    def data(self) -> DataDocument:
        """Sources, dead letters and late records."""
        known, topics = self._known, self._folding.topics
        return DataDocument(
            version=self.version,
            read_ms=self.read_ms,
            sources=data_rows.source_rows(known, self._sources, known.machine_ids()),
            dead_letters=data_rows.letters(known.dead_letters),
            late=data_rows.letters(known.late),
            topics=[
                TopicRow(name, one.records, one.newest_ms, self._behind.get(name), one.unreadable)
                for name, one in topics.items()
                if name not in self._missing
            ],
            since_ms=self._since_ms,
        )

    def models(self) -> ModelsDocument:
        """Models, drift and labels."""
        self._expire()
        known = self._known
        return ModelsDocument(
            version=self.version,
            read_ms=self.read_ms,
            models=model_rows.model_rows(known, known.machine_ids()),
            drift=model_rows.drift_rows(known),
            labels=model_rows.labels(known),
        )

    def incidents(self, machine: str | None = None, limit: int = 100) -> IncidentsDocument:
        """Incidents, of one machine or of all, the newest first."""
        found = (one for one in self._known.incidents if machine in (None, one.machine))
        places = range(min(limit, _INCIDENTS))
        return IncidentsDocument(
            [alarm_rows.incident_row(self._known, one) for _, one in zip(places, found, strict=False)]
        )

    def status(self) -> Status:
        """How far reading is."""
        return Status(
            connected=self._connected,
            away_since_wall_ms=self._away_since_wall_ms,
            why=self._why,
            read_ms=self.read_ms,
            caught_up=self._caught_up,
            behind=sum(self._behind.values()),
            lag=self._lag(),
            unreadable=self._folding.unreadable,
            missing_topics=self._missing,
            frozen=self._frozen,
            still_since_wall_ms=None if self._frozen else self._still_since_wall_ms,
        )

    def _lag(self) -> int | None:
        known = [one.lag for one in self._sources if one.lag is not None]
        return sum(known) if known else None

    # -- for those who act ---------------------------------------------------------------------------------------

    def knows(self, machine: str) -> bool:
        """Whether there was a diagnosis or an alarm of a machine or utility."""
        return self._known.machines.get(machine) is not None or self._known.has_alarms(machine)

    def newest_ms(self, machine: str) -> int | None:
        """The end of a machine's newest frame; of a utility that of its area."""
        if (area := self.profile.area_of_utility.get(machine)) is not None:
            state = self._known.areas.get(area)
            return None if state is None else state.newest.frame_end
        found = self._known.machines.get(machine)
        return None if found is None else found.newest.frame_end

    def alarms_of(self, machine: str) -> list[AlarmStatus]:
        """A machine's alarms that are not normal, the most urgent first."""
        return self._known.alarms.statuses(machine)

    # -- changes -------------------------------------------------------------------------------------------------

    def updates(self, since: int) -> Updates:
        """What has changed after a version; everything has to be loaded again if that is not known any more."""
        self._expire()
        changes, version = self._changes, self.version
        if not changes.knows(since):
            return Updates(version, reload=True)
        return Updates(
            version=version,
            machines=self._machines_update(since),
            areas=self._areas_update(since),
            alarms=self._alarms_update(since),
            status=self.status() if changes.status_version > since else None,
        )

    def _machines_update(self, since: int) -> MachinesUpdate | None:
        names = self._changes.tiles.since(since)
        if not names:
            return None
        tiles = {name: self.tile(name) for name in sorted(names)}
        return MachinesUpdate(
            version=self.version,
            read_ms=self.read_ms,
            machines=[one for one in tiles.values() if one is not None],
            removed=[name for name, one in tiles.items() if one is None],
            counts=self._plant_counts(None),
        )

    def _areas_update(self, since: int) -> AreasUpdate | None:
        names = set(self._changes.areas.since(since))
        if not names:
            return None
        areas = plant_rows.area_ids(self._known, self._known.machine_ids())
        found: list[Area] = [
            plant_rows.area(self._known, name, machines) for name, machines in areas.items() if name in names
        ]
        return AreasUpdate(self.version, found)

    def _alarms_update(self, since: int) -> AlarmsUpdate | None:
        known = self._known
        names, gone = self._changes.alarms.since(since), self._changes.rows.since(since)
        if not names and not gone:
            return None
        active = [alarm_rows.active_alarm(known, row) for name in sorted(names) for row in known.alarms.rows(name)]
        keys = {one.key for one in active}
        return AlarmsUpdate(
            version=self.version,
            alarms=[*active, *self._over(None, since)],
            removed=[key for key in gone if key not in keys],
            counters=self._alarm_counters(),
        )

    def _over(self, machine: str | None, since: int) -> list[Alarm]:
        """Alarms that are over and have changed after a version, of one machine or all."""
        lives = (one for one in self._known.alarms.over() if one.version > since)
        found = (alarm_rows.over_alarm(self._known, one) for one in lives)
        return [one for one in found if one is not None and machine in (None, one.machine)]

    def _expire(self) -> None:
        gone = self._known.machines.expire()
        if gone:
            self._changes.next()
            for machine in gone:
                self._changes.note_tile(machine)

    def _plant_counts(self, machines: list[str] | None) -> PlantCounts:
        if self._counts is None or self._counts[0] != self.version:
            machines = self._known.machine_ids() if machines is None else machines
            self._counts = self.version, plant_rows.counts(self._known, machines)
        return self._counts[1]

    def _alarm_counters(self) -> AlarmCounters:
        moment = self._changes.alarms_version, self.read_ms
        if self._counters is None or self._counters[0] != moment:
            self._counters = moment, alarm_rows.counters(self._known)
        return self._counters[1]
