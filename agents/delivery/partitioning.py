"""The partition of a key, as Kafka's own producers choose it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives to a key."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def partition_function(partitions: int) -> Callable[[bytes], int]:
    """The partition of a key among a fixed number of partitions."""

    @lru_cache(maxsize=100_000)
    def partition(key: bytes) -> int:
        return partition_of.__wrapped__(key, partitions)

    return partition
