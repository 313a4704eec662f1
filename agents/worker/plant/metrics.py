"""All Prometheus metrics of a plant agent, read from the area engine's own counts when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from pipeline.areas.engine import AreaEngine
from pipeline.areas.frames import AreaFrame, AreaResult, AreaRunner, Presence
from pipeline.areas.layout import CauseKind
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import AREAS
from pipeline.extras import faultline_version
from pipeline.wire.messages import Reason

_LATE_REASONS = (Reason.LATE, Reason.EXPIRED)


class PlantCollector(Collector):
    """Metrics of one area engine, with every label value present from the start.

    Areas are few, and named by the profile: they may be a label, while their machines may not.
    """

    def __init__(
        self,
        engine: AreaEngine,
        profile: PlantProfile,
        *,
        lag: Callable[[], Mapping[tuple[str, int], int]],
        lost: Callable[[], Mapping[str, int]],
        recreated: Callable[[], Mapping[str, int]],
        now_ms: Callable[[], int],
    ) -> None:
        """`lag` gives records not yet processed per topic and partition, `lost` and `recreated` counts per topic;
        `now_ms` the wall clock.
        """
        self._engine = engine
        self._profile = {"plant": profile.plant, "digest": profile.digest}
        self._areas = tuple(profile.areas)
        self._lag = lag
        self._lost = lost
        self._recreated = recreated
        self._now_ms = now_ms

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily]:
        """The current metrics."""
        stats = self._engine.stats
        yield InfoMetricFamily("faultline_build", "What runs here.", value={"version": faultline_version()})
        yield InfoMetricFamily("faultline_profile", "The plant profile.", value=self._profile)
        runner = self._engine.runner
        model = {"name": runner.name, "hash": runner.hash}
        yield InfoMetricFamily("faultline_area_model", "The model of areas.", value=model)
        topics = (AREAS,)
        yield _counter("faultline_records", "Records read.", "topic", topics, stats.records)
        reasons = [reason.value for reason in Reason if reason not in _LATE_REASONS]
        yield _counter(
            "faultline_dead_letters", "Records that could not be used.", "reason", reasons, stats.dead_letters
        )
        yield _counter(
            "faultline_skipped",
            "Records skipped because a restored state already contained them.",
            "topic",
            topics,
            stats.skipped,
        )
        lost, recreated = self._lost(), self._recreated()
        yield _counter("faultline_records_lost", "Records deleted before they could be read.", "topic", topics, lost)
        yield _counter(
            "faultline_topics_recreated",
            "Input topics that were deleted and created again.",
            "topic",
            topics,
            recreated,
        )
        yield CounterMetricFamily(
            "faultline_states_refused", "Saved states that were refused.", value=stats.states_refused
        )
        yield from self._of_areas()
        yield from self._lags()

    def _of_areas(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        stats = self._engine.stats
        yield GaugeMetricFamily("faultline_areas", "Areas with a state.", self._engine.areas)
        yield CounterMetricFamily("faultline_area_frames", "Closed frames of areas.", value=stats.frames)
        kinds = [kind.value for kind in CauseKind]
        yield _counter("faultline_area_causes", "Frames of areas by kind of their cause.", "kind", kinds, stats.causes)
        yield _counter(
            "faultline_area_alarms",
            "Alarms of utilities raised and cleared.",
            "state",
            ("raised", "cleared"),
            stats.alarms,
        )
        presences = [presence.name.lower() for presence in Presence]
        yield _counter(
            "faultline_area_machines",
            "Machines in closed frames of their areas, by what had come of them.",
            "presence",
            presences,
            stats.presence,
        )
        yield _counter(
            "faultline_area_late", "Diagnoses that came after their area's frame.", "area", self._areas, stats.late
        )
        yield _counter(
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

    def _lags(self) -> Iterator[GaugeMetricFamily]:
        event_lag = GaugeMetricFamily(
            "faultline_event_time_lag_seconds",
            "Wall clock minus the end of the newest diagnosed frame.",
            labels=["partition"],
        )
        now = self._now_ms()
        for partition, end_ms in sorted(self._engine.newest_frame_end_ms().items()):
            event_lag.add_metric([str(partition)], (now - end_ms) / 1000)
        yield event_lag
        lag = GaugeMetricFamily(
            "faultline_consumer_lag_records", "Unprocessed records in the topic.", labels=["topic", "partition"]
        )
        for (topic, partition), behind in sorted(self._lag().items()):
            lag.add_metric([topic, str(partition)], behind)
        yield lag


def _counter(name: str, text: str, label: str, values: Sequence[str], counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value in values:
        family.add_metric([value], counts.get(value, 0))
    return family


def area_step_seconds(registry: CollectorRegistry) -> Histogram:
    """The histogram of how long one step of an area's model takes."""
    bounds = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
    return Histogram(
        "faultline_area_step_seconds",
        "Duration of one step of the model over a frame of an area.",
        buckets=bounds,
        registry=registry,
    )


class TimedAreaRunner:
    """A runner whose steps are timed into a histogram."""

    def __init__(self, runner: AreaRunner, seconds: Histogram, clock: Callable[[], float]) -> None:
        self._runner = runner
        self._clock = clock
        self._seconds = seconds
        self.name, self.hash = runner.name, runner.hash
        self.modalities, self.embeddings = runner.modalities, runner.embeddings
        self.require, self.load_code = runner.require, runner.load_code
        self.reserve, self.reset = runner.reserve, runner.reset
        self.save, self.load = runner.save, runner.load

    def step(self, frame: AreaFrame) -> AreaResult:
        """Step and time it."""
        began = self._clock()
        result = self._runner.step(frame)
        self._seconds.observe(self._clock() - began)
        return result
