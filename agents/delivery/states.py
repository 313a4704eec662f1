"""The port of durable states: each machine's newest checkpoint, written and read by the worker.

The order of a checkpoint, so that a crash at any point leads to the same diagnoses:

1. The engine processes chunks and their outputs are published.
2. The broker has confirmed all of them. Only then
3. the states that the chunks led to are published, and confirmed, and only then
4. the chunks are acknowledged, and committed some time later.

After a crash before 3, the next worker finds older states and reads the records since then again: it computes the same
outputs. After a crash between 3 and 4, or halfway through 3, some or all states are ahead of the committed offsets.
Their machines skip records up to the offsets in the states, without outputs; that is correct because 2 came before.
One flush for both would not be enough: order is kept within a partition of a topic, not between topics, so a state
might arrive while earlier diagnoses never do.

So every state ever written is a valid start, as long as it is not behind the committed offsets. This also covers a
worker that does not know yet that its partitions belong to another (it was suspended, say) and writes states late: of
two states of a machine the later one counts, unless it has applied less.

An evicted machine gets its tombstone only when the offsets behind it are committed. Earlier, its last records would
come again after a crash and meet an unknown machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from agents.delivery.kept_states import machine_part
from agents.delivery.publisher import Publisher
from pipeline.config.topics import STATE
from pipeline.wire.records import Output, Record
from pipeline.wire.states import SavedAt, saved_at


class Span(NamedTuple):
    """Input of one partition: from a time on, up to where the worker begins to read."""

    partition: int
    since_ms: int
    ends: Mapping[str, int]
    """By topic, the offset at which to stop."""
    until_ms: int | None = None
    """Stop at records of this time, too."""


class StateStore(Protocol):
    """Where machines' states are kept."""

    @property
    def records_read(self) -> int:
        """How many records it has read so far; it rises while `read` and `history` come further."""

    async def start(self) -> None:
        """Connect; raises BrokerUnavailableError."""

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        """Return when the states are safe, None meaning a tombstone; raises DeliveryError."""

    async def read(self, partitions: Sequence[int]) -> dict[str, bytes]:
        """The states of all machines of these partitions, and those that are kept (agents/delivery/kept_states.py).

        Raises DeliveryError.
        """

    async def history(self, span: Span) -> list[Record]:
        """Records that led to states, read again; raises DeliveryError."""

    async def incidents(self, since: Mapping[int, int]) -> tuple[list[Record], dict[int, int]]:
        """Records of these partitions of the topic of incidents, from an offset of each on, and where they end.

        Raises DeliveryError.
        """

    async def stop(self) -> None:
        """Disconnect."""


async def write_states(
    publisher: Publisher, states: Mapping[str, bytes | None], partition_of: Callable[[bytes], int]
) -> None:
    """Publish states and wait until the broker has them; raises DeliveryError."""
    now_ms = int(time.time() * 1000)
    keys = [machine.encode() for machine in states]
    await publisher.publish(
        [
            Output(STATE, partition_of(machine_part(key)), key, state, now_ms)
            for key, state in zip(keys, states.values(), strict=True)
        ]
    )
    await publisher.flush()


def newest_states(records: Iterable[tuple[bytes | None, bytes | None]]) -> dict[str, bytes]:
    """The valid state of every machine, and the states that are kept."""
    states: dict[bytes, tuple[bytes, SavedAt]] = {}
    for key, state in records:
        if key is None:
            continue
        if state is None:
            states.pop(key, None)
            continue
        at = saved_at(state)
        if key not in states or not _is_behind(at, states[key][1]):
            states[key] = state, at
    return {key.decode(errors="replace"): state for key, (state, _) in states.items()}


def _is_behind(at: SavedAt, other: SavedAt) -> bool:
    return any(
        at.applied[topic] < other.applied[topic]
        for topic in at.applied.keys() & other.applied.keys()
        if at.logs.get(topic) == other.logs.get(topic)  # offsets of two logs cannot be compared
    )
