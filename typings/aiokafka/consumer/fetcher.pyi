from typing import Any

MemoryRecords: Any

class Fetcher:
    _default_reset_strategy: Any
    _prefetch_backoff: float
    _records: Any
    async def request_offset_reset(self, partitions: Any, strategy: Any) -> None: ...

class OffsetResetStrategy:
    EARLIEST: int
    NONE: int

class PartitionRecords:
    _consumer_record: Any

class FetchResult:
    _partition_records: PartitionRecords
