"""The states of a worker's machines on their way to the store, and the tombstones of those that were forgotten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from agents.delivery.merging import TP
from agents.delivery.states import StateStore
from agents.worker.states.engine import StatefulEngine
from pipeline.config.topics import full_topic_name
from pipeline.wire.states import encode_state


class StateWriter:
    """Writes what has changed in an engine; what was not confirmed is written again."""

    def __init__(
        self,
        engine: StatefulEngine,
        store: StateStore,
        prefix: str,
        consumer: Callable[[], Any],
        log_ids: Callable[[], Mapping[str, str]],
    ) -> None:
        """`log_ids` gives the ids of the logs that are read, by topic."""
        self._engine = engine
        self._store = store
        self._prefix = prefix
        self._consumer = consumer
        self._log_ids = log_ids
        self._unsaved: dict[str, bytes] = {}  # states on their way to the store

    def clear(self) -> None:
        """The engine has begun again with the states in the store."""
        self._unsaved.clear()

    async def write(self) -> None:
        """Write the states of machines that have changed."""
        log_ids = self._log_ids()
        for machine, state in self._engine.checkpoint().items():
            if state is None:
                gone = self._engine.forgotten[machine]
                logs = {topic: log_ids[topic] for topic in gone.applied if topic in log_ids}
                state = encode_state(msgspec.structs.replace(gone, logs=logs))
            self._unsaved[machine] = state
        await self._store.write(self._unsaved)
        self._unsaved.clear()  # not earlier: if this is cancelled, the next checkpoint must write them

    async def drop_tombstoned(self) -> None:
        """Write tombstones for forgotten machines once their last records are committed."""
        if not (outdated := self._engine.outdated()):
            return
        consumer = self._consumer()
        if not await consumer.commit():  # nothing to commit, or another commit is under way without the last acks
            await consumer.commit()
        committed = consumer.committed_offsets
        names = [
            gone.machine
            for gone in outdated
            if all(
                committed.get(TP(full_topic_name(self._prefix, topic), gone.partition), 0) > at
                for topic, at in gone.applied.items()
            )
        ]
        if names:
            await self._store.write(dict.fromkeys(names))
            self._engine.drop_tombstoned(names)
