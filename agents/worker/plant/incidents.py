"""A plant agent's incidents: made from alarms of utilities, which carry the most similar past ones.

As of machines (agents/delivery/incidents.py): an alarm's value depends on its area's records alone, and what is similar
is in its header.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from agents.delivery.incidents import OVER, IncidentFollower, with_similar
from pipeline.areas.incidents import UTILITY_TYPE, similar_to_utility, utility_incident
from pipeline.areas.layout import AreaLayout
from pipeline.areas.messages import AreaDiagnosis, decode_area
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import ALARMS, PLANT
from pipeline.engine.reports.incidents.book import IncidentBook
from pipeline.engine.reports.incidents.record import (
    AlarmChange,
    Incident,
    decode_alarm_change,
    incident_output,
)
from pipeline.engine.reports.lifecycle.records import Alarm
from pipeline.wire.records import Output, Record


class AreaIncidentDesk(IncidentFollower):
    """Keeps the book of incidents of a plant agent."""

    def __init__(self, profile: PlantProfile, partition_of: Callable[[bytes], int], partitions: int) -> None:
        """`partitions` is how many the topic has."""
        self._area_of = profile.area_of_utility
        super().__init__(IncidentBook(lambda name: UTILITY_TYPE if name in self._area_of else None), partitions)
        self._partition_of = partition_of
        self._texts: dict[str, list[str]] = {}  # of the chunk at hand, by the alarm's id

    def _is_own(self, record: Record, partitions: Collection[int]) -> bool:
        """Incidents are in the partitions of utilities, and areas in others."""
        utility = (record.key or b"").decode(errors="replace").split(":")[0]
        area = self._area_of.get(utility)
        return area is not None and self._partition_of(area.encode()) in partitions

    def raised(self, alarm: Alarm, texts: list[str]) -> None:
        """The engine has raised an alarm, of a utility about which these texts were read lately."""
        self._texts[alarm.id] = texts

    def add(self, outputs: Sequence[Output], layouts: Mapping[str, AreaLayout]) -> list[Output]:
        """The outputs of a chunk, with similar incidents at each raised alarm, and the incidents that have changed."""
        texts, self._texts = self._texts, {}
        places = [place for place, output in enumerate(outputs) if output.topic == ALARMS]
        if not places:
            return list(outputs)
        after = list(outputs)
        # Those of several areas are not in the order of time, and an alarm should know of what was over before.
        places.sort(key=lambda place: outputs[place].timestamp_ms)
        said = {(one.key, one.timestamp_ms): one.value for one in outputs if one.topic == PLANT}
        changed: list[tuple[Incident, AlarmChange]] = []
        for place in places:
            alarm = decode_alarm_change(outputs[place].value or b"")
            area = self._area_of.get(alarm.machine, "")
            if alarm.state in OVER:
                changed += [(incident, alarm) for incident in self.book.cleared(alarm)]
            elif alarm.state == "raised" and (value := said.get((area.encode(), alarm.time))) is not None:
                diagnosis, layout = decode_area(value), layouts[area]
                similar = similar_to_utility(self.book, diagnosis, layout, alarm.machine)
                after[place] = with_similar(outputs[place], similar)
                changed += self._begun(alarm, diagnosis, layout, texts.get(alarm.id, []))
        incidents = (
            incident_output(incident, self._partition_of(alarm.machine.encode()), alarm.time)
            for incident, alarm in changed
        )
        return [*after, *incidents]

    def _begun(
        self, alarm: AlarmChange, diagnosis: AreaDiagnosis, layout: AreaLayout, texts: Sequence[str]
    ) -> list[tuple[Incident, AlarmChange]]:
        incident = utility_incident(alarm, diagnosis, layout, texts)
        return [(one, alarm) for one in self.book.begun(incident)]
