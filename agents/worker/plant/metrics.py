"""All Prometheus metrics of a plant agent, read from the area engine's own counts when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from agents.worker.states.metrics import AgentCollector, Family, InputCounts, counter, step_histogram, timed
from pipeline.areas.engine import AreaEngine
from pipeline.areas.frames import AreaRunner, Presence
from pipeline.areas.layout import CauseKind
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import AREAS
from pipeline.engine.reports.lifecycle.records import ALARM_STATES


class PlantCollector(AgentCollector):
    """Metrics of one area engine, with every label value present from the start.

    Areas are few, and named by the profile: they may be a label, while their machines may not.
    """

    def __init__(self, engine: AreaEngine, profile: PlantProfile, counts: InputCounts) -> None:
        """The engine's counts are read when they are scraped."""
        super().__init__(engine, profile, counts, [AREAS])
        self._engine = engine
        self._areas = tuple(profile.areas)

    def collect(self) -> Iterator[Family]:
        """The current metrics."""
        yield from self.common()
        runner, stats = self._engine.runner, self._engine.stats
        model = {"name": runner.name, "hash": runner.hash}
        yield InfoMetricFamily("faultline_area_model", "The model of areas.", value=model)
        yield GaugeMetricFamily("faultline_areas", "Areas with a state.", self._engine.areas)
        yield CounterMetricFamily("faultline_area_frames", "Closed frames of areas.", value=stats.frames)
        kinds = [kind.value for kind in CauseKind]
        yield counter("faultline_area_causes", "Frames of areas by kind of their cause.", "kind", kinds, stats.causes)
        yield counter(
            "faultline_area_alarms",
            "Changes in alarms of utilities, by the state of their records.",
            "state",
            ALARM_STATES,
            stats.alarms,
        )
        presences = [presence.name.lower() for presence in Presence]
        yield counter(
            "faultline_area_machines",
            "Machines in closed frames of their areas, by what had come of them.",
            "presence",
            presences,
            stats.presence,
        )
        yield counter(
            "faultline_area_late", "Diagnoses that came after their area's frame.", "area", self._areas, stats.late
        )
        yield counter(
            "faultline_area_duplicates",
            "Diagnoses and texts about utilities that had come before.",
            "kind",
            ("diagnoses", "texts"),
            stats.duplicates,
        )
        yield CounterMetricFamily(
            "faultline_area_revised", "Diagnoses that took the place of an earlier one.", value=stats.revised
        )
        yield CounterMetricFamily(
            "faultline_area_texts", "Texts about utilities that frames have taken.", value=stats.texts
        )


def area_step_seconds(registry: CollectorRegistry) -> Histogram:
    """The histogram of how long one step of an area's model takes."""
    text = "Duration of one step of the model over a frame of an area."
    return step_histogram("faultline_area_step_seconds", text, registry)


class TimedAreaRunner:
    """A runner whose steps are timed into a histogram."""

    def __init__(self, runner: AreaRunner, seconds: Histogram, clock: Callable[[], float]) -> None:
        self.name, self.hash = runner.name, runner.hash
        self.modalities, self.embeddings = runner.modalities, runner.embeddings
        self.require, self.load_code = runner.require, runner.load_code
        self.reserve, self.reset = runner.reserve, runner.reset
        self.save, self.load = runner.save, runner.load
        self.step = timed(runner.step, seconds, clock)
