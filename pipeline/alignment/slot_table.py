"""The table of what alignment keeps of each machine besides its waiting readings and texts: one row per slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import NEVER_MS, Bools, Floats, Ints
from pipeline.frames import Resets

_RESETS = frozenset(Resets)
_LAST_MS = 2**43
"""Behind the end of every frame of a time on the wire."""

_ADDED = frozenset({"changed_ms", "evidence", "frozen", "heard_ms"})
"""Columns that states of the first version lack."""


@dataclass(slots=True)
class SlotTable:
    """Times are milliseconds, negative before the first. Saved states have the columns by these names."""

    newest: Ints  # (slots, sources) newest event time
    arrived: Ints  # (slots, sources) newest arrival
    active: Bools  # (slots, sources) not idle
    seen: Bools  # (slots, sources) has sent anything
    closed: Ints  # (slots,) up to where frames have closed
    next: Ints  # (slots,) first frame that has not been handed out
    data: Ints  # (slots,) newest frame with a reading
    announced: Ints  # (slots,) up to where silence has been announced
    offline: Bools  # (slots,) it has been announced to its end
    reset: Ints  # (slots,) why the next frame resets the state, as Resets
    value: Floats  # (slots, V) last known value
    value_ms: Ints  # (slots, V) and when it was measured
    heard_ms: Ints  # (slots, V) and when its source last told of it, though it be that it has not changed
    changed_ms: Ints  # (slots, V) and since when it is the same
    evidence: Ints  # (slots,) end of the newest frame with an observed value; the first arrival before that
    frozen: Ints  # (slots,) how many values of its newest frame count as frozen

    @classmethod
    def blank(cls, slots: int, sources: int, variables: int) -> SlotTable:
        """Slots of machines of which nothing has come."""
        return cls(
            newest=np.full((slots, sources), -1, np.int64),
            arrived=np.full((slots, sources), NEVER_MS, np.int64),
            active=np.ones((slots, sources), np.bool_),
            seen=np.zeros((slots, sources), np.bool_),
            closed=np.full(slots, -1, np.int64),
            next=np.full(slots, -1, np.int64),
            data=np.full(slots, -1, np.int64),
            announced=np.full(slots, -1, np.int64),
            offline=np.zeros(slots, np.bool_),
            reset=np.full(slots, Resets.START, np.int64),
            value=np.full((slots, variables), np.nan, np.float32),
            value_ms=np.full((slots, variables), NEVER_MS, np.int64),
            heard_ms=np.full((slots, variables), NEVER_MS, np.int64),
            changed_ms=np.full((slots, variables), NEVER_MS, np.int64),
            evidence=np.full(slots, NEVER_MS, np.int64),
            frozen=np.zeros(slots, np.int64),
        )

    def __len__(self) -> int:
        return len(self.closed)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """All columns by name, in a fixed order."""
        return {column.name: getattr(self, column.name) for column in fields(self)}

    def grown(self, slots: int) -> SlotTable:
        """A larger table that begins with these slots."""
        larger = SlotTable.blank(slots, self.newest.shape[1], self.value.shape[1])
        own = self.columns()
        for name, column in larger.columns().items():
            column[: len(self)] = own[name]
        return larger

    def clear(self, slot: int, blank: SlotTable) -> None:
        """Make a slot blank, like the first one of `blank`."""
        blank_columns = blank.columns()
        for name, column in self.columns().items():
            column[slot] = blank_columns[name][0]

    def save(self, slots: Ints) -> list[dict[str, object]]:
        """Each slot's row as bytes, by column."""
        states: list[dict[str, object]] = [{} for _ in slots]
        for name, column in self.columns().items():
            raw = column[slots].tobytes()
            size = len(raw) // len(slots)
            for index, state in enumerate(states):
                state[name] = raw[index * size : (index + 1) * size]
        return states

    def load(self, slot: int, state: Mapping[str, object]) -> None:
        """Put back what `save` gave; raises KeyError, ValueError or AssertionError if it does not fit."""
        for name, column in self.columns().items():
            raw = state.get(name) if name in _ADDED else state[name]
            if raw is None:
                continue  # what an older version did not keep begins now
            assert isinstance(raw, bytes)
            column[slot] = np.frombuffer(raw, column.dtype).reshape(column.shape[1:])
        if "heard_ms" not in state:
            self.heard_ms[slot] = self.value_ms[slot]
        if "evidence" not in state:
            self.evidence[slot] = self.arrived[slot].max()
        self._check(slot)

    def _check(self, slot: int) -> None:
        """Raise ValueError if a column holds what cannot be."""
        for name, column in self.columns().items():
            row = column[slot]
            if row.dtype == np.int64 and (row.size and (row.min() < NEVER_MS or row.max() > -NEVER_MS)):
                raise ValueError(f"{name} holds no time")
        if self.reset[slot] not in _RESETS or not 0 <= self.frozen[slot] <= self.value.shape[1]:
            raise ValueError("reset or frozen is out of range")
        if max(self.closed[slot], self.next[slot], self.data[slot], self.newest[slot].max()) > _LAST_MS:
            raise ValueError("a frame or a reading lies behind the end of time")
