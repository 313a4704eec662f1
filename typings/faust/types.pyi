from typing import Any, NamedTuple

class TP(NamedTuple):
    topic: str
    partition: int

class RecordMetadata(NamedTuple):
    topic: str
    partition: int
    topic_partition: TP
    offset: int
    timestamp: float | None = None
    timestamp_type: int | None = None

class ConsumerMessage:
    tp: TP
    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        timestamp: float,
        timestamp_type: int,
        headers: Any,
        key: bytes | None,
        value: Any,
        checksum: bytes | None,
        serialized_key_size: int | None = None,
        serialized_value_size: int | None = None,
        tp: Any = None,
        *,
        generation_id: int = 0,
    ) -> None: ...
