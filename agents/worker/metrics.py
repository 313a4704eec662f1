"""All Prometheus metrics of a worker, read from the engine's own counts when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

from agents.worker.states.metrics import (
    AgentCollector,
    Family,
    InputCounts,
    counter,
    step_histogram,
    timed,
)
from pipeline.alignment.machine_states import MachineState
from pipeline.config.classes import NO_EVIDENCE
from pipeline.config.profile import PlantProfile
from pipeline.config.sections.alarms import PRIORITIES
from pipeline.config.topics import LABELS, engine_topics
from pipeline.engine.engine import Engine
from pipeline.engine.reports.drift_rule import DriftKind
from pipeline.engine.reports.lifecycle.records import ALARM_STATES
from pipeline.engine.stats import ACKNOWLEDGE_BOUNDS_SECONDS, CONFIDENCE_BOUNDS
from pipeline.frames import StepRunner
from pipeline.wire.readings import ValueReason

_REMAINING_QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5}
_STANDING_MS = 86_400_000
"""An alarm that is there for longer is standing (ISA-18.2 calls it stale)."""


class EngineCollector(AgentCollector):
    """Metrics of one engine, with every label value present from the start."""

    def __init__(self, engine: Engine, profile: PlantProfile, counts: InputCounts) -> None:
        """The engine's counts are read when they are scraped."""
        super().__init__(engine, profile, counts, engine_topics(profile), [LABELS])
        self._engine = engine
        self._faults = tuple(dict.fromkeys(fault for kind in profile.machine_types for fault in kind.faults))

    def collect(self) -> Iterator[Family]:
        """The current metrics."""
        stats = self._engine.stats
        yield from self.common()
        yield self._models()
        yield counter("faultline_late", "Readings and texts that came too late.", "topic", self._topics, stats.late)
        yield counter(
            "faultline_duplicates", "Duplicate readings and texts.", "kind", ("readings", "texts"), stats.duplicates
        )
        answers = (name for model in self._engine.models.values() for name in model.runner.classes)
        faults = tuple(dict.fromkeys((*self._faults, *answers, NO_EVIDENCE)))
        yield counter("faultline_diagnoses", "Diagnoses published.", "fault", faults, stats.diagnoses)
        yield from _alarm_metrics(self._engine)
        yield from self._drift()
        yield CounterMetricFamily("faultline_frames", "Closed frames.", value=stats.frames)
        yield CounterMetricFamily("faultline_masked_frames", "Frames without any reading.", value=stats.masked_frames)
        yield CounterMetricFamily(
            "faultline_revised_texts", "Texts whose id had come with another text before.", value=stats.revised_texts
        )
        yield CounterMetricFamily("faultline_texts", "Texts that frames have taken.", value=stats.texts)
        yield CounterMetricFamily(
            "faultline_texts_without_known_words", "Texts in which the model knows no word.", value=stats.unknown_texts
        )
        yield CounterMetricFamily(
            "faultline_machines_evicted", "Machines evicted after long silence.", value=stats.evicted
        )
        yield CounterMetricFamily(
            "faultline_machines_forgotten", "Machines forgotten at somebody's request.", value=stats.forgotten
        )
        yield self._values_unused()
        yield CounterMetricFamily(
            "faultline_readings_unused", "Readings none of whose values could be used.", value=stats.readings_unused
        )
        yield GaugeMetricFamily("faultline_machines", "Machines with a state.", value=self._engine.machines)
        yield from self._condition()
        yield self._confidence()
        yield self._remaining_life()

    def _models(self) -> InfoMetricFamily:
        family = InfoMetricFamily(
            "faultline_model", "The model of each machine type.", labels=["machine_type", "name", "hash"]
        )
        for machine_type, model in self._engine.models.items():
            family.add_metric([machine_type, model.runner.name, model.runner.hash], {})
        return family

    def _drift(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        reports = CounterMetricFamily(
            "faultline_drift_reports", "Drift reports published.", labels=["machine_type", "kind", "state"]
        )
        drifting = GaugeMetricFamily(
            "faultline_machines_drifting", "Machines that drift.", labels=["machine_type", "kind"]
        )
        learning = GaugeMetricFamily(
            "faultline_machines_without_drift_reference",
            "Machines whose first windows are not over yet, so that their drift is unknown.",
            labels=["machine_type"],
        )
        for machine_type, model in self._engine.models.items():
            if model.drift is None:
                continue
            slots = self._engine.slots(machine_type)
            standing = model.drift.machines_drifting(slots)
            for kind in DriftKind:
                drifting.add_metric([machine_type, kind.value], standing[kind.value])
                for state in ("started", "ended"):
                    count = self._engine.stats.drift[machine_type, kind.value, state]
                    reports.add_metric([machine_type, kind.value, state], count)
            learning.add_metric([machine_type], model.drift.machines_learning(slots))
        yield from (reports, drifting, learning)

    def _values_unused(self) -> CounterMetricFamily:
        family = CounterMetricFamily(
            "faultline_values_unused",
            "Values that could not be used, though their readings were; without a variable for unknown names.",
            labels=["variable", "reason"],
        )
        for reason in ValueReason:
            # Variables are many; those without a bad value are left out, but every reason is there from the start.
            family.add_metric(["", reason.value], self._engine.stats.values_unused.get(("", reason.value), 0))
        for (variable, reason_name), count in sorted(self._engine.stats.values_unused.items()):
            if variable:
                family.add_metric([variable, reason_name], count)
        return family

    def _condition(self) -> Iterator[GaugeMetricFamily]:
        condition = self._engine.condition()
        states = GaugeMetricFamily("faultline_machines_by_state", "Machines by how they are.", labels=["state"])
        for state in MachineState:
            states.add_metric([state.value], condition.by_state[state])
        yield states
        yield GaugeMetricFamily(
            "faultline_machines_frozen", "Machines with values that have not changed for too long.", condition.frozen
        )
        yield self.event_time_lag(
            "faultline_oldest_event_time_lag_seconds",
            "Wall clock minus the end of the newest frame of the machine that is furthest behind and not offline.",
            condition.oldest_frame_end_ms,
        )

    def _remaining_life(self) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "faultline_remaining_life_seconds",
            "Shortest, 0.1 quantile and median of the newest estimates of the machines' remaining life.",
            labels=["machine_type", "statistic"],
        )
        for machine_type, model in self._engine.models.items():
            if len(seconds := model.remaining_seconds):
                for statistic, share in _REMAINING_QUANTILES.items():
                    family.add_metric([machine_type, statistic], float(np.quantile(seconds, share)))
        return family

    def _confidence(self) -> HistogramMetricFamily:
        stats = self._engine.stats
        cumulative = np.cumsum(stats.confidence_counts)
        buckets = [(f"{bound:g}", float(n)) for bound, n in zip(CONFIDENCE_BOUNDS, cumulative[:-1], strict=True)]
        return HistogramMetricFamily(
            "faultline_confidence",
            "Confidence of diagnoses.",
            buckets=[*buckets, ("+Inf", float(cumulative[-1]))],
            sum_value=stats.confidence_sum,
        )


def _alarm_metrics(engine: Engine) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
    """The current metrics of alarms, with every label value present from the start."""
    counts = engine.stats.alarms
    states = CounterMetricFamily("faultline_alarms", "Records of alarms.", labels=["state"])
    for state in ALARM_STATES:
        states.add_metric([state], counts.states[state])
    yield states
    raised = CounterMetricFamily("faultline_alarms_raised", "Alarms raised that call somebody.", labels=["priority"])
    for priority in PRIORITIES:
        raised.add_metric([priority], counts.raised[priority])
    yield raised
    yield CounterMetricFamily(
        "faultline_alarm_floods", "Times that more than ten alarms were raised in ten minutes.", value=counts.floods
    )
    yield CounterMetricFamily(
        "faultline_alarms_chattering", "Alarms raised for the third time in an hour or more.", value=counts.chatter
    )
    ages_ms = engine.alarms.active_for_ms()
    yield GaugeMetricFamily("faultline_alarms_active", "Alarms whose fault is there.", value=len(ages_ms))
    standing = sum(age_ms > _STANDING_MS for age_ms in ages_ms)
    yield GaugeMetricFamily("faultline_alarms_standing", "Alarms there for more than a day.", value=standing)
    cumulative = np.cumsum(counts.acknowledged)
    buckets = [(f"{bound:g}", float(n)) for bound, n in zip(ACKNOWLEDGE_BOUNDS_SECONDS, cumulative[:-1], strict=True)]
    yield HistogramMetricFamily(
        "faultline_alarm_acknowledge_seconds",
        "Event time from an alarm's raising to its acknowledgement.",
        buckets=[*buckets, ("+Inf", float(cumulative[-1]))],
        sum_value=counts.acknowledge_seconds,
    )


def step_seconds(registry: CollectorRegistry) -> Histogram:
    """The histogram of how long one model step over a round takes."""
    return step_histogram("faultline_step_seconds", "Duration of one model step over a round of frames.", registry)


class TimedRunner:
    """A runner whose steps are timed into a histogram."""

    def __init__(self, runner: StepRunner, seconds: Histogram, clock: Callable[[], float]) -> None:
        self.name, self.hash = runner.name, runner.hash
        self.classes, self.modalities = runner.classes, runner.modalities
        self.reserve, self.reset, self.prepare = runner.reserve, runner.reset, runner.prepare
        self.save, self.load = runner.save, runner.load
        self.step = timed(runner.step, seconds, clock)
