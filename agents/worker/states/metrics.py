"""Prometheus metrics of all agents with state: what runs, what it has read, and how far it is behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from agents.worker.states.engine import StatefulEngine
from pipeline.config.profile import PlantProfile
from pipeline.extras import faultline_version
from pipeline.wire.messages import Reason

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily | InfoMetricFamily

_LATE_REASONS = (Reason.LATE, Reason.EXPIRED)
_STEP_BOUNDS_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

_Frames = TypeVar("_Frames")
_Result = TypeVar("_Result")


class InputCounts(NamedTuple):
    """What an agent knows of its input topics, by their short names."""

    lag: Callable[[], Mapping[tuple[str, int], int]]
    """Records not yet processed, by topic and partition."""
    lost: Callable[[], Mapping[str, int]]
    """Records that were deleted before they could be read."""
    recreated: Callable[[], Mapping[str, int]]
    """How often a topic was deleted and created again."""
    now_ms: Callable[[], int]
    """The wall clock."""


class AgentCollector(Collector):
    """What is common to the metrics of all engines, with every label value present from the start."""

    def __init__(
        self,
        engine: StatefulEngine,
        profile: PlantProfile,
        counts: InputCounts,
        topics: Sequence[str],
        others: Sequence[str] = (),
    ) -> None:
        """`topics` are those that the engine counts, `others` what else the agent reads."""
        self._stateful = engine
        self._described = {"plant": profile.plant, "digest": profile.digest}
        self._counts = counts
        self._topics = topics
        self._inputs = (*topics, *others)

    def common(self) -> Iterator[Family]:
        """The current values."""
        stats = self._stateful.stats
        yield InfoMetricFamily("faultline_build", "What runs here.", value={"version": faultline_version()})
        yield InfoMetricFamily("faultline_profile", "The plant profile.", value=self._described)
        yield counter("faultline_records", "Records read.", "topic", self._topics, stats.records)
        reasons = [reason.value for reason in Reason if reason not in _LATE_REASONS]
        yield counter(
            "faultline_dead_letters", "Records that could not be used.", "reason", reasons, stats.dead_letters
        )
        skipped = "Records skipped because a restored state already contained them."
        yield counter("faultline_skipped", skipped, "topic", self._topics, stats.skipped)
        lost = "Records deleted before they could be read."
        yield counter("faultline_records_lost", lost, "topic", self._inputs, self._counts.lost())
        recreated = "Input topics that were deleted and created again."
        yield counter("faultline_topics_recreated", recreated, "topic", self._inputs, self._counts.recreated())
        yield CounterMetricFamily(
            "faultline_states_refused", "Saved states that were refused.", value=stats.states_refused
        )
        ends_ms = self._stateful.newest_frame_end_ms()
        yield self.event_time_lag(
            "faultline_event_time_lag_seconds", "Wall clock minus the end of the newest diagnosed frame.", ends_ms
        )
        lag = GaugeMetricFamily(
            "faultline_consumer_lag_records", "Unprocessed records in the topic.", labels=["topic", "partition"]
        )
        for (topic, partition), behind in sorted(self._counts.lag().items()):
            lag.add_metric([topic, str(partition)], behind)
        yield lag

    def event_time_lag(self, name: str, text: str, ends_ms: Mapping[int, int]) -> GaugeMetricFamily:
        """How far the ends of frames, by partition, are behind the wall clock."""
        family = GaugeMetricFamily(name, text, labels=["partition"])
        now_ms = self._counts.now_ms()
        for partition, end_ms in sorted(ends_ms.items()):
            family.add_metric([str(partition)], (now_ms - end_ms) / 1000)
        return family


def counter(name: str, text: str, label: str, values: Sequence[str], counts: Mapping[str, int]) -> CounterMetricFamily:
    """A counter for each value of a label, 0 where nothing has been counted."""
    family = CounterMetricFamily(name, text, labels=[label])
    for value in values:
        family.add_metric([value], counts.get(value, 0))
    return family


def step_histogram(name: str, text: str, registry: CollectorRegistry) -> Histogram:
    """The histogram of how long steps of a model take."""
    return Histogram(name, text, buckets=_STEP_BOUNDS_SECONDS, registry=registry)


def timed(
    step: Callable[[_Frames], _Result], seconds: Histogram, clock: Callable[[], float]
) -> Callable[[_Frames], _Result]:
    """The step, timed into a histogram."""

    def timed_step(frames: _Frames) -> _Result:
        began = clock()
        result = step(frames)
        seconds.observe(clock() - began)
        return result

    return timed_step
