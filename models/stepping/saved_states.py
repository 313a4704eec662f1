"""Saved states of machines: a header with the hash of the model, then raw little-endian float32."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from pipeline.arrays import Floats
from pipeline.errors import StateError

_MAGIC: Final = b"FLST"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<4sHH32sI")
"""Magic, version, reserved, model hash, number of payload bytes."""


class StateFormat:
    """Writes and reads the states of one model."""

    def __init__(self, model_hash: str, size: int) -> None:
        """`model_hash` is a hexadecimal SHA-256; `size` is how many numbers a state has."""
        self._hash = model_hash
        self._digest = bytes.fromhex(model_hash)
        self._payload_bytes = 4 * size

    def write(self, rows: Floats) -> list[bytes]:
        """The states (N, size) of N machines."""
        header = _HEADER.pack(_MAGIC, _VERSION, 0, self._digest, self._payload_bytes)
        return [header + row.tobytes() for row in rows.astype("<f4", copy=False)]

    def read(self, state: bytes) -> Floats:
        """The numbers (size,) of a state; raises StateError if the bytes are not a state of this model."""
        if len(state) < _HEADER.size or state[:4] != _MAGIC:
            raise StateError("these bytes are not a saved machine state; start the machine from a fresh state")
        _, version, _, digest, payload_bytes = _HEADER.unpack_from(state)
        if version != _VERSION:
            raise StateError(
                f"machine state has version {version}, this release reads {_VERSION}; start from a fresh state"
            )
        if digest != self._digest:
            raise StateError(
                f"machine state belongs to model {digest.hex()[:12]}, not to {self._hash[:12]}; "
                "start from a fresh state"
            )
        length = _HEADER.size + self._payload_bytes
        if payload_bytes != self._payload_bytes or len(state) != length:
            raise StateError(f"machine state has {len(state)} bytes instead of {length}; it was cut or damaged")
        numbers = np.frombuffer(state, "<f4", offset=_HEADER.size).astype(np.float32, copy=False)
        if not np.isfinite(numbers).all():
            raise StateError("machine state holds values that are no numbers; it was damaged")
        return numbers
