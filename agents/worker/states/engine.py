"""What an engine has to offer to be run by a worker: records in, outputs out, and the state of every key as bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol

from pipeline.wire.messages import RejectedError
from pipeline.wire.records import Output, Record
from pipeline.wire.states import Forgotten, StateOwner

Observer = Callable[[Sequence[Record], Sequence[Output]], None]
"""Gets the records that an engine has taken, and what they have led to."""


class EngineStats(Protocol):
    """Counts that a worker publishes, and adds to."""

    records: Counter[str]
    skipped: Counter[str]
    dead_letters: Counter[str]
    states_refused: int


class StatefulEngine(Protocol):
    """An engine whose state is that of its keys, machines or areas, each of which lives in one partition.

    It is deterministic: the same records in the same order give the same outputs, from the first record on or from a
    restored state. Records up to the offset that a key's state includes must have no effect.
    """

    @property
    def stats(self) -> EngineStats: ...

    @property
    def partitions(self) -> frozenset[int]:
        """Partitions of which the engine holds keys or a clock."""
        ...

    @property
    def forgotten(self) -> Mapping[str, Forgotten]:
        """Keys that were forgotten, until they are tombstoned."""
        ...

    def load(self) -> None:
        """Load compiled code now, instead of with the first frame."""

    def process(self, records: Sequence[Record], /) -> list[Output]:
        """Take records in the order given; return everything they lead to."""

    def refuse(self, record: Record, rejected: RejectedError, /) -> Output:
        """Count a record that must not be processed; returns its dead letter."""

    def warm_up(self, records: Sequence[Record], /) -> None:
        """Let keys reach a state by the records that led to it; nothing is published or counted again."""

    def clock_ms(self, partition: int, /) -> int | None:
        """How far the time stamps of a partition's records have come."""

    def newest_frame_end_ms(self) -> Mapping[int, int]:
        """By partition, the end of the newest frame of its keys."""
        ...

    def checkpoint(self) -> dict[str, bytes | None]:
        """The states of all keys that changed since the last call; None for one that was forgotten."""

    def owner_of(self, key: str, /) -> StateOwner | None:
        """What the state of a key has to belong to; None if the profile has no such key."""

    def restore(self, key: str, state: bytes, /, recreated: AbstractSet[str] = frozenset()) -> None:
        """Put a key back to where `checkpoint` saw it; raises StateError, leaving it without a state."""

    def note_logs(self, ids: Mapping[str, str], /) -> None:
        """By topic, the id of the log that is read."""

    def note_applied(self, key: str, applied: Mapping[str, int], /) -> None:
        """By topic, the last offset up to which records of a key must have no effect any more."""

    def forget(self, key: str, /) -> None:
        """Drop a key and its state, if it has one."""

    def release(self, partitions: Sequence[int], /) -> None:
        """Drop all keys of partitions that now belong to another worker."""

    def outdated(self) -> list[Forgotten]:
        """Forgotten keys of which nothing has to be known any more, as soon as their last records are committed."""

    def drop_tombstoned(self, keys: Sequence[str], /) -> None:
        """The last records of these forgotten keys are committed and will not come again."""
