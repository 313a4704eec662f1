"""Dead letters published again, to the topics that they came from."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.audit.dead_letters import DeadLetter, Filters, Summary, by_age, matching_letters, summarize
from agents.audit.log import Log
from agents.delivery.publisher import Publisher
from pipeline.config.topics import ALARMS, DEAD_LETTER, DIAGNOSES, DRIFT, INCIDENTS, LATE, METRICS, MQTT, STATE
from pipeline.errors import DeliveryError, SettingsError
from pipeline.wire.messages import Reason

_OWN_TOPICS = frozenset({DIAGNOSES, ALARMS, DRIFT, INCIDENTS, METRICS, LATE, DEAD_LETTER, STATE})
_BATCH_RECORDS = 500


@dataclass(slots=True)
class ReplayedLetters:
    """What a replay of dead letters did, or would do."""

    dry_run: bool
    matched: int = 0
    replayed: dict[str, int] = field(default_factory=dict)  # topic -> records
    already_replayed: int = 0
    came_back: int = 0
    truncated: int = 0
    """Those that were truncated for the dead-letter topic: they no longer contain the original record."""
    refused: int = 0
    """Those from topics that only Faultline may write to, or from MQTT."""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """One object of plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def check_destination(topic: str) -> None:
    """Raises SettingsError for a topic that only Faultline may write to."""
    if topic in _OWN_TOPICS:
        raise SettingsError(f"--to {topic}: only Faultline writes to this topic; choose an input topic")


def _may_be_sent_to(topic: str) -> bool:
    return topic not in _OWN_TOPICS and not topic.startswith(MQTT)


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
    """Publish matching dead letters again: oldest first if there is a limit, else by partition.

    `partitions_of` gives the partition counts of topics, and raises TopicMismatchError for those that do not exist.
    Each batch is confirmed before it is marked as sent: after a crash in between it is sent twice, and nothing is lost.
    """
    if to is not None:
        check_destination(to)
    before = summarize(log, filters)
    report = ReplayedLetters(dry_run, matched=before.matched)
    chosen = _chosen(log, filters, before, report, to, again)
    if limit is not None:
        chosen = iter(heapq.nsmallest(limit, chosen, key=lambda pair: by_age(pair[0])))
    targets = [to] if to is not None else [topic for topic in before.origins if _may_be_sent_to(topic)]
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
    log: Log, filters: Filters, before: Summary, report: ReplayedLetters, to: str | None, again: bool
) -> Iterator[tuple[DeadLetter, str]]:
    """Matching letters that may be sent, with their topics; counts those that may not."""
    for letter in matching_letters(log, filters, Summary()):
        target = to or letter.origin.topic
        if not _may_be_sent_to(target):
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
        await publisher.publish([letter.as_replay(target, counts[target], now_ms) for letter, target in batch])
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
