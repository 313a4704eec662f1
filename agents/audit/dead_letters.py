"""Dead letters and late records: what their topics hold, filtered and counted.

A replayed dead letter is marked in the dead-letter topic itself, by a later record without value in its partition. So
a second replay knows what the first one did without reading the input topics, and the mark lives as long as the dead
letter.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import msgspec

from agents.audit.log import Log
from pipeline.config.quantities.durations import parse_duration_ms
from pipeline.config.settings import Settings
from pipeline.config.topics import DEAD_LETTER, FOREIGN, LATE
from pipeline.errors import SettingsError
from pipeline.wire.letters import LATE_BY, header_number, late_header, origin_of
from pipeline.wire.messages import Reason, RejectedError, parse_time_ms
from pipeline.wire.records import Headers, Output, Place, Record

REPLAYS = "faultline-replays"
"""Header of a replayed record: how many times it was replayed."""
REPLAY_OF = "faultline-replay-of"
"""Header of a replayed record: the dead letter, as topic/partition/offset."""
REPLAY_ORIGIN = "faultline-replay-origin"
"""Header of a replayed record: the original record, as topic/partition/offset."""
DONE_OFFSET = "faultline-replayed-offset"
"""Header of a mark in the dead-letter topic: the offset of the replayed dead letter."""
DONE_TO = "faultline-replayed-to"
"""Header of a mark in the dead-letter topic: the topic that it was sent to."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that could not be used, or came too late, as it was, and how often it was replayed."""

    place: Place
    reason: str
    detail: str
    origin: Place
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    replays: int
    """How many times it had been replayed before it was rejected."""
    whole_bytes: int | None
    """Length of the value before it was cut to what the topic takes (pipeline/wire/letters.py); None: not cut."""
    late_by_ms: int | None = None
    """By how much it came too late; None for a dead letter."""

    @classmethod
    def of(cls, record: Record) -> Self | None:
        """The letter that a record of the dead-letter or late topic is; None if it is something else."""
        origin = origin_of(record.headers)
        if origin is None:
            return None
        before = record.headers[: origin.at]
        count = header_number(dict(before).get(REPLAYS, b"0"))
        return cls(
            Place(*record[:3]),
            origin.reason,
            origin.detail,
            origin.place,
            origin.timestamp_ms,
            record.key,
            record.value,
            tuple(pair for pair in before if pair[0] not in (REPLAYS, REPLAY_OF, REPLAY_ORIGIN)),
            1 if count is None else count,
            _whole_bytes(dict(record.headers[origin.at :]), record.value),
            late_header(record.headers[origin.at :], LATE_BY),
        )

    def as_replay(self, topic: str, partitions: int, now_ms: int) -> Output:
        """The original record, to be published in a topic of so many partitions.

        The key decides the partition, wherever the record was: this fixes `wrong_partition`.
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
        """The mark in the dead-letter topic that this one was replayed."""
        marks = (DONE_OFFSET, b"%d" % self.place.offset), (DONE_TO, topic.encode())
        return Output(DEAD_LETTER, self.place.partition, self.key, None, now_ms, marks)


def _whole_bytes(headers: Mapping[str, bytes], value: bytes | None) -> int | None:
    if "faultline-truncated" not in headers:
        return None
    count = header_number(headers.get("faultline-value-bytes", b""))
    return len(value or b"") if count is None else count


class _Named(msgspec.Struct):
    machine: str


_decode_named = msgspec.json.Decoder(_Named).decode


@dataclass(frozen=True, slots=True)
class Filters:
    """Which letters to select; None selects all."""

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
        """Filters from command-line options; raises SettingsError."""
        if reason is not None and reason not in (known := [one.value for one in Reason]):
            raise SettingsError(f"--reason {reason!r} is not one of {', '.join(known)}")
        if topic is not None:
            topic = topic.removeprefix(settings.topic_prefix).removeprefix(FOREIGN)
        return cls(reason, machine, topic, None if since is None else parse_since_ms(since, now_ms))

    def match(self, letter: DeadLetter) -> bool:
        """Whether a letter is selected. A machine matches the key, or the name in a readable value."""
        if self.reason is not None and letter.reason != self.reason:
            return False
        if self.topic is not None and letter.origin.topic.removeprefix(FOREIGN) != self.topic:
            return False
        if self.since_ms is not None and letter.timestamp_ms < self.since_ms:
            return False
        return self.machine is None or letter.key == self.machine.encode() or _name_in(letter.value) == self.machine


def _name_in(value: bytes | None) -> str | None:
    try:
        return _decode_named(value or b"").machine
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def parse_since_ms(text: str, now_ms: int, option: str = "--since") -> int:
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
            f"{option} {text!r}: {error.detail}; use 2025-11-20T00:53:20Z, milliseconds, or a duration such as 2h"
        ) from None


@dataclass(slots=True)
class Summary:
    """Counts over the dead-letter or late topic, and some of its letters."""

    matched: int = 0
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    """By reason count, oldest_ms and newest_ms; of late records also least_late_ms and most_late_ms."""
    origins: Counter[str] = field(default_factory=Counter)  # topic -> dead letters that came from there
    came_back: int = 0
    foreign: int = 0
    """Records of the topic that are neither dead letters nor marks."""
    done: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    """Partition and offset of replayed letters, and the topics that they were sent to."""
    letters: list[DeadLetter] = field(default_factory=list)

    def sent_to(self, letter: DeadLetter) -> list[str]:
        """The topics that a dead letter was replayed to."""
        return sorted(self.done.get(letter.place[1:], ()))


def summarize(
    log: Log, filters: Filters, *, keep: int = 0, topic: str = DEAD_LETTER, from_oldest: bool = False
) -> Summary:
    """Read the dead-letter topic, or the late one, once, and keep `keep` matching letters, the newest first."""
    found = Summary()
    choose = heapq.nsmallest if from_oldest else heapq.nlargest
    # With 0 it would not read at all, and nothing would be counted.
    found.letters = choose(max(keep, 1), matching_letters(log, filters, found, topic), key=by_age)[:keep]
    return found


def by_age(letter: DeadLetter) -> tuple[int, Place]:
    """What orders letters from the oldest to the newest."""
    return letter.timestamp_ms, letter.place


def matching_letters(log: Log, filters: Filters, found: Summary, topic: str = DEAD_LETTER) -> Iterator[DeadLetter]:
    """The letters of a topic that match, which `found` counts."""
    for record in log.records(topic):
        letter = DeadLetter.of(record)
        if letter is None:
            headers = dict(record.headers)
            offset = header_number(headers.get(DONE_OFFSET, b""))
            if offset is not None and DONE_TO in headers:
                to = headers[DONE_TO].decode(errors="replace")
                found.done.setdefault((record.partition, offset), set()).add(to)
            else:
                found.foreign += 1
        elif filters.match(letter):
            found.matched += 1
            stamp = letter.timestamp_ms
            row = found.reasons.setdefault(letter.reason, {"count": 0, "oldest_ms": stamp, "newest_ms": stamp})
            row["count"] += 1
            row["oldest_ms"], row["newest_ms"] = min(row["oldest_ms"], stamp), max(row["newest_ms"], stamp)
            if (late_ms := letter.late_by_ms) is not None:
                row["least_late_ms"] = min(row.get("least_late_ms", late_ms), late_ms)
                row["most_late_ms"] = max(row.get("most_late_ms", late_ms), late_ms)
            found.origins[letter.origin.topic] += 1
            found.came_back += letter.replays > 0
            yield letter


def as_dict(letter: DeadLetter, sent_to: Sequence[str], *, first_bytes: int = 200) -> dict[str, Any]:
    """A letter as JSON: the beginning of its value, and how late it was or the topics that it was replayed to."""
    value = letter.value
    place = {"partition": letter.place.partition, "offset": letter.place.offset}
    own: dict[str, Any]
    if letter.place.topic == LATE:
        own = {"late_record": place, "late_by_ms": letter.late_by_ms}
    else:
        own = {"dead_letter": place, "replays_before": letter.replays, "replayed_to": list(sent_to)}
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
    } | own


def shown_time(time_ms: int) -> str | None:
    """ISO 8601 in UTC; None for no time, or one that no calendar has."""
    try:
        return None if time_ms < 0 else datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None
