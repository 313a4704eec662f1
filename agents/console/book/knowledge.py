"""All that is known of a plant: one book for each kind of record."""

from __future__ import annotations

from agents.audit.reports.alarm_list import shown_priority
from agents.console.book.bounded import Limits
from agents.console.book.chapters.alarms import AlarmBook
from agents.console.book.chapters.areas import AreaBook
from agents.console.book.chapters.findings import DriftBook, IncidentBook, LabelShelf
from agents.console.book.chapters.letters import LetterBook
from agents.console.book.chapters.machines import MachineBook
from agents.console.book.chapters.models import ModelBook
from agents.console.book.titles import Titles
from agents.console.documents.plant import TileState
from agents.words import Words
from pipeline.config.profile import PlantProfile
from pipeline.config.sections.alarms import BLIND
from pipeline.config.sections.titles import is_pattern
from pipeline.config.topics import all_topics, ingest_topics


class Knowledge:
    """What the records of all topics say so far."""

    def __init__(self, profile: PlantProfile, limits: Limits) -> None:
        self.profile = profile
        self.words = Words(profile)
        self.titles = Titles(profile, self.words)
        self.machines = MachineBook(profile, limits)
        self.alarms = AlarmBook(limits, lambda alarm: shown_priority(alarm, self.words))
        self.areas = AreaBook(profile)
        self.models = ModelBook(limits)
        self.incidents = IncidentBook(limits)
        self.labels = LabelShelf(limits)
        self.drift = DriftBook(limits)
        origins = {topic.name for topic in all_topics(profile)} | set(ingest_topics(profile))
        self.dead_letters = LetterBook(origins)
        self.late = LetterBook(origins)
        declared = {machine for machine in profile.machines if not is_pattern(machine)}
        self._declared = declared | profile.area_of.keys()

    @property
    def read_ms(self) -> int | None:
        """Event time up to which has been read."""
        return self.alarms.newest_ms if self.machines.read_ms is None else self.machines.read_ms

    def machine_ids(self) -> list[str]:
        """Machines that are known: diagnosed, declared in the profile, or with an alarm."""
        alarmed = {name for name in self.alarms.machines if self.has_alarms(name)} - self.titles.utilities.keys()
        return sorted({*self.machines, *self._declared, *alarmed})

    def is_known(self, machine: str) -> bool:
        """Whether it is one of them."""
        if machine in self._declared or self.machines.get(machine) is not None:
            return True
        return machine not in self.titles.utilities and self.has_alarms(machine)

    def has_alarms(self, machine: str) -> bool:
        """Whether an alarm of it is not normal."""
        return not self.alarms.are_normal(machine)

    def state_of(self, machine: str) -> TileState:
        """How a machine is."""
        found = self.machines.get(machine)
        if found is None:
            return "unheard"
        state = found.since.state
        if state in ("normal", "silent", "no_evidence") and self.blind_since(machine) is not None:
            return "blind"
        return state

    def blind_since(self, machine: str) -> int | None:
        """Since when readings of a machine have said nothing of the present, if an alarm says so."""
        return self.alarms.open_since(machine, BLIND)
