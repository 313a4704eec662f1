"""Where a follower's records come from: topics that are read from the past on, and how the input topics are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Protocol

from agents.audit.source_check import declared_topics
from agents.console.book.folding import FOLDED_TOPICS
from agents.console.book.rows.data import SourceState
from pipeline.config.profile import PlantProfile
from pipeline.config.topics import AREAS, CONTROL, LABELS, PLANT, area_topics
from pipeline.wire.records import Record

WORKERS: Final = "workers"
INGEST: Final = "ingest"
PLANT_AGENT: Final = "plant"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far reading is."""

    caught_up: bool = False
    """Whether all that was there has been read."""
    behind: Mapping[str, int] = field(default_factory=dict)
    """By topic, how many records are not read yet; topics that do not exist are left out."""
    missing: Sequence[str] = ()
    """Topics that do not exist."""
    since_ms: int | None = None
    """The time stamp from which on large topics are read; None if they are read from their beginning."""


class Span(NamedTuple):
    """The log of an input topic's partition, and how far its readers are."""

    begin: int
    end: int
    committed: int | None
    """None where that cannot be known."""


Spans = Mapping[str, Mapping[str, Mapping[int, Span]]]
"""By reader, and by topic, those of its partitions. Topics that do not exist are left out, and so are readers whose
topics this user must not see."""


class TopicSource(Protocol):
    """Records of the topics that a book is made from, each partition's in their order, with short topic names."""

    async def start(self, since_ms: int) -> None:
        """Connect; large topics are read from about this time stamp on, the others from their beginning.

        Raises BrokerUnavailableError if it is worth another try, and another FaultlineError if not.
        """

    async def stop(self) -> None:
        """Disconnect."""

    async def fetch(self) -> Sequence[Record]:
        """The next records, or none after a moment; raises BrokerUnavailableError while the broker is away."""

    def created_again(self) -> Sequence[str]:
        """Topics that were created again since this was asked, from whose beginnings the next fetch gives records."""

    async def progress(self) -> Progress:
        """How far reading is."""

    async def spans(self) -> Spans:
        """The input topics, and how far their readers are; raises FaultlineError."""


def folded_topics(profile: PlantProfile) -> tuple[str, ...]:
    """The topics that a book is made from, of which a plant without areas has fewer."""
    absent = set() if area_topics(profile) else {PLANT}
    return tuple(topic for topic in FOLDED_TOPICS if topic not in absent)


def input_sources(profile: PlantProfile) -> list[SourceState]:
    """Every topic that workers, `faultline ingest` or a plant agent read, with nothing measured yet."""
    found = [
        SourceState(form.topic, holds, INGEST if holds == "for ingest" else WORKERS)
        for holds, form in declared_topics(profile)
    ]
    found += [SourceState(LABELS, "labels", WORKERS), SourceState(CONTROL, "control", WORKERS)]
    if area_topics(profile):
        found.append(SourceState(AREAS, "diagnoses for areas", PLANT_AGENT))
    return found


def readers(sources: Sequence[SourceState]) -> dict[str, list[str]]:
    """The topics of each reader."""
    found: dict[str, list[str]] = {}
    for one in sources:
        found.setdefault(one.reader, []).append(one.topic)
    return found


class Gauge:
    """Turns what a source says of input topics into rates and lag."""

    def __init__(self, profile: PlantProfile) -> None:
        self._sources = input_sources(profile)
        self._before: dict[tuple[str, str], tuple[int, float]] = {}

    def measure(self, spans: Spans, seconds: float, wall_ms: int) -> list[SourceState]:
        """The sources at this time, by any clock that only grows and by that of people."""
        seen = (one for one in self._sources if one.reader in spans)
        measured = (self._measured(one, spans[one.reader].get(one.topic, {}), seconds) for one in seen)
        return [replace(one, measured_wall_ms=wall_ms) for one in measured]

    def _measured(self, source: SourceState, partitions: Mapping[int, Span], seconds: float) -> SourceState:
        if not partitions:
            return source
        end, key = sum(span.end for span in partitions.values()), (source.reader, source.topic)
        end_before, seconds_before = self._before.get(key, (end, seconds))
        self._before[key] = end, seconds
        passed = seconds - seconds_before
        lags = [
            span.end - max(span.begin, span.committed) for span in partitions.values() if span.committed is not None
        ]
        return replace(
            source,
            partitions=len(partitions),
            records_per_second=round(max(0, end - end_before) / passed, 1) if passed > 0 else None,
            lag=sum(max(0, lag) for lag in lags) if len(lags) == len(partitions) else None,
        )
