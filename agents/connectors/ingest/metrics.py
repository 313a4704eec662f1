"""All Prometheus metrics of ingest, read from its own counts when they are scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agents.connectors.ingest.rewriting import UNKNOWN, Tally
from pipeline.wire.messages import Reason
from pipeline.wire.readings import ValueReason


class MqttStatus(NamedTuple):
    """The connection to an MQTT broker."""

    connected: bool
    waiting: int
    """Messages that Kafka has not confirmed yet."""
    dropped: int
    """Messages of QoS 0 that came faster than Kafka took them."""


class IngestCollector(Collector):
    """Metrics of one process, with every label value present from the start."""

    def __init__(
        self,
        tally: Tally,
        topics: Sequence[str],
        *,
        claims_lost: Callable[[], int] = lambda: 0,
        lag: Callable[[], Mapping[tuple[str, int], int]] = dict,
        lost: Callable[[], Mapping[str, int]] = dict,
        mqtt: Callable[[], MqttStatus] | None = None,
    ) -> None:
        """`topics` are those that it reads; `lag` gives records not yet processed per topic and partition, `lost` by
        topic those that were deleted before they could be read.
        """
        self._tally = tally
        self._topics = tuple(topics)
        self._claims_lost = claims_lost
        self._lag = lag
        self._lost = lost
        self._mqtt = mqtt

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The current metrics."""
        tally = self._tally
        yield _counter("faultline_records", "Records read.", "topic", self._topics, tally.records)
        yield _counter(
            "faultline_records_without_use",
            "Records read that hold nothing that the profile names.",
            "topic",
            self._topics,
            tally.without_use,
        )
        yield _counter(
            "faultline_records_lost", "Records deleted before they could be read.", "topic", self._topics, self._lost()
        )
        reasons = [reason.value for reason in Reason if reason not in (Reason.LATE, Reason.EXPIRED)]
        yield _counter(
            "faultline_dead_letters", "Records that could not be used.", "reason", reasons, tally.dead_letters
        )
        yield _counter(
            "faultline_ingested", "Readings and texts written.", "kind", ("readings", "texts"), tally.written
        )
        unused = CounterMetricFamily(
            "faultline_values_unused", "Values of readings that could not be used.", labels=["variable", "reason"]
        )
        # Variables are many; those without a bad value are left out, but every reason is there from the start.
        known = {(UNKNOWN, reason.value): 0 for reason in ValueReason} | dict(tally.unused)
        for (variable, reason_name), count in sorted(known.items()):
            unused.add_metric([variable, reason_name], count)
        yield unused
        yield CounterMetricFamily(
            "faultline_claims_lost",
            "Transactions that the broker refused because another process had claimed the partition.",
            value=self._claims_lost(),
        )
        lag = GaugeMetricFamily(
            "faultline_consumer_lag_records", "Unprocessed records in the topic.", labels=["topic", "partition"]
        )
        for (topic, partition), behind in sorted(self._lag().items()):
            lag.add_metric([topic, str(partition)], behind)
        yield lag
        if self._mqtt is not None:
            mqtt = self._mqtt()
            yield GaugeMetricFamily(
                "faultline_mqtt_connected", "1 while the MQTT broker is connected.", value=int(mqtt.connected)
            )
            yield GaugeMetricFamily(
                "faultline_mqtt_waiting", "MQTT messages that Kafka has not confirmed yet.", value=mqtt.waiting
            )
            yield CounterMetricFamily(
                "faultline_mqtt_dropped",
                "MQTT messages of QoS 0 that were dropped because Kafka did not keep up.",
                value=mqtt.dropped,
            )


def _counter(name: str, text: str, label: str, values: Sequence[str], counts: Mapping[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value in dict.fromkeys((*values, *counts)):
        family.add_metric([value], counts.get(value, 0))
    return family
