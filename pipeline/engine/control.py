"""Control records: time passing, a machine's reset, its run's end, alarms; and how far each partition has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np

from pipeline.alignment.batches import Aligned
from pipeline.alignment.partition_clock import PartitionClocks
from pipeline.config.topics import CONTROL
from pipeline.engine.machines import Machine, MachineGroup, Machines
from pipeline.engine.reports.lifecycle.desk import AlarmDesk
from pipeline.engine.stats import Outcome
from pipeline.frames import Resets
from pipeline.wire import messages
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.records import Record

Advance = Callable[[MachineGroup, Aligned, Outcome], None]
"""Takes what alignment gave for a group."""

Announce = Callable[[Machine, int, bool, Outcome], None]
"""Takes the start of a frame that a silent machine let pass, and whether the machine is offline."""


_MIN_LEAD_MS = 1_000
OPERATOR_KINDS = frozenset(get_args(messages.OperatorKind))
"""What people do with alarms."""


class PartitionProgress:
    """Of each partition the clock and the last control record that was applied."""

    def __init__(self, machines: Machines) -> None:
        idle_after_ms = [limit for group in machines.groups.values() for limit in group.idle_after_ms]
        # So far a machine's clock may be ahead without making another one, that has just sent something, look silent.
        lead_ms = max(min(idle_after_ms) // 3, _MIN_LEAD_MS)
        self.clocks = PartitionClocks(lead_ms, machines.newest_in)
        self.controls: dict[int, int] = {}

    def release(self, partitions: frozenset[int]) -> None:
        """Forget partitions that now belong to another worker."""
        for partition in partitions:
            self.controls.pop(partition, None)
        self.clocks.release(partitions)


class Controller:
    """Reads and applies control records."""

    def __init__(
        self, machines: Machines, clocks: PartitionClocks, advance: Advance, announce: Announce, alarms: AlarmDesk
    ) -> None:
        self._alarms = alarms
        self._machines = machines
        self._clocks = clocks
        self._advance = advance
        self._announce = announce
        self._max_skew_ms = max(group.max_skew_ms for group in machines.groups.values())

    def read(self, record: Record) -> messages.Control:
        """The control message of a record; raises RejectedError."""
        if record.value is None:
            raise RejectedError(Reason.EMPTY, "the record has no value")
        control = messages.decode_control(record.value)
        if control.kind == "tick":
            if control.time is None:
                raise RejectedError(Reason.SCHEMA, "a tick needs a time")
            ahead = messages.parse_time_ms(control.time) - record.timestamp_ms
            if ahead > self._max_skew_ms:  # it would make every machine of the partition look silent
                raise RejectedError(Reason.FUTURE_TIME, f"a tick {ahead} ms ahead of its record's time stamp")
        elif control.kind in OPERATOR_KINDS:
            self._alarms.check(control)
        elif control.machine is None:
            raise RejectedError(Reason.SCHEMA, f"'{control.kind}' needs a machine")
        return control

    def is_idle_tick(self, control: messages.Control, partition: int) -> bool:
        """Whether a tick changes nothing, because every source has sent something lately.

        Most ticks are such; acting on each would cut the input into small batches.
        """
        if control.kind != "tick":
            return False
        assert control.time is not None
        now_ms = messages.parse_time_ms(control.time)
        if self._alarms.is_looking(now_ms, partition):
            return False
        for group in self._machines.groups.values():
            state_ttl_ms = group.machine_type.state_ttl_ms
            for machine in group.machines:
                if machine is None or machine.partition != partition:
                    continue
                if group.aligner.closes_by_time:
                    return False
                if now_ms - machine.last_ms > state_ttl_ms:
                    return False
                if group.aligner.has_announced_silence(machine.slot, max(machine.arrived_ms)):
                    continue
                for arrived_ms, limit_ms in zip(machine.arrived_ms, group.idle_after_ms, strict=True):
                    if now_ms - arrived_ms > limit_ms:
                        return False
        return True

    def apply(self, control: messages.Control, record: Record, outcome: Outcome) -> None:
        """Do what a control record asks for; raises RejectedError."""
        if control.kind == "tick":
            assert control.time is not None
            self._tick(messages.parse_time_ms(control.time), record, outcome)
            return
        if control.kind == "configure":
            self._configure(control, record, outcome)
            return
        assert control.machine is not None
        machine = self._machines.by_key.get(control.machine.encode())
        if machine is None and control.kind == "end":
            return  # a machine without a state has nothing to close
        before = self._machines.forgotten.get(control.machine)
        if before is not None and record.offset <= before.applied.get(CONTROL, -1):
            outcome.stats.skipped[CONTROL] += 1
            return
        if machine is None or machine.partition != record.partition:
            text = f"no machine {control.machine[:80]!r} is known in partition {record.partition}"
            raise RejectedError(Reason.UNKNOWN_MACHINE, text)
        if machine.has_applied(CONTROL, record.offset):
            outcome.stats.skipped[CONTROL] += 1
            return
        machine.applied[CONTROL] = record.offset
        self._machines.mark_changed([machine])
        if control.kind in OPERATOR_KINDS:
            self._alarms.act(control, record, machine, outcome)
            return
        slot, aligner = np.array([machine.slot]), machine.group.aligner
        is_ahead = self._is_ahead(machine)
        if control.kind == "end":
            self._advance(machine.group, aligner.finish(slot, Resets.RUN_END), outcome)
        elif control.kind == "reset":
            aligner.reset(slot, Resets.REQUESTED)
        if control.kind == "forget" or is_ahead:
            # What it still holds is of a time that was wrong, or of a machine that is gone: nothing more is closed.
            self._forget(machine, machine.applied, outcome)
            self._clocks.forget(machine.partition, machine.key)
            outcome.stats.forgotten += 1

    def _is_ahead(self, machine: Machine) -> bool:
        """Whether a machine's frames have closed for a time that has not come yet; only forgetting it would free it."""
        now_ms = self._clocks.now_ms(machine.partition)
        end_ms = machine.group.aligner.closed_until_ms(machine.slot)
        return now_ms is not None and end_ms - now_ms > machine.group.machine_type.blind_after_ms

    def _configure(self, control: messages.Control, record: Record, outcome: Outcome) -> None:
        """Settings of alarms change for all machines of the partition that they are for."""
        # Some restored states may have this record in them already, and others not.
        machines = [
            machine
            for machine in self._machines.by_key.values()
            if machine.partition == record.partition and not machine.has_applied(CONTROL, record.offset)
        ]
        self._alarms.configure(control, record, machines, outcome)
        for machine in machines:
            machine.applied[CONTROL] = record.offset
        self._machines.mark_changed(machines)

    def _forget(self, machine: Machine, applied: dict[str, int], outcome: Outcome) -> None:
        self._alarms.forget(machine, outcome)
        clocks, partition = self._clocks, machine.partition
        self._machines.evict(machine, applied, clocks.now_ms(partition), clocks.confirmed_ms(partition))

    def _tick(self, now_ms: int, record: Record, outcome: Outcome) -> None:
        """Time passes in a partition: what waits for silent sources closes, silent machines are announced."""
        for group in self._machines.groups.values():
            # Some restored states of the partition may have this tick in them already, and others not.
            machines = [
                machine
                for machine in group.present()
                if machine.partition == record.partition and not machine.has_applied(CONTROL, record.offset)
            ]
            state_ttl_ms = group.machine_type.state_ttl_ms
            expired = [machine for machine in machines if now_ms - machine.last_ms > state_ttl_ms]
            if expired:
                self._evict(group, expired, record.offset, outcome)
            slots = [machine.slot for machine in machines if group.machines[machine.slot] is machine]
            aligned, announced = group.aligner.tick(now_ms, np.array(slots, np.int64))
            self._advance(group, aligned, outcome)
            changed = {*aligned.moved, *(slot for slot, _, _ in announced)}
            self._machines.mark_changed(group.in_slots(np.array(sorted(changed), np.int64)))
            for slot, start_ms, offline in announced:
                silent = group.machines[slot]
                assert silent is not None
                self._announce(silent, start_ms, offline, outcome)
            if self._alarms.is_looking(now_ms, record.partition):
                present = [machine for machine in machines if group.machines[machine.slot] is machine]
                self._machines.mark_changed(self._alarms.tick(now_ms, group, present, outcome))

    def _evict(self, group: MachineGroup, machines: list[Machine], offset: int, outcome: Outcome) -> None:
        """Close what machines still hold and forget them, all together: after a flood of ids there may be many."""
        slots = np.array([machine.slot for machine in machines], np.int64)
        self._advance(group, group.aligner.finish(slots, Resets.RUN_END), outcome)
        for machine in machines:
            self._forget(machine, machine.applied | {CONTROL: offset}, outcome)
            outcome.stats.evicted += 1
