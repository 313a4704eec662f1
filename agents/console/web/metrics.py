"""What a console counts, and its metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from agents.console.actions.requests import ACTION_KINDS
from agents.console.documents.plant import Status

EVENTS = ("snapshot", "machines", "areas", "alarms", "status")
ACTIONS = (*ACTION_KINDS, "label")


class ConsoleCounts:
    """Counts since the start."""

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter(dict.fromkeys((2, 3, 4, 5), 0))
        """Answers by hundreds of their status."""
        self.refusals: Counter[str] = Counter()
        self.events: Counter[str] = Counter(dict.fromkeys(EVENTS, 0))
        self.actions: Counter[str] = Counter(dict.fromkeys(ACTIONS, 0))
        self.browsers = 0
        """Those that follow the updates now."""
        self.slow = 0
        """Browsers that were let go because they did not read."""


class ConsoleCollector(Collector):
    """Metrics of one console, with every label value present from the start."""

    def __init__(self, counts: ConsoleCounts, status: Callable[[], Status]) -> None:
        """`status` is that of the reading."""
        self._counts = counts
        self._status = status

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The current metrics."""
        counts, status = self._counts, self._status()
        yield _counter(
            "faultline_console_requests", "Answers by the first digit of their status.", "status", counts.requests
        )
        yield _counter(
            "faultline_console_events",
            "Messages for browsers by kind; one for all that know the same.",
            "event",
            counts.events,
        )
        yield _counter("faultline_console_actions", "What people did.", "action", counts.actions)
        for name, text, value in (
            ("failed_logins", "Wrong tokens.", counts.refusals["wrong_token"]),
            ("slow_browsers", "Browsers that were let go because they did not read.", counts.slow),
        ):
            yield CounterMetricFamily(f"faultline_console_{name}", text, value=value)
        for name, text, value in (
            ("browsers", "Browsers that follow the updates.", counts.browsers),
            ("records_behind", "Records of output topics that are not read yet.", status.behind),
            ("broker_away", "1 while the broker does not answer.", int(not status.connected)),
        ):
            yield GaugeMetricFamily(f"faultline_console_{name}", text, value=value)


def _counter(name: str, text: str, label: str, counts: Counter[int] | Counter[str]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, count in counts.items():
        family.add_metric([f"{key}xx" if label == "status" else str(key)], count)
    return family
