"""`faultline dead-letters`: shows the records that could not be used, and sends them again where they came from.

A dead letter that was sent again is noted in the dead-letter topic itself, by a record without value behind it in its
partition. So a second replay finds out what the first one did, without a look into the input topics, and the note
lives as long as the dead letter.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from agents.audit.log import Log
from agents.delivery.publisher import Publisher
from pipeline.config.profile import parse_duration_ms
from pipeline.config.settings import Settings
from pipeline.config.topics import ALARMS, DEAD_LETTER, DIAGNOSES, LATE, METRICS, STATE
from pipeline.errors import DeliveryError, SettingsError
from pipeline.wire.letters import origin_of
from pipeline.wire.messages import Reason, RejectedError, parse_time_ms
from pipeline.wire.records import Headers, Output, Place, Record

REPLAYS = "faultline-replays"
"""Header of a record that was sent again: how many times."""
REPLAY_OF = "faultline-replay-of"
"""Header of a record that was sent again: the dead letter, as topic/partition/offset."""
REPLAY_ORIGIN = "faultline-replay-origin"
"""Header of a record that was sent again: where the record first lay, as topic/partition/offset."""
DONE_OFFSET = "faultline-replayed-offset"
"""Header of a note in the dead-letter topic: the offset of the dead letter that was sent again."""
DONE_TO = "faultline-replayed-to"
"""Header of a note in the dead-letter topic: the topic that it was sent to."""

_OWN_TOPICS = frozenset({DIAGNOSES, ALARMS, METRICS, LATE, DEAD_LETTER, STATE})
_BATCH_RECORDS = 500


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be used, as it was, and what became of it."""

    place: Place
    reason: str
    detail: str
    origin: Place
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    replays: int
    """How many times it had been sent again before it came (back) here."""
    whole_bytes: int | None
    """Length of the value before it was cut to what the topic takes (agents/delivery/publisher.py); None: not cut."""

    @classmethod
    def of(cls, record: Record) -> Self | None:
        """The dead letter that a record of the dead-letter topic is; None if it is something else."""
        origin = origin_of(record.headers)
        if origin is None:
            return None
        before = record.headers[: origin.at]
        count = dict(before).get(REPLAYS, b"0")
        return cls(
            Place(*record[:3]),
            origin.reason,
            origin.detail,
            origin.place,
            origin.timestamp_ms,
            record.key,
            record.value,
            tuple(pair for pair in before if pair[0] not in (REPLAYS, REPLAY_OF, REPLAY_ORIGIN)),
            int(count) if count.isdigit() else 1,
            _whole_bytes(dict(record.headers[origin.at :]), record.value),
        )

    def again(self, topic: str, partitions: int, now_ms: int) -> Output:
        """The original record, to be published in a topic of so many partitions.

        A key goes to its own partition, whatever partition the record lay in: `wrong_partition` is mended by that.
        """
        marks = (
            (REPLAYS, b"%d" % (self.replays + 1)),
            (REPLAY_OF, b"%s/%d/%d" % (self.place.topic.encode(), *self.place[1:])),
            (REPLAY_ORIGIN, b"%s/%d/%d" % (self.origin.topic.encode(), *self.origin[1:])),
        )
        partition = None if self.key is not None else self.origin.partition % partitions
        stamp = self.timestamp_ms if self.timestamp_ms >= 0 else now_ms
        return Output(topic, partition, self.key, self.value, stamp, self.headers + marks)

    def note(self, topic: str, now_ms: int) -> Output:
        """The note in the dead-letter topic which says that this one was sent again."""
        marks = (DONE_OFFSET, b"%d" % self.place.offset), (DONE_TO, topic.encode())
        return Output(DEAD_LETTER, self.place.partition, self.key, None, now_ms, marks)


def _whole_bytes(headers: Mapping[str, bytes], value: bytes | None) -> int | None:
    if "faultline-truncated" not in headers:
        return None
    count = headers.get("faultline-value-bytes", b"")
    return int(count) if count.isdigit() else len(value or b"")


class _Named(msgspec.Struct):
    machine: str


_decode_named = msgspec.json.Decoder(_Named).decode


@dataclass(frozen=True, slots=True)
class Filters:
    """Which dead letters are meant; what is None does not count."""

    reason: str | None = None
    machine: str | None = None
    topic: str | None = None
    since_ms: int | None = None

    @classmethod
    def parse(
        cls,
        settings: Settings,
        *,
        reason: str | None,
        machine: str | None,
        topic: str | None,
        since: str | None,
        now_ms: int,
    ) -> Self:
        """Filters from the words of a command line; raises SettingsError."""
        if reason is not None and reason not in (known := [one.value for one in Reason]):
            raise SettingsError(f"--reason {reason!r} is not one of {', '.join(known)}")
        if topic is not None:
            topic = topic.removeprefix(settings.topic_prefix)
        return cls(reason, machine, topic, None if since is None else parse_since_ms(since, now_ms))

    def match(self, letter: DeadLetter) -> bool:
        """Whether a dead letter is meant. A machine is the key, or the name in the value if that can be read."""
        if self.reason is not None and letter.reason != self.reason:
            return False
        if self.topic is not None and letter.origin.topic != self.topic:
            return False
        if self.since_ms is not None and letter.timestamp_ms < self.since_ms:
            return False
        return self.machine is None or letter.key == self.machine.encode() or _name_in(letter.value) == self.machine


def _name_in(value: bytes | None) -> str | None:
    try:
        return _decode_named(value or b"").machine
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def parse_since_ms(text: str, now_ms: int) -> int:
    """A time (ISO 8601 with offset, or milliseconds), or a duration back from now; raises SettingsError."""
    if text.isdecimal():
        return int(text)
    try:
        return now_ms - parse_duration_ms(text)
    except ValueError:
        pass
    try:
        return parse_time_ms(text)
    except RejectedError as error:
        raise SettingsError(
            f"--since {text!r}: {error.detail}; use 2025-11-20T00:53:20Z, milliseconds, or a duration such as 2h"
        ) from None


@dataclass(slots=True)
class Survey:
    """What one pass over the dead-letter topic found."""

    matched: int = 0
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)  # reason -> count, oldest_ms, newest_ms
    origins: Counter[str] = field(default_factory=Counter)  # topic -> dead letters that came from there
    came_back: int = 0
    foreign: int = 0
    """Records of the topic that are neither dead letters nor notes."""
    done: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    """Partition and offset of what was sent again, and the topics that it was sent to."""
    letters: list[DeadLetter] = field(default_factory=list)

    def sent_to(self, letter: DeadLetter) -> list[str]:
        """The topics that a dead letter was sent to again."""
        return sorted(self.done.get(letter.place[1:], ()))


def survey(log: Log, filters: Filters, *, keep: int = 0) -> Survey:
    """Read the dead-letter topic once, and keep the oldest matching letters, as many as told."""
    found = Survey()
    # Of none, `nsmallest` would not even look.
    found.letters = heapq.nsmallest(max(keep, 1), _counted(log, filters, found), key=_by_time)[:keep]
    return found


def _by_time(letter: DeadLetter) -> tuple[int, Place]:
    return letter.timestamp_ms, letter.place


def _counted(log: Log, filters: Filters, found: Survey) -> Iterator[DeadLetter]:
    for record in log.records(DEAD_LETTER):
        letter = DeadLetter.of(record)
        if letter is None:
            headers = dict(record.headers)
            offset = headers.get(DONE_OFFSET, b"")
            if offset.isdigit() and DONE_TO in headers:
                to = headers[DONE_TO].decode(errors="replace")
                found.done.setdefault((record.partition, int(offset)), set()).add(to)
            else:
                found.foreign += 1
        elif filters.match(letter):
            found.matched += 1
            stamp = letter.timestamp_ms
            row = found.reasons.setdefault(letter.reason, {"count": 0, "oldest_ms": stamp, "newest_ms": stamp})
            row["count"] += 1
            row["oldest_ms"], row["newest_ms"] = min(row["oldest_ms"], stamp), max(row["newest_ms"], stamp)
            found.origins[letter.origin.topic] += 1
            found.came_back += letter.replays > 0
            yield letter


def as_dict(letter: DeadLetter, sent_to: Sequence[str], *, first_bytes: int = 200) -> dict[str, Any]:
    """A dead letter for people and programs: the beginning of its value, and where it was sent again."""
    value = letter.value
    return {
        "reason": letter.reason,
        "detail": letter.detail,
        "topic": letter.origin.topic,
        "partition": letter.origin.partition,
        "offset": letter.origin.offset,
        "time": shown_time(letter.timestamp_ms),
        "key": None if letter.key is None else letter.key.decode(errors="backslashreplace"),
        "first_bytes": None if value is None else value[:first_bytes].decode(errors="backslashreplace"),
        "bytes": letter.whole_bytes if letter.whole_bytes is not None else None if value is None else len(value),
        "truncated": letter.whole_bytes is not None,
        "dead_letter": {"partition": letter.place.partition, "offset": letter.place.offset},
        "replays_before": letter.replays,
        "replayed_to": list(sent_to),
    }


def shown_time(time_ms: int) -> str | None:
    """ISO 8601 in UTC; None for no time, or one that no calendar has."""
    try:
        return None if time_ms < 0 else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None


# -- sending again ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class ReplayedLetters:
    """What a replay of dead letters did, or would do."""

    dry_run: bool
    matched: int = 0
    replayed: dict[str, int] = field(default_factory=dict)  # topic -> records
    already_replayed: int = 0
    came_back: int = 0
    truncated: int = 0
    """Those that were cut to what the dead-letter topic takes: the record as it was is no longer in them."""
    refused: int = 0
    """Those that come from a topic which Faultline itself writes, where nothing may be put."""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """One object of plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def check_destination(topic: str) -> None:
    """Raises SettingsError for a topic that only Faultline may write to."""
    if topic in _OWN_TOPICS:
        raise SettingsError(f"--to {topic}: only Faultline writes to this topic; choose an input topic")


async def replay_dead_letters(
    log: Log,
    filters: Filters,
    publisher: Publisher,
    partitions_of: Callable[[Sequence[str]], Mapping[str, int]],
    *,
    now_ms: int,
    to: str | None = None,
    again: bool = False,
    dry_run: bool = False,
    limit: int | None = None,
) -> ReplayedLetters:
    """Publish matching dead letters again, oldest first if there is a limit, else partition by partition.

    `partitions_of` gives the partition counts of topics, and raises TopicMismatchError for those that do not exist.
    Each batch is confirmed before it is noted as sent: a crash in between sends that batch twice, and loses nothing.
    """
    if to is not None:
        check_destination(to)
    before = survey(log, filters)
    report = ReplayedLetters(dry_run, matched=before.matched)
    chosen = _chosen(log, filters, before, report, to, again)
    if limit is not None:
        chosen = iter(heapq.nsmallest(limit, chosen, key=lambda pair: _by_time(pair[0])))
    targets = [to] if to is not None else [topic for topic in before.origins if topic not in _OWN_TOPICS]
    counts = partitions_of(targets) if before.matched and targets else {}
    reasons: Counter[str] = Counter()
    unstamped = 0
    if not dry_run:
        await publisher.start()
    try:
        batch: list[tuple[DeadLetter, str]] = []
        for letter, target in chosen:
            batch.append((letter, target))
            reasons[letter.reason] += 1
            unstamped += letter.timestamp_ms < 0
            if len(batch) >= _BATCH_RECORDS:
                await _send(batch, publisher, counts, report, now_ms)
                batch = []
        await _send(batch, publisher, counts, report, now_ms)
    except DeliveryError as error:
        sent = sum(report.replayed.values())
        raise DeliveryError(f"after {sent} replayed dead letters: {error}") from error
    finally:
        if not dry_run:
            await publisher.stop()
    report.notes = _notes(reasons, unstamped)
    return report


def _chosen(
    log: Log, filters: Filters, before: Survey, report: ReplayedLetters, to: str | None, again: bool
) -> Iterator[tuple[DeadLetter, str]]:
    """Matching letters that may be sent, with their topics; counts those that may not."""
    for letter in _counted(log, filters, Survey()):
        target = to or letter.origin.topic
        if target in _OWN_TOPICS:
            report.refused += 1
        elif letter.whole_bytes is not None:
            report.truncated += 1
        elif not again and letter.replays:
            report.came_back += 1
        elif not again and target in before.sent_to(letter):
            report.already_replayed += 1
        else:
            yield letter, target


async def _send(
    batch: Sequence[tuple[DeadLetter, str]],
    publisher: Publisher,
    counts: Mapping[str, int],
    report: ReplayedLetters,
    now_ms: int,
) -> None:
    if not report.dry_run:
        await publisher.publish([letter.again(target, counts[target], now_ms) for letter, target in batch])
        await publisher.flush()
    for _, target in batch:
        report.replayed[target] = report.replayed.get(target, 0) + 1
    if not report.dry_run:
        await publisher.publish([letter.note(target, now_ms) for letter, target in batch])
        await publisher.flush()


def _notes(reasons: Counter[str], unstamped: int) -> list[str]:
    notes = []
    if count := reasons[Reason.FUTURE_TIME]:
        notes.append(
            f"{count} future_time: they keep their time stamps, so they are accepted only if the profile's max_skew "
            "has been raised since"
        )
    if unstamped:
        notes.append(f"{unstamped} had no time stamp and get the time of this replay")
    return notes
