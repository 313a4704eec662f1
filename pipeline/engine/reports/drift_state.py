"""A machine's drift state as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Floats, Matrix
from pipeline.errors import StateError

_FORMAT: Final = 1
_HEAD: Final = 5
"""Format, frames of a window, windows of the reference, statistics, and in how many directions there is an excess."""


@dataclass(frozen=True, slots=True)
class DriftState:
    """What is kept of one machine, in rows of the arrays of all machines."""

    window_frames: int
    reference_windows: int
    sums: Matrix
    counts: Floats
    reference: Floats
    excess: Matrix  # by direction and statistic
    since: Matrix  # the same, since when there is an excess, milliseconds; negative if there is none
    standing: NDArray[np.int8]  # by statistic, the direction of its drift; 0 for none


def encode_drift(state: DriftState) -> bytes:
    """The bytes; empty for a machine that has had no frame."""
    if not state.sums.any() and not state.reference.any():
        return b""
    far = np.flatnonzero(state.since >= 0).astype("<i4")
    head = np.array([_FORMAT, state.window_frames, state.reference_windows, len(state.standing), len(far)], "<i4")
    parts = (head, *_dense(state), state.standing, far, state.excess[far], state.since[far])
    return b"".join(part.tobytes() for part in parts)


def _dense(state: DriftState) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float32]]:
    return state.sums.astype("<f8"), state.counts.astype("<f4"), state.reference.astype("<f4")


def decode_drift(data: bytes, into: DriftState) -> None:
    """Fill the rows of a machine; leaves them as they are if its windows are not those of the rule now.

    Raises StateError if the bytes are no drift state of a machine with so many variables.
    """
    if not data:
        return
    head = np.frombuffer(data[: 4 * _HEAD], "<i4") if len(data) >= 4 * _HEAD else np.zeros(_HEAD, np.int32)
    known, window_frames, reference_windows, statistics, far_count = head.tolist()
    dense = _dense(into)
    size = 4 * _HEAD + sum(part.nbytes for part in dense) + len(into.standing) + far_count * (4 + 8 + 8)
    if known != _FORMAT or statistics != len(into.standing) or far_count < 0 or len(data) != size:
        raise StateError(f"saved drift state has {len(data)} bytes, or is of another form")
    if (window_frames, reference_windows) != (into.window_frames, into.reference_windows):
        return
    at = 4 * _HEAD
    found = []
    for part in dense:
        found.append(np.frombuffer(data, part.dtype, part.size, at).reshape(part.shape))
        at += part.nbytes
    standing = np.frombuffer(data, np.int8, statistics, at)
    at += statistics
    far = np.frombuffer(data, "<i4", far_count, at)
    excess, since = np.frombuffer(data, "<f8", 2 * far_count, at + 4 * far_count).reshape(2, far_count)
    is_known = bool(((far >= 0) & (far < 2 * statistics)).all()) and bool((abs(standing) <= 1).all())
    if not is_known or not all(np.isfinite(part).all() for part in (*found, excess, since)):
        raise StateError("saved drift state holds what no machine's has")
    into.sums[:], into.counts[:], into.reference[:] = found
    into.excess[far], into.since[far], into.standing[:] = excess, since, standing
