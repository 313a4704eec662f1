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
"""Format, frames of a window, windows of the reference, statistics, and how many of these are far from it."""


@dataclass(frozen=True, slots=True)
class DriftState:
    """What is kept of one machine, in rows of the arrays of all machines."""

    window_frames: int
    reference_windows: int
    sums: Matrix
    counts: Floats
    reference: Floats
    since: Matrix  # by statistic, since when it is far from the reference, milliseconds; negative if it is not
    standing: NDArray[np.int8]  # by statistic, the direction of its drift; 0 for none


def encode_drift(state: DriftState) -> bytes:
    """The bytes; empty for a machine that has had no frame."""
    if not state.sums.any() and not state.reference.any():
        return b""
    far = np.flatnonzero(state.since >= 0).astype("<i4")
    head = np.array([_FORMAT, state.window_frames, state.reference_windows, len(state.since), len(far)], "<i4")
    parts = (head, *_dense(state), far, state.since[far].astype("<f8"), state.standing[far])
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
    size = 4 * _HEAD + sum(part.nbytes for part in dense) + far_count * (4 + 8 + 1)
    if known != _FORMAT or statistics != len(into.since) or far_count < 0 or len(data) != size:
        raise StateError(f"saved drift state has {len(data)} bytes, or is of another form")
    if (window_frames, reference_windows) != (into.window_frames, into.reference_windows):
        return
    at = 4 * _HEAD
    found = []
    for part in dense:
        found.append(np.frombuffer(data, part.dtype, part.size, at).reshape(part.shape))
        at += part.nbytes
    far = np.frombuffer(data, "<i4", far_count, at)
    since = np.frombuffer(data, "<f8", far_count, at + 4 * far_count)
    standing = np.frombuffer(data, np.int8, far_count, at + 12 * far_count)
    is_known = bool(((far >= 0) & (far < statistics)).all()) and bool((abs(standing) <= 1).all())
    if not is_known or not all(np.isfinite(part).all() for part in (*found, since)):
        raise StateError("saved drift state holds what no machine's has")
    into.sums[:], into.counts[:], into.reference[:] = found
    into.since[far], into.standing[far] = since, standing
