"""Kafka batches whose header names need not be UTF-8: aiokafka drops such a batch with all its records.

It uses names that are private to aiokafka, checked with 0.14.0; tests/agents/test_private_names.py pins them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

_SIZE_AT, _HEAD = 8, 12


def install() -> None:
    """Let aiokafka's consumers of this process read what a fetch brought with `LenientRecords`."""
    fetcher.MemoryRecords = LenientRecords  # private; aiokafka 0.14.0


class LenientRecords:
    """The batches of one fetch; what aiokafka asks of its own class is passed on."""

    def __init__(self, data: bytes) -> None:
        self._records = MemoryRecords(data)
        self._data = data
        self._at = 0
        self.size_in_bytes = self._records.size_in_bytes
        self.has_next = self._records.has_next

    def next_batch(self) -> Any:
        """The next batch."""
        size = _HEAD + int.from_bytes(self._data[self._at + _SIZE_AT : self._at + _HEAD], "big")
        raw = self._data[self._at : self._at + size] if self._data[self._at + 16] == 2 else None
        self._at += size
        batch = self._records.next_batch()
        return batch if raw is None else _Batch(batch, raw)


class _Batch:
    """A batch; one that aiokafka cannot decode to its end is read again, more slowly."""

    def __init__(self, batch: Any, raw: bytes) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        """The next record; aiokafka takes the only one of a control batch so."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        # A list, and not one after the other: a generator would cost each record another call.
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return iter(list(_LenientBatch(bytearray(self._raw))))


class _LenientBatch(_DefaultRecordBatchPy):
    """Bytes of a header's name that are not UTF-8 are written as \\xNN."""

    _pos: int

    def _read_msg(self, decode_varint: Any = decode_varint) -> _DefaultRecordPy:
        def number() -> int:
            value, self._pos = decode_varint(self._buffer, self._pos)
            return int(value)

        def content() -> bytes | None:
            length = number()
            if length < 0:
                return None
            self._pos += length
            return bytes(self._buffer[self._pos - length : self._pos])

        number()  # length
        self._pos += 1  # attributes, of which there are none yet
        timestamp, offset = self.first_timestamp + number(), self.base_offset + number()
        if self.timestamp_type == 1:  # the broker's clock
            timestamp = self.max_timestamp
        key, value = content(), content()
        names_and_values = [((content() or b"").decode(errors="backslashreplace"), content()) for _ in range(number())]
        return _DefaultRecordPy(offset, timestamp, self.timestamp_type, key, value, names_and_values)
