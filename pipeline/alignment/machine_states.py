"""How machines are: active, stale, offline, ahead of time, or blind (readings come, but say nothing of the present)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

from pipeline.alignment.slot_table import SlotTable
from pipeline.arrays import NEVER_MS, Ints


class MachineState(StrEnum):
    """How a machine is, as far as its sources tell."""

    ACTIVE = "active"
    STALE = "stale"
    """Silent for longer than its sources may be."""
    OFFLINE = "offline"
    """Silent for so long that its silence is announced to its end."""
    AHEAD = "ahead"
    """Its readings are of a time that has not come yet; once its clock is right, they will be late."""
    BLIND = "blind"
    """Readings come, but all are late, of an old time, or without a value that can be used."""


STATES: Final = tuple(MachineState)


def machine_states(table: SlotTable, slots: Ints, blind_after_ms: int) -> Ints:
    """Of each slot (n,) the index of its state in `STATES`.

    `blind_after_ms` is how much older than the newest arrival the newest evidence may be, and how much newer the newest
    reading.
    """
    arrived = table.arrived[slots].max(axis=1)
    told = table.evidence[slots]
    is_blind = (told != NEVER_MS) & (arrived - told > blind_after_ms)
    states = np.where(is_blind, STATES.index(MachineState.BLIND), STATES.index(MachineState.ACTIVE))
    is_ahead = table.newest[slots].max(axis=1) - arrived > blind_after_ms
    states = np.where(is_ahead, STATES.index(MachineState.AHEAD), states)
    is_silent = ~table.active[slots].any(axis=1)
    states = np.where(is_silent, STATES.index(MachineState.STALE), states)
    return np.where(table.offline[slots], STATES.index(MachineState.OFFLINE), states)


@dataclass(slots=True)
class PlantCondition:
    """How the machines of a plant are, counted."""

    by_state: Counter[MachineState] = field(default_factory=Counter)
    frozen: int = 0
    """Machines of which a value has not changed for too long to be believed."""
    oldest_frame_end_ms: dict[int, int] = field(default_factory=dict)
    """By partition, the end of the newest frame of the machine that is furthest behind; offline ones do not count."""

    def add(self, partitions: Ints, states: Ints, frozen: Ints, frame_end_ms: Ints) -> None:
        """Machines (n,): partition, index of the state, frozen values, end of the newest frame or negative."""
        for index, count in enumerate(np.bincount(states, minlength=len(STATES)).tolist()):
            self.by_state[STATES[index]] += count
        self.frozen += int((frozen > 0).sum())
        counts = (frame_end_ms >= 0) & (states != STATES.index(MachineState.OFFLINE))
        for partition in np.unique(partitions[counts]).tolist():
            oldest_ms = int(frame_end_ms[counts & (partitions == partition)].min())
            self.oldest_frame_end_ms[partition] = min(self.oldest_frame_end_ms.get(partition, oldest_ms), oldest_ms)
