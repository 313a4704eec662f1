"""Dead letters and late records by reason, with the newest of each as an example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from agents.audit.dead_letters import DeadLetter
from agents.console.documents.data import Example
from agents.words import printable
from pipeline.config.topics import FOREIGN
from pipeline.wire.messages import Reason
from pipeline.wire.records import Record

OTHER: Final = "other"
"""Stands for a reason that this release does not have, and for a topic that the plant does not have."""
_REASONS: Final = frozenset(one.value for one in Reason)
_VALUE_CHARACTERS: Final = 500
_DETAIL_CHARACTERS: Final = 500
_KEY_CHARACTERS: Final = 200


@dataclass(slots=True)
class ReasonCount:
    """The letters of one reason."""

    count: int = 0
    newest_ms: int = -1
    topics: Counter[str] = field(default_factory=Counter)
    example: tuple[tuple[int, int, int], Example] | None = None
    """What orders it among others, and the newest one."""


class LetterBook:
    """The letters of one topic."""

    def __init__(self, topics: Collection[str]) -> None:
        """`topics` are those that records may come from."""
        self._topics = frozenset(topics)
        self.reasons: dict[str, ReasonCount] = {}
        self.foreign = 0

    def take(self, record: Record) -> bool:
        """Count a record; returns whether it is news. Marks of `faultline dead-letters replay` are none."""
        letter = DeadLetter.of(record)
        if letter is None:
            self.foreign += record.value is not None
            return record.value is not None
        reason = self.reasons.setdefault(letter.reason if letter.reason in _REASONS else OTHER, ReasonCount())
        reason.count += 1
        reason.newest_ms = max(reason.newest_ms, letter.timestamp_ms)
        topic = letter.origin.topic
        reason.topics[topic.removeprefix(FOREIGN) if topic in self._topics else OTHER] += 1
        order = letter.timestamp_ms, record.partition, record.offset
        if reason.example is None or order > reason.example[0]:
            reason.example = order, _example(letter)
        return True

    def count_of(self, topic: str) -> int:
        """How many of them come from a topic."""
        return sum(one.topics[topic.removeprefix(FOREIGN)] for one in self.reasons.values())


def _example(letter: DeadLetter) -> Example:
    value = letter.value
    size = 0 if value is None else len(value)
    return Example(
        topic=letter.place.topic,
        partition=letter.place.partition,
        offset=letter.place.offset,
        origin_topic=printable(letter.origin.topic.removeprefix(FOREIGN), _KEY_CHARACTERS),
        origin_partition=letter.origin.partition,
        origin_offset=letter.origin.offset,
        timestamp_ms=letter.timestamp_ms,
        key=None if letter.key is None else shown_bytes(letter.key, _KEY_CHARACTERS),
        detail=printable(letter.detail, _DETAIL_CHARACTERS),
        value=None if value is None else shown_bytes(value, _VALUE_CHARACTERS),
        value_bytes=letter.whole_bytes or size,
        late_by_ms=letter.late_by_ms,
        replays=letter.replays,
    )


def shown_bytes(value: bytes, limit: int) -> str:
    """The beginning of bytes as text; of what is no text, the bytes in hexadecimal."""
    cut = value[: 4 * limit]
    try:
        text = cut.decode()
    except UnicodeDecodeError as error:
        if error.start < len(cut) - 3 or len(value) <= len(cut):
            return f"0x{value[: limit // 2].hex()}{'…' if len(value) > limit // 2 else ''}"
        text = cut[: error.start].decode()
    more = "…" if len(text) <= limit and len(value) > len(cut) else ""
    return printable(text, limit) + more
