"""What people do to alarms by control records, and what time does: the alarms of all machine types of a plant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from pipeline.alignment.machine_states import STATES, MachineState
from pipeline.config.profile import PlantProfile
from pipeline.engine.machines import Machine, MachineGroup
from pipeline.engine.reports.lifecycle.board import AlarmBoard, Published
from pipeline.engine.reports.lifecycle.controls import act_of, check_control, override_of, person_of
from pipeline.engine.stats import Outcome
from pipeline.wire.messages import Control
from pipeline.wire.records import Record

_LOOK_EVERY_MS: Final = 5_000
_LOOK_AT_ONE_OF: Final = 13
"""Which ticks look at alarms depends on nothing but their own time, so that a worker that has just been started looks
at the same ones; of ticks every five seconds it is one in 65 seconds."""

_SILENT: Final = tuple(STATES.index(state) for state in (MachineState.STALE, MachineState.OFFLINE))
_BLIND: Final = STATES.index(MachineState.BLIND)


class AlarmDesk:
    """Applies control records about alarms."""

    def __init__(self, profile: PlantProfile) -> None:
        """No machine type has alarms before it is attached."""
        self._faults = {machine_type.name: machine_type.faults for machine_type in profile.machine_types}
        self._boards: dict[str, AlarmBoard] = {}

    def attach(self, machine_type: str, board: AlarmBoard) -> None:
        """The alarms of a machine type."""
        self._boards[machine_type] = board

    def check(self, control: Control) -> None:
        """Raise RejectedError if a control record about alarms cannot be applied to any machine."""
        check_control(control, self._faults)

    def act(self, control: Control, record: Record, machine: Machine, outcome: Outcome) -> None:
        """Acknowledge, shelve, unshelve, suppress, unsuppress or comment on; raises RejectedError."""
        board = self._boards.get(machine.group.name)
        if board is None:
            return
        time_ms = _event_time_ms(machine, record.timestamp_ms)
        act = act_of(control, machine.name, board.settings(machine), time_ms)
        publish(board.act(machine, time_ms, person_of(control, record.timestamp_ms), act), outcome)

    def configure(self, control: Control, record: Record, machines: Iterable[Machine], outcome: Outcome) -> None:
        """Change settings for machines of a partition, and for those that come to it; raises RejectedError."""
        if not self._boards:
            return
        override = override_of(control, record.timestamp_ms, self._faults)
        by_type: dict[str, list[Machine]] = {name: [] for name in self._boards}
        for machine in machines:
            by_type[machine.group.name].append(machine)
        for name, board in self._boards.items():
            board.configure(override, by_type[name], record.partition)
        audited = next(iter(self._boards.values())).audit(override, record.partition, record.timestamp_ms)
        publish([audited], outcome)

    # -- time -------------------------------------------------------------------------------------------------

    def is_looking(self, now_ms: int, partition: int) -> bool:
        """Whether a tick at this time looks at alarms, so that it has to be applied in its place."""
        if now_ms // _LOOK_EVERY_MS % _LOOK_AT_ONE_OF:
            return False
        return any(board.needs_time(partition) for board in self._boards.values())

    def tick(self, now_ms: int, group: MachineGroup, machines: Sequence[Machine], outcome: Outcome) -> list[Machine]:
        """Time has passed for machines of one group; returns those whose alarms have changed."""
        board = self._boards.get(group.name)
        if not machines or board is None:
            return []
        states = group.aligner.states(np.array([machine.slot for machine in machines], np.int64)).tolist()
        changed = []
        for machine, state in zip(machines, states, strict=True):
            published = board.tick(now_ms, machine, silent=state in _SILENT, blind=state == _BLIND)
            if published:
                changed.append(machine)
                publish(published, outcome)
        return changed

    def announced(self, machine: Machine, start_ms: int, outcome: Outcome, *, offline: bool) -> None:
        """A silent machine has let a frame pass."""
        end_ms = start_ms + machine.group.machine_type.frame_period_ms
        publish(self._boards[machine.group.name].announced(machine, end_ms, offline=offline), outcome)

    def forget(self, machine: Machine, outcome: Outcome) -> None:
        """A machine is about to be forgotten."""
        if (board := self._boards.get(machine.group.name)) is not None:
            publish(board.forget(machine, _event_time_ms(machine, machine.last_ms)), outcome)

    def release(self, partitions: frozenset[int]) -> None:
        """These partitions now belong to another worker."""
        for board in self._boards.values():
            board.release(partitions)

    def active_for_ms(self) -> list[int]:
        """Of every alarm that is there, for how long in event time, as far as that is known."""
        return [age_ms for board in self._boards.values() for age_ms in board.active_for_ms()]


def publish(published: Iterable[Published], outcome: Outcome) -> None:
    """Add records of alarms to the outputs, and count them."""
    counts = outcome.stats.alarms
    for output, event in published:
        outcome.outputs.append(output)
        record = event.record
        counts.states[record.state] += 1
        counts.chatter += event.is_chatter
        if record.state == "raised" and record.suppressed is None:
            counts.note_raised(record.priority, record.time)
        if event.acknowledged_after_ms is not None:
            counts.note_acknowledged(event.acknowledged_after_ms)


def _event_time_ms(machine: Machine, otherwise_ms: int) -> int:
    """The end of a machine's newest frame; people may be of another time than its data."""
    end_ms = int(machine.group.aligner.handed_out_ms(np.array([machine.slot]))[0])
    return end_ms if end_ms >= 0 else otherwise_ms
