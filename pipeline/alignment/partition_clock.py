"""The clocks of partitions: how far the time stamps of their records have come, but for a single wild clock.

Silence is judged by these clocks, so one machine whose clock is ahead must not move them. A stamp no further ahead
than `lead_ms` moves the clock. One further ahead is a *jump*, and counts only
  - if most of the machines that are active by the clock have jumped as well (the whole plant had paused);
  - if no other machine is active by the clock; or
  - if the machine alone is heard for longer than `lead_ms`, no other one contradicting it.
A clock that machines have moved so goes back if another machine contradicts them within the next `lead_ms`, or whenever
it does if a single one has: many may stand behind one gateway whose clock is wild. From then on their jumps count only
if nobody contradicts them for `lead_ms`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from pipeline.arrays import Ints

_TICK: Final = frozenset({b"\0tick"})
"""Have moved a clock if a tick has; no machine has such a key."""


class _Jump(NamedTuple):
    first_ms: int  # since it was contradicted
    newest_ms: int
    was_contradicted: bool = False

    def counts(self, lead_ms: int) -> bool:
        """Whether it is one of those that may be most of the machines."""
        return not self.was_contradicted or self.newest_ms - self.first_ms >= lead_ms


@dataclass(slots=True)
class _Clock:
    now_ms: int
    movers: frozenset[bytes] = frozenset()  # machines heard at a time to which it was moved, until that is certain
    moved_ms: int = -1  # that time
    against: frozenset[bytes] = frozenset()  # machines heard at an earlier time, where the first time is not certain
    before_ms: int = -1  # where it was before
    jumps: dict[bytes, _Jump] = field(default_factory=dict)
    majority: int = 0  # so many machines must have jumped; counted when the jumps of another machine began


class PartitionClocks:
    """One clock for each partition."""

    def __init__(self, lead_ms: int, newest_of: Callable[[int], Iterable[tuple[bytes, int]]]) -> None:
        """`newest_of` gives the machines of a partition, each with its newest time stamp."""
        self._lead_ms = lead_ms
        self._newest_of = newest_of
        self._clocks: dict[int, _Clock] = {}

    def now_ms(self, partition: int) -> int | None:
        """The clock of a partition, None before its first record."""
        clock = self._clocks.get(partition)
        return None if clock is None else clock.now_ms

    @property
    def partitions(self) -> frozenset[int]:
        """Those that have a clock."""
        return frozenset(self._clocks)

    def confirmed_ms(self, partition: int) -> int | None:
        """The clock without what no other machine has confirmed, for a state to be saved."""
        clock = self._clocks.get(partition)
        if clock is None:
            return None
        return clock.before_ms if clock.movers and clock.before_ms >= 0 else clock.now_ms

    def restore(self, partition: int, now_ms: int) -> None:
        """A saved state knew that time had come so far."""
        clock = self._clocks.setdefault(partition, _Clock(now_ms))
        clock.now_ms = max(clock.now_ms, now_ms)

    def tick(self, partition: int, stamp_ms: int) -> None:
        """A record says that time has passed for the whole partition."""
        clock = self._clocks.setdefault(partition, _Clock(stamp_ms, _TICK, stamp_ms))
        if stamp_ms > clock.now_ms + self._lead_ms:
            self._accept(clock, stamp_ms, _TICK)
        else:
            clock.now_ms = max(clock.now_ms, stamp_ms)

    def heard(self, partition: int, machine: bytes, stamp_ms: int) -> None:
        """A valid record of a machine has come."""
        clock = self._clocks.get(partition)
        if clock is None:
            self._clocks[partition] = _Clock(stamp_ms, frozenset({machine}), stamp_ms)
        elif stamp_ms > clock.now_ms + self._lead_ms:
            self._jump(clock, partition, machine, stamp_ms)
        else:
            is_near = stamp_ms >= clock.now_ms - self._lead_ms
            if not clock.movers or is_near or (machine in clock.movers and len(clock.movers) > 1):
                clock.now_ms = max(clock.now_ms, stamp_ms)
                if clock.movers:
                    self._confirm(clock, machine)
            elif _is_refuted(clock, machine, stamp_ms):
                clock.jumps |= {mover: _Jump(clock.now_ms, clock.now_ms, True) for mover in clock.movers}
                clock.now_ms = max(stamp_ms, clock.before_ms)
                clock.movers = clock.against = frozenset()
            if clock.jumps:
                _contradict(clock, machine, stamp_ms)

    def heard_all(self, partitions: list[int], machines: Sequence[bytes | None], stamps: Ints) -> None:
        """The same for many records, those of each machine in order."""
        column = np.array(partitions)
        for partition in set(partitions):
            own = np.flatnonzero(column == partition)
            clock = self._clocks.get(partition)
            if clock is not None and not clock.movers and not clock.jumps:
                running = np.maximum.accumulate(np.append(clock.now_ms, stamps[own]))
                if int(np.diff(running).max()) <= self._lead_ms:
                    clock.now_ms = int(running[-1])
                    continue
            for at in own.tolist():
                self.heard(partition, machines[at] or b"", int(stamps[at]))

    def forget(self, partition: int, machine: bytes) -> None:
        """What a machine has claimed does not count any more."""
        clock = self._clocks.get(partition)
        if clock is not None:
            clock.jumps.pop(machine, None)
            if clock.movers == {machine} and clock.before_ms >= 0:
                clock.now_ms, clock.movers = clock.before_ms, frozenset()
            clock.movers -= {machine}

    def release(self, partitions: Iterable[int]) -> None:
        """Forget partitions that now belong to another worker."""
        for partition in partitions:
            self._clocks.pop(partition, None)

    def _jump(self, clock: _Clock, partition: int, machine: bytes, stamp_ms: int) -> None:
        if clock.movers == {machine}:
            clock.now_ms = stamp_ms
            return
        before = clock.jumps.get(machine)
        jump = clock.jumps[machine] = (before or _Jump(stamp_ms, stamp_ms))._replace(newest_ms=stamp_ms)
        if before is None:
            active = {name for name, newest in self._newest_of(partition) if newest >= clock.now_ms - self._lead_ms}
            clock.majority = len(active | clock.jumps.keys()) // 2 + 1
        agreed = {name: jump for name, jump in clock.jumps.items() if jump.counts(self._lead_ms)}
        others = len(agreed) > 1
        if len(agreed) >= clock.majority and (others or clock.majority == 1):
            reached = sorted((jump.newest_ms for jump in agreed.values()), reverse=True)[clock.majority - 1]
            self._accept(clock, reached, frozenset(agreed))
        elif stamp_ms - jump.first_ms >= self._lead_ms:
            self._accept(clock, stamp_ms, frozenset({machine}))

    def _confirm(self, clock: _Clock, machine: bytes) -> None:
        clock.movers |= {machine}
        if len(clock.movers) > 1 and (clock.movers > _TICK or clock.now_ms - clock.moved_ms >= self._lead_ms):
            clock.movers = clock.against = frozenset()

    def _accept(self, clock: _Clock, stamp_ms: int, movers: frozenset[bytes]) -> None:
        clock.before_ms, clock.now_ms, clock.moved_ms, clock.movers = clock.now_ms, stamp_ms, stamp_ms, movers
        clock.jumps = {name: jump for name, jump in clock.jumps.items() if jump.newest_ms > stamp_ms + self._lead_ms}


def _is_refuted(clock: _Clock, machine: bytes, stamp_ms: int) -> bool:
    """Whether a machine that lags behind takes back what moved the clock.

    It lives in the time before, and not in one long ago. If there was none before, half as many have to say so. A
    machine that has moved the clock alone may take that back itself.
    """
    if clock.movers == {machine}:
        return True
    if clock.before_ms >= 0:
        return len(clock.movers) == 1 or abs(stamp_ms - clock.before_ms) < clock.now_ms - clock.before_ms
    clock.against |= {machine}
    return 2 * len(clock.against) >= len(clock.movers)


def _contradict(clock: _Clock, machine: bytes, stamp_ms: int) -> None:
    """A machine lives nearer to the clock than to where others have jumped."""
    clock.jumps.pop(machine, None)
    for other, jump in clock.jumps.items():
        if clock.now_ms - stamp_ms < jump.newest_ms - clock.now_ms:
            clock.jumps[other] = _Jump(jump.newest_ms, jump.newest_ms, True)
