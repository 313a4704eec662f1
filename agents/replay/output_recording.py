"""Outputs as a recording: what a replay publishes, with the partitions and offsets of output topics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pipeline.wire.recording import RecordingWriter
from pipeline.wire.records import Output, Record


class OutputRecorder:
    """Writes outputs in the order in which they are published."""

    def __init__(self, writer: RecordingWriter, partition_of: Callable[[bytes], int]) -> None:
        self._writer = writer
        self._partition_of = partition_of
        self._offsets: Counter[tuple[str, int]] = Counter()

    def add(self, output: Output) -> None:
        """Append an output: to its partition, or to that of its key."""
        partition = output.partition
        if partition is None:
            partition = 0 if output.key is None else self._partition_of(output.key)
        offset = self._offsets[output.topic, partition]
        self._offsets[output.topic, partition] += 1
        self._writer.write(
            [Record(output.topic, partition, offset, output.timestamp_ms, output.key, output.value, output.headers)]
        )
