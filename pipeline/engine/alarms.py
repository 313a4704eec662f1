"""Alarms from diagnoses: raised when k of the last n frames agree on a fault, cleared when they agree on none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Floats, Ints
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


class Alarms:
    """The recent answers and the standing alarm of every machine of one type, one slot each."""

    def __init__(self, rule: AlarmRule) -> None:
        self._rule = rule
        self._recent: NDArray[np.int16] = np.zeros((0, rule.n), np.int16)
        self._standing: NDArray[np.int16] = np.zeros(0, np.int16)

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        size = len(self._standing)
        if slots > size:
            grown = max(slots, 2 * size, 64) - size
            self._recent = np.concatenate([self._recent, np.zeros((grown, self._rule.n), np.int16)])
            self._standing = np.concatenate([self._standing, np.full(grown, NO_ALARM, np.int16)])

    def step(self, slots: Ints, faults: Ints, confidence: Floats) -> list[AlarmChange]:
        """Take one frame's answers (class 0 = normal; negative = no evidence) and return what changed."""
        answers = np.where((faults > 0) & (confidence < self._rule.confidence), 0, faults)
        recent = np.empty((len(slots), self._rule.n), np.int16)
        recent[:, 0], recent[:, 1:] = answers, self._recent[slots, :-1]
        self._recent[slots] = recent
        newest = recent[:, 0]
        equal = (recent == newest[:, None]).sum(axis=1)
        standing = self._standing[slots]
        has_agreed = equal >= self._rule.k
        raised = has_agreed & (newest > 0) & (newest != standing)
        cleared = (standing != NO_ALARM) & ((has_agreed & (newest == 0)) | raised)
        if not (raised.any() or cleared.any()):
            return []
        changes = [AlarmChange(row, int(standing[row]), raised=False) for row in np.flatnonzero(cleared).tolist()]
        changes += [AlarmChange(row, int(newest[row]), raised=True) for row in np.flatnonzero(raised).tolist()]
        standing = np.where(raised, newest, np.where(cleared, NO_ALARM, standing))
        self._standing[slots] = standing
        return changes

    def save(self, slots: Ints) -> list[bytes]:
        """Each machine's alarm state."""
        states = np.concatenate([self._standing[slots, None], self._recent[slots]], axis=1)
        return [state.tobytes() for state in states]

    def load(self, slot: int, state: bytes) -> None:
        """Put back what `save` gave; raises StateError if the rule has another length."""
        column = np.frombuffer(state, np.int16) if len(state) % 2 == 0 else np.empty(0, np.int16)
        if len(column) != 1 + self._rule.n:
            raise StateError(f"saved alarm state has {len(state)} bytes; the alarm rule needs {2 + 2 * self._rule.n}")
        self._standing[slot], self._recent[slot] = column[0], column[1:]

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self._standing[slot], self._recent[slot] = NO_ALARM, 0
