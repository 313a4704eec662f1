"""Kafka topics read from their beginning to their end, outside of any consumer group."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Generic, NamedTuple, TypeVar

from agents.kafka.admin import partition_counts, translated_errors
from agents.kafka.codecs import LOG_MODULES, require_codecs
from agents.kafka.security import client_security
from pipeline.config.settings import Settings
from pipeline.config.topics import full_topic_name
from pipeline.errors import BrokerUnavailableError, SettingsError
from pipeline.wire.records import OnProgress, Place, Record

_POLL_MS = 200
_POLL_RECORDS = 2_000
_FETCH_BYTES = 4 << 20
_WAITING_RECORDS = 100_000
"""How many records of all partitions together may wait for their turn in a merge, about."""
_SILENT_SECONDS = 30.0

_Partition = TypeVar("_Partition")
"""A partition as the client library names it."""


class Unread(Generic[_Partition]):
    """Partitions that are not read to their end yet, for loops that poll aiokafka or kafka-python."""

    def __init__(
        self, begins: Mapping[_Partition, int], ends: Mapping[_Partition, int], *, silent_seconds: float
    ) -> None:
        """Raises TimeoutError in `finish` if nothing comes for `silent_seconds`."""
        self._ends = ends
        self._silent_seconds = silent_seconds
        self._progress = False  # whether records came since the last `finish`
        self._silent_since: float | None = None  # the first `finish` without progress
        self.partitions = {partition for partition, end in ends.items() if begins[partition] < end}

    def before_end(self, partition: _Partition, entries: Iterable[Any]) -> list[Any]:
        """The polled entries of a partition that are before its end."""
        self._progress = True
        end = self._ends[partition]
        return [entry for entry in entries if entry.offset < end]

    def finish(self, positions: Mapping[_Partition, int]) -> set[_Partition]:
        """Drop the partitions that are read to their end, and return them."""
        done = {partition for partition in self.partitions if positions[partition] >= self._ends[partition]}
        self.partitions -= done
        now = time.monotonic()
        if done or self._progress:
            self._progress, self._silent_since = False, None
        elif self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > self._silent_seconds:
            raise TimeoutError(f"no records for {self._silent_seconds:.0f} s")
        return done

    def move_ends(self, ends: Mapping[_Partition, int]) -> None:
        """Read on to later ends; until `finish`, all partitions count as unread."""
        self._ends = ends
        self.partitions = set(ends)


class KafkaLog:
    """Topics of a real Kafka, up to where they ended when the log was opened."""

    def __init__(self, consumer: Any, address: str, prefix: str, counts: Mapping[str, int]) -> None:
        """`counts` gives the partitions of each topic, by its short name."""
        from kafka import TopicPartition

        self.on_progress: OnProgress = lambda *_: None  # hears of each pass from its beginning
        self._consumer = consumer
        self._address = address
        self._prefix = prefix
        self._names = {full_topic_name(prefix, topic): topic for topic in counts}
        partitions = [
            TopicPartition(full_topic_name(prefix, topic), number)
            for topic, count in counts.items()
            for number in range(count)
        ]
        self._ends: dict[Any, int] = consumer.end_offsets(partitions)
        self._begins: dict[Any, int] = consumer.beginning_offsets(partitions)

    def begin_at(self, topics: Iterable[str], since_ms: int) -> None:
        """From now on read these topics from the first record of each partition that has so new a time stamp.

        Records behind it may be older: producers choose time stamps, and what ends a transaction has the broker's time.
        """
        places = [place for topic in topics for place in self._of(topic)]
        self._begins |= self._first_since(places, since_ms)

    def _first_since(self, places: Sequence[Any], time_ms: int) -> dict[Any, int]:
        """Of each partition the first offset with so new a time stamp, or where it ends."""
        with translated_errors(self._address):
            found = self._consumer.offsets_for_times(dict.fromkeys(places, time_ms))
        offsets = {place: self._ends[place] if found[place] is None else found[place].offset for place in places}
        return {place: min(offset, self._ends[place]) for place, offset in offsets.items()}

    def records(self, *topics: str) -> Iterator[Record]:
        """Read the topics from their beginning; raises BrokerUnavailableError if nothing comes any more."""
        for polled, _ in self._polls(topics):
            for records in polled.values():
                yield from records

    def merged(
        self, *topics: str, follow_seconds: float | None = None, partition: int | None = None
    ) -> Iterator[Record]:
        """Records of the topics, or of one partition of each, by time stamp: the oldest head goes first, once every
        partition has shown its own.

        With `follow_seconds` it keeps reading for that time, and then up to the current ends of the topics. A partition
        that is far ahead of the others in time waits for them, so memory stays bounded.
        """
        until = None if follow_seconds is None else time.monotonic() + follow_seconds
        waiting: dict[Any, deque[Record]] = {
            place: deque()
            for topic in topics
            for place in self._ends
            if place.topic == full_topic_name(self._prefix, topic) and partition in (None, place.partition)
        }
        rank = {place: number for number, place in enumerate(waiting)}
        held: set[Any] = set()
        for polled, unread in self._polls(topics, until, {place: self._begins[place] for place in waiting}):
            for place, records in polled.items():
                waiting[place].extend(records)
            behind = any(not waiting[place] for place in unread)
            while not behind and (heads := [place for place, queue in waiting.items() if queue]):
                oldest = min(heads, key=lambda one: (waiting[one][0].timestamp_ms, rank[one]))
                yield waiting[oldest].popleft()
                behind = not waiting[oldest] and oldest in unread
            self._hold_back(waiting, unread, held)

    def _hold_back(self, waiting: Mapping[Any, deque[Record]], unread: set[Any], held: set[Any]) -> None:
        """Pause partitions of which many records wait, and resume them when most of these have had their turn."""
        most = max(_POLL_RECORDS, _WAITING_RECORDS // max(len(waiting), 1))
        full = {one for one in unread - held if len(waiting[one]) > most}
        drained = {one for one in held if len(waiting[one]) <= most // 2}
        held |= full
        held -= drained
        if full:
            self._consumer.pause(*full)
        if again := drained & unread:
            self._consumer.resume(*again)

    def at(self, places: Iterable[Place]) -> dict[Place, Record]:
        """Seek every place; raises BrokerUnavailableError if nothing comes."""
        from kafka import TopicPartition

        offsets: dict[Any, set[int]] = {}
        for topic, partition, offset in places:
            offsets.setdefault(TopicPartition(full_topic_name(self._prefix, topic), partition), set()).add(offset)
        found: dict[Place, Record] = {}
        with translated_errors(self._address):
            for at, wanted in offsets.items():
                self._assign([at])
                waiting = deque(sorted(wanted))
                while waiting:
                    self._consumer.seek(at, waiting[0])
                    began = time.monotonic()
                    while not (entries := self._poll().get(at, [])):
                        if time.monotonic() - began > _SILENT_SECONDS:
                            raise self._silent()
                    here = {entry.offset: entry for entry in entries}
                    # Records before the first entry have been deleted since.
                    while waiting and waiting[0] <= entries[-1].offset:
                        if (entry := here.get(waiting.popleft())) is not None:
                            record = self._record(entry)
                            found[Place(*record[:3])] = record
        return found

    def records_of(self, topic: str, partition: int) -> Iterator[Record]:
        """Read one partition from its beginning; raises BrokerUnavailableError if nothing comes any more."""
        begins = {one: self._begins[one] for one in self._of(topic) if one.partition == partition}
        for polled, _ in self._polls([topic], begins=begins):
            for records in polled.values():
                yield from records

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The offset at which a partition began, and that at which it ended, when the log was opened."""
        (place,) = self._places([topic], partition)
        return self._begins[place], self._ends[place]

    def offsets_at(self, topics: Iterable[str], partition: int, time_ms: int) -> dict[str, int]:
        """In a partition of each topic the offset of the first record with so new a time stamp, or the end."""
        found = self._first_since(self._places(topics, partition), time_ms)
        return {self._names[place.topic]: offset for place, offset in found.items()}

    def ranges(self, partition: int, ranges: Mapping[str, tuple[int, int]]) -> Iterator[list[Record]]:
        """The records of a partition of some topics, each from an offset until before another: what each poll brought,
        which may be nothing. Raises BrokerUnavailableError if nothing comes any more."""
        places = {place: ranges[self._names[place.topic]] for place in self._places(ranges, partition)}
        begins, ends = ({place: bounds[side] for place, bounds in places.items()} for side in (0, 1))
        for polled, _ in self._polls(ranges, begins=begins, ends=ends):
            yield [record for records in polled.values() for record in records]

    def last(self, topic: str, count: int) -> list[Record]:
        """The newest records of a topic, by time stamp; raises BrokerUnavailableError if nothing comes."""
        return self.newest(topic, count)[-count:]

    def newest(self, topic: str, count: int, partition: int | None = None) -> list[Record]:
        """At least the newest `count` records of each partition, or of this one, by time stamp.

        Raises BrokerUnavailableError if nothing comes.
        """
        ends = {one: self._ends[one] for one in self._of(topic) if partition in (None, one.partition)}
        back = count
        while True:
            begins = {one: max(self._begins[one], end - back) for one, end in ends.items()}
            polls = self._polls([topic], begins=begins)
            found = [record for polled, _ in polls for records in polled.values() for record in records]
            counts = Counter(record.partition for record in found)
            # Offsets may have gaps: of aborted transactions, and where records were compacted away.
            if all(begins[one] == self._begins[one] or counts[one.partition] >= count for one in ends):
                return sorted(found, key=lambda record: (record.timestamp_ms, record.offset))
            back *= 4

    def partitions(self, topic: str) -> int:
        """How many partitions a topic has; 0 if it was optional and does not exist."""
        return len(self._of(topic))

    def ends(self, topic: str) -> dict[int, int]:
        """Where each partition ended when the log was opened."""
        return {partition.partition: self._ends[partition] for partition in self._of(topic)}

    def _places(self, topics: Iterable[str], partition: int) -> list[Any]:
        return [place for topic in topics for place in self._of(topic) if place.partition == partition]

    def _of(self, topic: str) -> set[Any]:
        name = full_topic_name(self._prefix, topic)
        return {partition for partition in self._ends if partition.topic == name}

    def _polls(
        self,
        topics: Iterable[str],
        until: float | None = None,
        begins: Mapping[Any, int] | None = None,
        ends: Mapping[Any, int] | None = None,
    ) -> Iterator[tuple[dict[Any, list[Record]], set[Any]]]:
        """What each poll brought, and the partitions that are not read to their end; from `begins` on and up to `ends`,
        if given.

        With `until` it continues at least to that time, and the ends move on with new records.
        """
        names = {full_topic_name(self._prefix, topic) for topic in topics}
        begins = self._begins if begins is None else begins
        begins = {partition: begin for partition, begin in begins.items() if partition.topic in names}
        ends = {one: (ends or self._ends)[one] for one in begins}
        unread = Unread(begins, ends, silent_seconds=_SILENT_SECONDS)
        partitions = list(begins if until is not None else unread.partitions)
        done_records = 0
        with translated_errors(self._address):
            self._assign(partitions)
            for partition in partitions:
                self._consumer.seek(partition, begins[partition])
            while unread.partitions or (until is not None and time.monotonic() < until):
                entries = self._poll()
                if until is not None:
                    ends = self._consumer.end_offsets(partitions)
                    unread.move_ends(ends)
                polled = {
                    partition: [self._record(entry) for entry in unread.before_end(partition, found)]
                    for partition, found in entries.items()
                }
                try:
                    done = unread.finish({one: self._consumer.position(one) for one in unread.partitions})
                except TimeoutError as error:
                    raise self._silent() from error
                if done and until is None:
                    self._consumer.pause(*done)
                yield polled, unread.partitions
                done_records += sum(map(len, polled.values()))
                self.on_progress(done_records, sum(max(0, ends[one] - begin) for one, begin in begins.items()))

    def _assign(self, partitions: Iterable[Any]) -> None:
        self._consumer.assign(list(partitions))
        # Partitions that were read to their end before stay paused after a new assignment.
        self._consumer.resume(*self._consumer.paused())

    def _poll(self) -> dict[Any, list[Any]]:
        polled: dict[Any, list[Any]] = self._consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
        return polled

    def _record(self, entry: Any) -> Record:
        headers = tuple((name, value or b"") for name, value in entry.headers)
        name = self._names[entry.topic]
        return Record(name, entry.partition, entry.offset, entry.timestamp, entry.key, entry.value, headers)

    def _silent(self) -> BrokerUnavailableError:
        return BrokerUnavailableError(
            f"the Kafka broker at {self._address} has sent nothing for {_SILENT_SECONDS:.0f} s, although the topics "
            "have more records; check that it is running, and try again"
        )


@contextmanager
def kafka_log(
    settings: Settings,
    topics: Sequence[str],
    optional: Sequence[str] = (),
    on_progress: OnProgress = lambda *_: None,
) -> Iterator[KafkaLog]:
    """Open topics, named without prefix, and those of the `optional` ones that exist.

    `on_progress` gets how many records were read in a pass over topics, and about how many there are.
    Raises SettingsError, BrokerUnavailableError or TopicMismatchError.
    """
    from kafka import KafkaConsumer

    require_kafka(settings)
    require_codecs(*LOG_MODULES)
    security = client_security(settings)
    names = {full_topic_name(settings.topic_prefix, topic): topic for topic in (*topics, *optional)}
    may_lack = {full_topic_name(settings.topic_prefix, topic) for topic in optional}
    found = partition_counts(settings.address, list(names), security, optional=may_lack)
    counts = {topic: found[name] for name, topic in names.items() if found.get(name)}
    with translated_errors(settings.address):
        consumer = KafkaConsumer(
            bootstrap_servers=settings.address.split(","),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # should the beginning be deleted meanwhile
            # The broker has checked them; in pure Python it takes twenty times as long as all the rest.
            check_crcs=False,
            max_partition_fetch_bytes=_FETCH_BYTES,
            isolation_level="read_committed",
            **security,
        )
        try:
            log = KafkaLog(consumer, settings.address, settings.topic_prefix, counts)
            log.on_progress = on_progress
            yield log
        finally:
            consumer.close()


class GroupSpan(NamedTuple):
    """The log of a partition, and up to where a group has committed it."""

    begin: int
    end: int
    committed: int | None
    """Where the log begins if nothing is committed; None where this user must not know."""


def group_spans(
    settings: Settings, topics: Sequence[str], *, optional: bool = False
) -> dict[tuple[str, int], GroupSpan]:
    """The partitions of topics by short topic and number, and how far the settings' group is.

    With `optional`, topics that do not exist are left out, and a group whose offsets this user must not know is no
    error. Raises TopicMismatchError, AuthorizationError or BrokerUnavailableError.
    """
    from kafka import KafkaConsumer, TopicPartition
    from kafka.errors import GroupAuthorizationFailedError

    require_kafka(settings)
    security, prefix = client_security(settings), settings.topic_prefix
    names = {full_topic_name(prefix, topic): topic for topic in topics}
    may_lack = frozenset(names) if optional else frozenset()
    counts = partition_counts(settings.address, list(names), security, optional=may_lack)
    with translated_errors(settings.address):
        consumer = KafkaConsumer(
            bootstrap_servers=settings.address.split(","),
            group_id=settings.group,
            enable_auto_commit=False,
            **security,
        )
        try:
            places = [TopicPartition(name, number) for name, count in counts.items() for number in range(count)]
            if not places:
                return {}
            begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
            committed: dict[TopicPartition, int | None] = dict.fromkeys(places)
            with suppress(*([GroupAuthorizationFailedError] if optional else [])):
                committed = {place: consumer.committed(place) or begins[place] for place in places}
            return {
                (names[place.topic], place.partition): GroupSpan(begins[place], ends[place], committed[place])
                for place in places
            }
        finally:
            consumer.close(autocommit=False)


def committed_offsets(settings: Settings, topics: Sequence[str]) -> dict[tuple[str, int], int]:
    """Up to where the settings' group has committed each partition, by short topic and partition.

    What has been deleted counts as committed: nobody can read it any more.
    """
    spans = group_spans(settings, topics)
    return {place: max(span.committed or 0, span.begin) for place, span in spans.items()}


def require_kafka(settings: Settings) -> None:
    """Raises SettingsError where the broker is one in this process: its topics end with it."""
    if settings.is_memory:
        raise SettingsError(f"{settings.broker} exists in one process only; give --broker kafka://host:port")
