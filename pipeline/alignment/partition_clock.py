"""The clocks of partitions: how far the time stamps of their records have come, but for a single wild clock.

Silence is judged by these clocks, so one machine whose clock is ahead must not move them. A stamp no further ahead
than `lead_ms` moves the clock. One further ahead is a *jump*, and counts only
  - if most of the machines that are active by the clock have jumped as well (the whole plant had paused);
  - if no other machine is active by the clock; or
  - if the machine alone is heard for longer than `lead_ms`, no other one contradicting it.
A clock that a single machine has moved goes back as soon as another machine contradicts it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pipeline.arrays import Ints

_TICK: Final = b"\0tick"
"""Holds a clock that a tick has moved; no machine has such a key."""


@dataclass(slots=True)
class _Clock:
    now_ms: int
    holder: bytes | None = None  # the machine that alone has moved it ahead
    before_ms: int = -1  # where it was before that
    jumps: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # first since it was contradicted, and newest
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
        """The clock without what a single machine claims, for a state to be saved."""
        clock = self._clocks.get(partition)
        if clock is None:
            return None
        return clock.now_ms if clock.holder is None or clock.before_ms < 0 else clock.before_ms

    def restore(self, partition: int, now_ms: int) -> None:
        """A saved state knew that time had come so far."""
        clock = self._clocks.setdefault(partition, _Clock(now_ms))
        clock.now_ms = max(clock.now_ms, now_ms)

    def tick(self, partition: int, stamp_ms: int) -> None:
        """A record says that time has passed for the whole partition."""
        clock = self._clocks.setdefault(partition, _Clock(stamp_ms, _TICK))
        if stamp_ms > clock.now_ms + self._lead_ms:
            self._accept(clock, stamp_ms, _TICK)
        else:
            clock.now_ms = max(clock.now_ms, stamp_ms)

    def heard(self, partition: int, machine: bytes, stamp_ms: int) -> None:
        """A valid record of a machine has come."""
        clock = self._clocks.get(partition)
        if clock is None:
            self._clocks[partition] = _Clock(stamp_ms, machine)
        elif stamp_ms > clock.now_ms + self._lead_ms:
            self._jump(clock, partition, machine, stamp_ms)
        else:
            if clock.holder is not None and clock.holder != machine:
                if stamp_ms < clock.now_ms - self._lead_ms:
                    clock.jumps[clock.holder] = clock.now_ms, clock.now_ms
                    clock.now_ms = max(stamp_ms, clock.before_ms)
                clock.holder = None
            elif stamp_ms > clock.now_ms:
                clock.now_ms = stamp_ms
            if clock.jumps:
                self._contradict(clock, machine)

    def heard_all(self, partitions: list[int], machines: Sequence[bytes | None], stamps: Ints) -> None:
        """The same for many records, those of each machine in order."""
        column = np.array(partitions)
        for partition in set(partitions):
            own = np.flatnonzero(column == partition)
            clock = self._clocks.get(partition)
            if clock is not None and clock.holder is None and not clock.jumps:
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
            if clock.holder == machine and clock.before_ms >= 0:
                clock.now_ms, clock.holder = clock.before_ms, None

    def release(self, partitions: Iterable[int]) -> None:
        """Forget partitions that now belong to another worker."""
        for partition in partitions:
            self._clocks.pop(partition, None)

    def _contradict(self, clock: _Clock, machine: bytes) -> None:
        clock.jumps.pop(machine, None)
        for other, (_, newest_ms) in clock.jumps.items():
            clock.jumps[other] = newest_ms, newest_ms

    def _jump(self, clock: _Clock, partition: int, machine: bytes, stamp_ms: int) -> None:
        if clock.holder == machine:
            clock.now_ms = stamp_ms
            return
        is_new = machine not in clock.jumps
        first_ms = stamp_ms if is_new else clock.jumps[machine][0]
        clock.jumps[machine] = first_ms, stamp_ms
        if is_new:
            active = {name for name, newest in self._newest_of(partition) if newest >= clock.now_ms - self._lead_ms}
            clock.majority = len(active | clock.jumps.keys()) // 2 + 1
        others = len(clock.jumps) > 1
        if len(clock.jumps) >= clock.majority and (others or clock.majority == 1):
            reached = sorted((newest for _, newest in clock.jumps.values()), reverse=True)[clock.majority - 1]
            alone = None if others else machine
            self._accept(clock, reached, alone)
        elif stamp_ms - first_ms >= self._lead_ms:
            self._accept(clock, stamp_ms, machine)

    def _accept(self, clock: _Clock, stamp_ms: int, holder: bytes | None) -> None:
        clock.before_ms, clock.now_ms, clock.holder = clock.now_ms, stamp_ms, holder
        clock.jumps = {name: jump for name, jump in clock.jumps.items() if jump[1] > stamp_ms + self._lead_ms}
