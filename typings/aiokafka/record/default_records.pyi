from collections.abc import Iterator

class _DefaultRecordPy:
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    def __init__(
        self,
        offset: int,
        timestamp: int,
        timestamp_type: int,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
    ) -> None: ...

class _DefaultRecordBatchPy:
    _buffer: bytearray
    _pos: int
    base_offset: int
    first_timestamp: int
    max_timestamp: int
    timestamp_type: int
    def __init__(self, buffer: bytearray) -> None: ...
    def __iter__(self) -> Iterator[_DefaultRecordPy]: ...
