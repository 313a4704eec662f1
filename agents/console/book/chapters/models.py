"""Metrics of models: what each says in intervals of event time, and how right it is where labels come."""

from __future__ import annotations

from agents.console.book.bounded import Limits, Newest
from agents.console.book.published import SeenMetric


class ModelBook:
    """The metrics of every model, by its hash."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._metrics: dict[str, Newest[SeenMetric]] = {}

    def take(self, metric: SeenMetric) -> bool:
        """Take a metric; returns whether it is news. Of two of the same partition and interval the later counts."""
        own = self._metrics.get(metric.model.hash)
        if own is None:
            own = self._metrics[metric.model.hash] = Newest(self._limits.intervals)
        id_ = f"{metric.partition}:{metric.interval_start}"
        if own.get(id_) == metric:
            return False
        is_news = own.put(id_, metric.interval_end, metric)
        if len(self._metrics) > self._limits.models:
            del self._metrics[min(self._metrics, key=lambda name: (self._newest_ms(name), name))]
        return is_news

    def _newest_ms(self, model: str) -> int:
        return next((one.interval_end for one in self._metrics[model]), -1)

    def metrics(self) -> dict[str, list[SeenMetric]]:
        """By the model's hash, its metrics, the oldest first."""
        return {model: list(own)[::-1] for model, own in self._metrics.items()}
