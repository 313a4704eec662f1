"""Alarms from diagnoses: raised when k of the last n frames agree on a fault, cleared when they agree on none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Floats, Ints
from pipeline.compiled import CompiledFunction, Notify
from pipeline.config.sections.alarms import AlarmSettings
from pipeline.errors import StateError

NO_ALARM = -1
_AGREE, _FRAMES, _ON_DELAY, _OFF_DELAY = range(4)
_BEGINS, _STAYS = range(2)
_NEVER_CONFIDENT = 2.0
"""No answer is so sure: the limit of a fault that has no alarm."""


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


@dataclass(frozen=True, slots=True)
class PendingChange:
    """What a machine's frames agree on while a delay holds back the change of its alarm; since when, milliseconds."""

    fault: int
    since_ms: int


def step_alarms(
    slots: Ints,
    faults: Ints,
    confidence: Floats,
    end_ms: Ints,
    schemes: Ints,
    rules: Ints,
    limits: Floats,
    recent: NDArray[np.int16],
    agreed: NDArray[np.int16],
    since_ms: Ints,
    standing: NDArray[np.int16],
    changes: Ints,
) -> bool:
    """Write the fault whose alarm each row clears, and the one that it raises (NO_ALARM if none); whether any does.

    `agreed` is the fault that the recent frames agree on; an alarm follows it after its delay.
    """
    any_change = False
    for r in range(len(slots)):
        slot, newest = slots[r], faults[r]
        scheme = schemes[slot]
        if newest > 0:
            limit = limits[scheme, newest, _STAYS if newest == agreed[slot] else _BEGINS]
            if confidence[r] < limit:
                newest = 0
        judged = max(newest if newest > 0 else agreed[slot], 0)
        frames = rules[scheme, judged, _FRAMES]
        agree = 1
        # Counted before they are moved: reading numbers that were just written costs half of the step.
        for place in range(frames - 1):
            agree += recent[slot, place] == newest
        for place in range(recent.shape[1] - 1, 0, -1):
            recent[slot, place] = recent[slot, place - 1]
        recent[slot, 0] = newest
        if agree >= rules[scheme, judged, _AGREE] and newest >= 0 and newest != max(agreed[slot], 0):
            agreed[slot] = newest if newest > 0 else NO_ALARM
            since_ms[slot] = end_ms[r]
        changes[r, 0], changes[r, 1] = NO_ALARM, NO_ALARM
        alarm, fault = standing[slot], agreed[slot]
        if fault != alarm and newest == max(fault, 0):
            delay = rules[scheme, fault, _ON_DELAY] if fault > 0 else rules[scheme, alarm, _OFF_DELAY]
            if end_ms[r] - since_ms[slot] >= delay:
                changes[r, 0], changes[r, 1] = alarm, fault
                standing[slot] = fault
                any_change = True
    return any_change


_i64, _i16, _f32 = (numba.types.Array(kind, 1, "C") for kind in (numba.int64, numba.int16, numba.float32))
STEP_ALARMS: Final = CompiledFunction(
    step_alarms,
    numba.boolean(
        *(_i64, _i64, _f32, _i64, _i64, _i64.copy(ndim=3), _f32.copy(ndim=3)),
        *(_i16.copy(ndim=2), _i16, _i64, _i16, _i64.copy(ndim=2)),
    ),
    [Path(__file__)],
    what="the alarm rule",
)


class Alarms:
    """The recent answers and the standing alarm of every machine of one type, one slot each.

    A machine's scheme is the settings of all its faults; machines with the same settings share one. The first scheme is
    the rule for every fault.
    """

    def __init__(self, rule: AlarmRule, classes: int, notify: Notify) -> None:
        """`notify` gets a line if code has to be compiled first."""
        self._rule = rule
        self._notify = notify
        self._rules: Ints = np.zeros((0, classes, 4), np.int64)  # by scheme and class
        self._limits: Floats = np.zeros((0, classes, 2), np.float32)
        self._recent: NDArray[np.int16] = np.zeros((0, rule.n), np.int16)
        self._schemes: Ints = np.zeros(0, np.int64)
        self._agreed: NDArray[np.int16] = np.zeros(0, np.int16)
        self._since_ms: Ints = np.zeros(0, np.int64)
        self._standing: NDArray[np.int16] = np.zeros(0, np.int16)
        plain = AlarmSettings(True, rule.k, rule.n, rule.confidence, "high")
        self.add_scheme([None, *[plain] * (classes - 1)])

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        size = len(self._standing)
        if slots > size:
            grown = max(slots, 2 * size, 64) - size
            self._recent = np.concatenate([self._recent, np.zeros((grown, self._recent.shape[1]), np.int16)])
            self._schemes = np.concatenate([self._schemes, np.zeros(grown, np.int64)])
            self._agreed = np.concatenate([self._agreed, np.full(grown, NO_ALARM, np.int16)])
            self._since_ms = np.concatenate([self._since_ms, np.zeros(grown, np.int64)])
            self._standing = np.concatenate([self._standing, np.full(grown, NO_ALARM, np.int16)])

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        STEP_ALARMS.load(self._notify)

    def add_scheme(self, settings: Sequence[AlarmSettings | None]) -> int:
        """Take the settings of every class, None for one that has no alarm; returns the scheme's number."""
        rules = np.zeros((1, len(settings), 4), np.int64)
        limits = np.full((1, len(settings), 2), _NEVER_CONFIDENT, np.float32)
        rules[..., _AGREE], rules[..., _FRAMES] = self._rule.k, self._rule.n
        for index, one in enumerate(settings):
            if one is not None and one.alarm:
                rules[0, index] = one.agree, one.frames, one.on_delay_ms, one.off_delay_ms
                limits[0, index] = one.confidence, one.confidence - one.dead_band
        self._rules = np.concatenate([self._rules, rules])
        self._limits = np.concatenate([self._limits, limits])
        self._widen(int(rules[..., _FRAMES].max()))
        return len(self._rules) - 1

    def set_scheme(self, slot: int, scheme: int) -> None:
        """From here on a machine has these settings."""
        self._schemes[slot] = scheme

    def _widen(self, frames: int) -> None:
        missing = frames - self._recent.shape[1]
        if missing > 0:
            older = np.zeros((len(self._recent), missing), np.int16)
            self._recent = np.ascontiguousarray(np.concatenate([self._recent, older], axis=1))

    def step(self, slots: Ints, faults: Ints, confidence: Floats, end_ms: Ints) -> list[AlarmChange]:
        """Take one frame's answers (class 0 = normal; negative = no evidence) and return what changed."""
        changes = np.empty((len(slots), 2), np.int64)
        if not STEP_ALARMS.load(self._notify)(
            *(slots, faults, confidence, end_ms, self._schemes, self._rules, self._limits),
            *(self._recent, self._agreed, self._since_ms, self._standing, changes),
        ):
            return []
        return [
            AlarmChange(row, int(changes[row, raised]), raised=bool(raised))
            for raised in (0, 1)
            for row in np.flatnonzero(changes[:, raised] != NO_ALARM).tolist()
        ]

    def pending(self, slot: int) -> PendingChange | None:
        """The change that a delay holds back, if there is one."""
        if self._agreed[slot] == self._standing[slot]:
            return None
        return PendingChange(int(self._agreed[slot]), int(self._since_ms[slot]))

    def save(self, slots: Ints) -> list[bytes]:
        """Each machine's standing alarm and as many of its recent answers as its settings look at."""
        frames = np.maximum(self._rules[self._schemes[slots], :, _FRAMES].max(axis=1), self._rule.n).tolist()
        states = np.concatenate([self._standing[slots, None], self._recent[slots]], axis=1)
        return [state[: 1 + count].tobytes() for state, count in zip(states, frames, strict=True)]

    def load(self, slot: int, state: bytes, pending: PendingChange | None = None) -> None:
        """Put back what `save` and `pending` gave; raises StateError if it is none, or a class is unknown.

        Under other settings a machine may remember fewer answers than they look at; older ones count as normal.
        """
        column = np.frombuffer(state, np.int16) if len(state) % 2 == 0 else np.empty(0, np.int16)
        if len(column) < 2:
            raise StateError(f"saved alarm state has {len(state)} bytes, which is none")
        agreed = column[0] if pending is None else pending.fault
        if max(column.max(), agreed) >= self._rules.shape[1] or min(column[0], agreed) < NO_ALARM:
            raise StateError("saved alarm state names a fault that the model does not know")
        self._widen(len(column) - 1)
        self._standing[slot], self._recent[slot] = column[0], 0
        self._recent[slot, : len(column) - 1] = column[1:]
        self._agreed[slot], self._since_ms[slot] = agreed, 0 if pending is None else pending.since_ms

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self._standing[slot] = self._agreed[slot] = NO_ALARM
        self._recent[slot] = self._since_ms[slot] = self._schemes[slot] = 0
