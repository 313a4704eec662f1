"""Machines as their saved states say: how each is, what it last sent, and up to where it is diagnosed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.alignment.machine_states import STATES, MachineState, machine_states
from pipeline.alignment.slot_table import SlotTable
from pipeline.config.profile import MachineType, PlantProfile
from pipeline.errors import ProfileError, StateError
from pipeline.wire.states import Forgotten, SavedMachine, decode_state

_WORST_FIRST = (MachineState.BLIND, MachineState.AHEAD, MachineState.OFFLINE, MachineState.STALE, MachineState.ACTIVE)


@dataclass(frozen=True, slots=True)
class MachineSummary:
    """One machine at its last checkpoint; times are milliseconds, None where there is none."""

    machine: str
    type: str
    partition: int
    state: str
    newest_reading_ms: int | None
    """Time inside its newest reading."""
    last_record_ms: int
    """Kafka time stamp of its newest record."""
    diagnosed_until_ms: int | None
    frozen: int
    """Values that have not changed for too long to be believed."""
    arrived_ms: Mapping[str, int]
    """By source, Kafka time stamp of its newest reading."""
    newest_ms: Mapping[str, int]
    """By source, time inside its newest reading."""
    silent_sources: Sequence[str]
    """Sources that have sent nothing for longer than they may."""
    watermark_ms: int | None
    """Up to where no more readings are expected; None where frames close by time alone."""
    closed_until_ms: int | None
    """Up to where its frames have closed: older readings are late."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def summarize_machines(
    states: Mapping[str, bytes], profile: PlantProfile
) -> tuple[list[MachineSummary], dict[str, str]]:
    """The machines that have a state, worst first; and of those whose state cannot be read, why."""
    found, unreadable = [], {}
    for name, state in states.items():
        try:
            saved = decode_state(name, state)
            if not isinstance(saved, Forgotten):
                found.append(_summary(saved, profile.machine_type(saved.type)))
        except (ProfileError, StateError, KeyError, ValueError, AssertionError) as error:
            unreadable[name] = str(error)
    ranks = {state.value: rank for rank, state in enumerate(_WORST_FIRST)}
    found.sort(key=lambda one: (ranks[one.state], one.diagnosed_until_ms or 0, one.machine))
    return found, unreadable


def _summary(saved: SavedMachine, machine_type: MachineType) -> MachineSummary:
    names = machine_type.source_names
    table = SlotTable.blank(1, len(names), len(machine_type.variables))
    table.load(0, saved.aligner)
    slot = np.zeros(1, np.int64)
    state = STATES[int(machine_states(table, slot, machine_type.blind_after_ms)[0])]
    newest, until = int(table.newest[0].max()), int(table.next[0])
    seen = table.seen[0].tolist()
    return MachineSummary(
        machine=saved.machine,
        type=machine_type.name,
        partition=saved.partition,
        state=state.value,
        newest_reading_ms=newest if newest >= 0 else None,
        last_record_ms=saved.last,
        diagnosed_until_ms=until if until >= 0 else None,
        frozen=int(table.frozen[0]),
        arrived_ms={name: saved.arrived[index] for index, name in enumerate(names) if seen[index]},
        newest_ms={name: int(table.newest[0, index]) for index, name in enumerate(names) if seen[index]},
        silent_sources=[name for index, name in enumerate(names) if seen[index] and not table.active[0, index]],
        watermark_ms=_watermark_ms(table, machine_type),
        closed_until_ms=int(table.closed[0]) if table.closed[0] >= 0 else None,
    )


def _watermark_ms(table: SlotTable, machine_type: MachineType) -> int | None:
    """The oldest of the watermarks of the sources that hold frames back now."""
    watermarks = [
        int(table.newest[0, index]) - source.allowed_disorder_ms
        for index, source in enumerate(machine_type.sources.values())
        if source.holds_frames and table.active[0, index] and table.newest[0, index] >= 0
    ]
    return None if machine_type.closes_by_time or not watermarks else min(watermarks)
