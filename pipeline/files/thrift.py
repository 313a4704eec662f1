"""Thrift's compact protocol, as far as parquet's footers need it; a damaged footer ends some readers' whole process."""

from __future__ import annotations

import struct
from typing import Any, Final

MAX_DEPTH: Final = 32
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS: Final = frozenset({4, 5, 6})


class ThriftReader:
    """Reads values from the beginning of bytes on; raises ValueError where they are none."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of a struct by their numbers."""
        if depth > MAX_DEPTH:
            raise ValueError("the footer is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 0x0F
            number = number + delta if delta else self._integer()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._integer()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind in (_BYTE, _TRUE, _FALSE):  # flags stand in bytes of their own in lists
            return self._byte()
        if kind == _DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        if kind == _MAP:
            return self._map(depth)
        raise ValueError(f"the footer has a value of the unknown kind {kind}")

    def _list(self, depth: int) -> list[Any]:
        if depth > MAX_DEPTH:
            raise ValueError("the footer is nested too deeply")
        head = self._byte()
        size = head >> 4
        if size == 15:
            size = self._varint()
        self._require(size)  # each takes a byte at least
        return [self._value(head & 0x0F, depth + 1) for _ in range(size)]

    def _map(self, depth: int) -> list[tuple[Any, Any]]:
        size = self._varint()
        if not size:
            return []
        self._require(size)
        kinds = self._byte()
        return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 0x0F, depth + 1)) for _ in range(size)]

    def _integer(self) -> int:
        number = self._varint()
        return number >> 1 if number % 2 == 0 else -(number >> 1) - 1

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise ValueError("the footer has a number of more than 64 bits")

    def _byte(self) -> int:
        return self._take(1)[0]

    def _take(self, size: int) -> bytes:
        self._require(size)
        self._at += size
        return self._content[self._at - size : self._at]

    def _require(self, size: int) -> None:
        if self._at + size > len(self._content):
            raise ValueError("the footer ends too early")
