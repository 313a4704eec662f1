"""Readings that wait for their frame to close: one growing table of rows, chained machine by machine."""

from __future__ import annotations

import numpy as np

from pipeline.arrays import Ints, Matrix

_NONE = -1


class RowStore:
    """Rows of V values with a time, in a free-list; each machine's rows form a chain from its newest to its oldest.

    Adding and taking work on whole columns, whatever the number of machines; memory follows what is waiting, not
    what one machine might need.
    """

    def __init__(self, variables: int) -> None:
        self._values: Matrix = np.empty((0, variables))
        self._time: Ints = np.empty(0, np.int64)
        self._serial: Ints = np.empty(0, np.int64)  # arrival order
        self._older: Ints = np.empty(0, np.int64)  # next row of the chain
        self._free: Ints = np.empty(0, np.int64)  # stack of unused rows
        self._free_count = 0
        self._head: Ints = np.empty(0, np.int64)
        self._count: Ints = np.empty(0, np.int64)
        self._next_serial = 0

    def reserve_machines(self, size: int) -> None:
        """Make room for this many machines."""
        grown = size - len(self._head)
        if grown > 0:
            self._head = np.append(self._head, np.full(grown, _NONE))
            self._count = np.append(self._count, np.zeros(grown, np.int64))

    def could_overflow(self, slots: Ints, limit: int) -> bool:
        """Whether these rows, were nothing taken in between, might exceed a machine's limit."""
        largest = int(self._count[slots].max())
        return largest + len(slots) > limit and bool((self._count[slots] + np.bincount(slots)[slots] > limit).any())

    def add(self, slots: Ints, times: Ints, values: Matrix, limit: int) -> Ints:
        """Store rows, given grouped by slot and in arrival order within one; returns the refused rows' positions."""
        if not len(slots):
            return np.empty(0, np.int64)
        refused = np.empty(0, np.int64)
        first = np.empty(len(slots), np.bool_)
        first[0] = True
        first[1:] = slots[1:] != slots[:-1]
        starts = np.flatnonzero(first)
        members = np.diff(np.append(starts, len(slots)))
        nth = np.arange(len(slots)) - np.repeat(starts, members) + self._count[slots]
        if int(nth.max()) >= limit:
            fits = nth < limit
            refused = np.flatnonzero(~fits)
            self.add(slots[fits], times[fits], values[fits], limit)
            return refused
        rows = self._allocate(len(slots))
        self._values[rows] = values
        self._time[rows] = times
        self._serial[rows] = self._next_serial + np.arange(len(rows))
        self._next_serial += len(rows)
        self._older[rows[1:]] = rows[:-1]
        self._older[rows[starts]] = self._head[slots[starts]]
        self._head[slots[starts]] = rows[starts + members - 1]
        self._count[slots[starts]] += members
        return refused

    def take_until(self, slots: Ints, closed_ms: Ints, period_ms: int) -> tuple[Ints, Ints, Matrix]:
        """Remove the rows of frames that end by each slot's `closed_ms`.

        Returns `(slot, time, values)` sorted by slot, time and arrival.
        """
        rows, owner = self._chain(slots)
        done = (self._time[rows] // period_ms + 1) * period_ms <= closed_ms[owner]
        left_rows, left_owner = rows[~done], owner[~done]
        rows, owner = rows[done], owner[done]
        if len(rows):
            self._rechain(slots, left_rows, left_owner)
        order = np.lexsort((self._serial[rows], self._time[rows], owner))
        rows = rows[order]
        taken = slots[owner[order]], self._time[rows], self._values[rows]
        self._release(rows)
        return taken

    def of_machines(self, slots: Ints) -> list[tuple[Ints, Matrix]]:
        """Times and values of each machine's rows, in arrival order."""
        rows, owner = self._chain(slots)
        rows = rows[np.lexsort((self._serial[rows], owner))]
        bounds = np.cumsum(np.bincount(owner, minlength=len(slots)))[:-1]
        return list(zip(np.split(self._time[rows], bounds), np.split(self._values[rows], bounds), strict=True))

    def drop(self, slot: int) -> None:
        """Forget a machine's rows."""
        rows, _ = self._chain(np.array([slot]))
        self._head[slot], self._count[slot] = _NONE, 0
        self._release(rows)

    def __len__(self) -> int:
        return len(self._time) - self._free_count

    def _chain(self, slots: Ints) -> tuple[Ints, Ints]:
        """All rows of these slots, and for each the index of its slot in `slots`."""
        rows, owners = [], []
        row, owner = self._head[slots], np.arange(len(slots))
        while True:
            alive = row != _NONE
            if not alive.all():
                row, owner = row[alive], owner[alive]
            if not len(row):
                break
            rows.append(row)
            owners.append(owner)
            row = self._older[row]
        if not rows:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return np.concatenate(rows), np.concatenate(owners)

    def _rechain(self, slots: Ints, rows: Ints, owner: Ints) -> None:
        self._head[slots] = _NONE
        self._count[slots] = np.bincount(owner, minlength=len(slots))
        if not len(rows):
            return
        order = np.lexsort((self._serial[rows], owner))
        rows, owner = rows[order], owner[order]
        self._older[rows[1:]] = rows[:-1]
        starts = np.flatnonzero(np.diff(owner, prepend=-1))
        self._older[rows[starts]] = _NONE
        ends = np.append(starts[1:], len(rows)) - 1
        self._head[slots[owner[ends]]] = rows[ends]

    def _allocate(self, count: int) -> Ints:
        if self._free_count < count:
            old = len(self._time)
            size = max(2 * old, old + count, 1024)
            values = np.empty((size, self._values.shape[1]))
            values[:old] = self._values
            self._values = values
            self._time, self._serial, self._older = (
                np.append(column, np.zeros(size - old, np.int64)) for column in (self._time, self._serial, self._older)
            )
            free = np.empty(size, np.int64)
            free[: self._free_count] = self._free[: self._free_count]
            free[self._free_count : self._free_count + size - old] = np.arange(size - 1, old - 1, -1)
            self._free = free
            self._free_count += size - old
        self._free_count -= count
        return self._free[self._free_count : self._free_count + count].copy()

    def _release(self, rows: Ints) -> None:
        self._free[self._free_count : self._free_count + len(rows)] = rows
        self._free_count += len(rows)
