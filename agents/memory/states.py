"""Machines' states on the broker in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agents.delivery.states import Span, newest_states, write_states
from agents.memory.broker import MemoryBroker
from agents.memory.publisher import MemoryPublisher
from pipeline.config.topics import INCIDENTS, STATE, full_topic_name
from pipeline.wire.records import Record


class MemoryStateStore:
    """States on a memory broker."""

    def __init__(self, broker: MemoryBroker, prefix: str, partition_of: Callable[[bytes], int]) -> None:
        self.records_read = 0
        self._broker = broker
        self._prefix = prefix
        self._topic = prefix + STATE
        self._publisher = MemoryPublisher(broker, prefix)
        self._partition_of = partition_of

    async def start(self) -> None:
        """Nothing to connect to."""

    async def write(self, states: Mapping[str, bytes | None]) -> None:
        """Append at once."""
        await write_states(self._publisher, states, self._partition_of)

    async def read(self, partitions: Sequence[int]) -> dict[str, bytes]:
        """Read the logs as they are."""
        logs = [self._broker.log(self._topic, partition) for partition in partitions]
        return newest_states((record.key, record.value) for log in logs for record in log)

    async def history(self, span: Span) -> list[Record]:
        """Read the logs as they are."""
        return [
            record._replace(topic=topic)
            for topic, end in span.ends.items()
            for record in self._broker.log(full_topic_name(self._prefix, topic), span.partition)
            if record.offset < end and span.since_ms <= record.timestamp_ms
            if span.until_ms is None or record.timestamp_ms < span.until_ms
        ]

    async def incidents(self, since: Mapping[int, int]) -> tuple[list[Record], dict[int, int]]:
        """Read the logs as they are."""
        name = full_topic_name(self._prefix, INCIDENTS)
        logs = {number: self._broker.log(name, number) for number in since}
        records = [one._replace(topic=INCIDENTS) for number, log in logs.items() for one in log[since[number] :]]
        return records, {number: len(log) for number, log in logs.items()}

    async def stop(self) -> None:
        """Nothing to disconnect from."""
