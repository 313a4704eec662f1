"""The log that audits read: records of topics or of a recording, the same ones at every pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from agents.kafka.log import kafka_log
from pipeline.config.settings import Settings
from pipeline.errors import RecordingError
from pipeline.wire.recording import has_topic, read_recording
from pipeline.wire.records import OnProgress, Place, Record


class Log(Protocol):
    """Records that can be read again and again, always the same ones."""

    def records(self, *topics: str) -> Iterator[Record]:
        """The records of these topics, those of one partition in their order."""

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        """The records at these places, as far as they still exist."""


class TailLog(Log, Protocol):
    """A log whose newest records can be read without the others."""

    def newest(self, topic: str, count: int, partition: int | None = None) -> list[Record]:
        """At least the newest `count` records of each partition, or of this one, by time stamp."""

    def records_of(self, topic: str, partition: int) -> Iterator[Record]:
        """The records of one partition in their order."""

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has."""

    def ends(self, topic: str) -> Mapping[int, int]:
        """Where each partition ends."""


class PartitionLog(Protocol):
    """A log of which one partition is read: all topics have the same number, and a machine lives in one of them."""

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 if it does not exist."""

    def begin_at(self, topics: Iterable[str], since_ms: int) -> None:
        """From now on read these topics from the first record of each partition that has so new a time stamp."""

    def records_of(self, topic: str, partition: int) -> Iterator[Record]:
        """The records of one partition in their order."""

    def merged(self, *topics: str, partition: int | None = None) -> Iterator[Record]:
        """Records of one partition of the topics by time stamp: the oldest head goes first."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The offset at which a partition begins, and that at which it ends."""

    def offsets_at(self, topics: Iterable[str], partition: int, time_ms: int) -> dict[str, int]:
        """In a partition of each topic the offset of the first record with so new a time stamp, or the end."""

    def ranges(self, partition: int, ranges: Mapping[str, tuple[int, int]]) -> Iterator[list[Record]]:
        """The records of a partition of some topics, each from an offset until before another, in pieces, of which some
        may be empty."""


class RecordLog:
    """A log of records that are at hand: a list, or a recording."""

    def __init__(self, source: Callable[[], Iterable[Record]]) -> None:
        """`source` gives all records at every call."""
        self._source = source

    def records(self, *topics: str) -> Iterator[Record]:
        """Pass over all records, and give those of the topics."""
        return (record for record in self._source() if record.topic in topics)

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        """Pass over all records, and keep those at the places."""
        wanted = frozenset(places)
        return {place: record for record in self._source() if (place := Place(*record[:3])) in wanted}


@contextmanager
def open_outputs(
    settings: Settings, recording: Path | None, topics: Sequence[str], on_progress: OnProgress
) -> Iterator[Log]:
    """What workers wrote to topics: those of the broker, or of a recording that must have the first of them.

    Raises SettingsError, BrokerUnavailableError, TopicMismatchError or RecordingError.
    """
    if recording is None:
        with kafka_log(settings, topics, on_progress=on_progress) as log:
            yield log
        return
    if not has_topic(recording, topics[0]):
        raise RecordingError(
            f"recording {recording} has no topic '{topics[0]}'; write one with `faultline replay FILE --out OUT` "
            "(`faultline record` records only inputs)"
        )
    yield RecordLog(lambda: read_recording(recording, on_progress=on_progress))
