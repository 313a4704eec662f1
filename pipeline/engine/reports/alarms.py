"""Alarms from diagnoses: raised when k of the last n frames agree on a fault, cleared when they agree on none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Floats, Ints
from pipeline.compiled import CompiledFunction, Notify
from pipeline.errors import StateError

NO_ALARM = -1


@dataclass(frozen=True, slots=True)
class AlarmRule:
    """Raise when `k` of the last `n` frames name the same fault with at least this confidence."""

    k: int = 3
    n: int = 5
    confidence: float = 0.5


@dataclass(frozen=True, slots=True)
class AlarmChange:
    """Row of the round, class index of the fault, and whether its alarm was raised or cleared."""

    row: int
    fault: int
    raised: bool


def step_alarms(
    slots: Ints,
    faults: Ints,
    confidence: Floats,
    k: int,
    threshold: float,
    recent: NDArray[np.int16],
    standing: NDArray[np.int16],
    changes: Ints,
) -> bool:
    """Write the fault whose alarm each row clears, and the one that it raises (NO_ALARM if none); whether any does."""
    any_change = False
    for r in range(len(slots)):
        slot, newest = slots[r], faults[r]
        if newest > 0 and confidence[r] < threshold:
            newest = 0
        agree = 1
        for place in range(recent.shape[1] - 1, 0, -1):
            recent[slot, place] = recent[slot, place - 1]
            agree += recent[slot, place] == newest
        recent[slot, 0] = newest
        changes[r, 0], changes[r, 1] = NO_ALARM, NO_ALARM
        alarm = standing[slot]
        if agree >= k and newest >= 0 and newest != max(alarm, 0):
            changes[r, 0] = alarm
            if newest > 0:
                changes[r, 1] = newest
            standing[slot] = changes[r, 1]
            any_change = True
    return any_change


_i64, _i16, _f32 = (numba.types.Array(kind, 1, "C") for kind in (numba.int64, numba.int16, numba.float32))
STEP_ALARMS: Final = CompiledFunction(
    step_alarms,
    numba.boolean(_i64, _i64, _f32, numba.int64, numba.float32, _i16.copy(ndim=2), _i16, _i64.copy(ndim=2)),
    [Path(__file__)],
    what="the alarm rule",
)


class Alarms:
    """The recent answers and the standing alarm of every machine of one type, one slot each."""

    def __init__(self, rule: AlarmRule, notify: Notify) -> None:
        """`notify` gets a line if code has to be compiled first."""
        self._rule = rule
        self._notify = notify
        self._recent: NDArray[np.int16] = np.zeros((0, rule.n), np.int16)
        self._standing: NDArray[np.int16] = np.zeros(0, np.int16)

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        size = len(self._standing)
        if slots > size:
            grown = max(slots, 2 * size, 64) - size
            self._recent = np.concatenate([self._recent, np.zeros((grown, self._rule.n), np.int16)])
            self._standing = np.concatenate([self._standing, np.full(grown, NO_ALARM, np.int16)])

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        STEP_ALARMS.load(self._notify)

    def step(self, slots: Ints, faults: Ints, confidence: Floats) -> list[AlarmChange]:
        """Take one frame's answers (class 0 = normal; negative = no evidence) and return what changed."""
        changes = np.empty((len(slots), 2), np.int64)
        threshold = np.float32(self._rule.confidence)
        if not STEP_ALARMS.load(self._notify)(
            slots, faults, confidence, self._rule.k, threshold, self._recent, self._standing, changes
        ):
            return []
        return [
            AlarmChange(row, int(changes[row, raised]), raised=bool(raised))
            for raised in (0, 1)
            for row in np.flatnonzero(changes[:, raised] != NO_ALARM).tolist()
        ]

    def save(self, slots: Ints) -> list[bytes]:
        """Each machine's alarm state."""
        states = np.concatenate([self._standing[slots, None], self._recent[slots]], axis=1)
        return [state.tobytes() for state in states]

    def load(self, slot: int, state: bytes, classes: int) -> None:
        """Put back what `save` gave; raises StateError if the rule has another length, or a class is unknown."""
        column = np.frombuffer(state, np.int16) if len(state) % 2 == 0 else np.empty(0, np.int16)
        if len(column) != 1 + self._rule.n:
            raise StateError(f"saved alarm state has {len(state)} bytes; the alarm rule needs {2 + 2 * self._rule.n}")
        if column.max() >= classes or column[0] < NO_ALARM:
            raise StateError("saved alarm state names a fault that the model does not know")
        self._standing[slot], self._recent[slot] = column[0], column[1:]

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self._standing[slot], self._recent[slot] = NO_ALARM, 0
