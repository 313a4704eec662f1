"""The machines that have a state: all of a plant by key, those of each type in slots."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pipeline.alignment.aligner import Aligner
from pipeline.alignment.machine_states import PlantCondition
from pipeline.alignment.value_rules import ValueRules
from pipeline.arrays import NEVER_MS, Ints, Matrix
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType, PlantProfile, Source
from pipeline.engine.diagnoses import RememberedText
from pipeline.wire import messages
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.readings import Given, Unused, UnusedValue, ValueReason
from pipeline.wire.records import Record
from pipeline.wire.states import Forgotten

EVIDENCE_TEXTS = 8
"""Texts of a machine that its diagnoses can show as evidence."""

MAX_MACHINE_ID = 200

_REWRITTEN = "`faultline ingest` keys and places such records (docs/guide/connecting.md)"


class AppliedError(Exception):
    """The record is older than the point up to which its forgotten machine had been processed."""


@dataclass(slots=True)
class Machine:
    """One machine of which a valid record has come."""

    name: str
    key: bytes
    quoted: bytes  # the name as JSON has it between its quotes
    group: MachineGroup
    slot: int
    partition: int
    last_ms: int  # time stamp of its newest record
    arrived_ms: list[int]  # by source, time stamp of its newest reading
    applied: dict[str, int] = field(default_factory=dict)  # topic -> last offset whose effect is in the state
    texts: deque[RememberedText] = field(default_factory=lambda: deque(maxlen=EVIDENCE_TEXTS))

    def has_applied(self, topic: str, offset: int) -> bool:
        """Whether the effect of a record is in the state already."""
        return offset <= self.applied.get(topic, -1)

    def apply(self, topic: str, offset: int, stamp_ms: int, source: int | None = None) -> None:
        """The effect of a topic's records up to this one is in the state; `source` if they are readings of one."""
        self.applied[topic] = offset
        if stamp_ms > self.last_ms:
            self.last_ms = stamp_ms
        if source is not None and stamp_ms > self.arrived_ms[source]:
            self.arrived_ms[source] = stamp_ms


def is_machine_id(name: str) -> bool:
    """Whether a machine may have this id."""
    return 0 < len(name) <= MAX_MACHINE_ID and name.isprintable()


Row = list[float | None]
"""One reading's values in all columns of a machine type."""

_STRICT = {
    ValueReason.NOT_A_NUMBER: Reason.NOT_A_NUMBER,
    ValueReason.NOT_FINITE: Reason.NOT_FINITE,
    ValueReason.BAD_QUALITY: Reason.NOT_A_NUMBER,
}


class SourceColumns:
    """Where the values of one source belong among all variables of a machine type."""

    def __init__(
        self, index: int, columns: Mapping[str, int], tags: Mapping[str, int], width: int, source: Source
    ) -> None:
        """`columns` by the names of this source's variables, `tags` by what they are called in its records."""
        self.index = index
        self.length = len(columns)
        self._by_name = {**columns, **tags}
        self._names = list(columns)
        self._columns = list(columns.values())
        self.width = width
        self._strict = source.strict
        self.has_one_value = source.has_one_value
        self.on_change = source.on_change
        tag_of = {column: tag for tag, column in tags.items()}
        self.sent_names = tuple(tag_of.get(column, name) for name, column in columns.items())
        """What the variables are called in records."""

    def may_ignore(self, names: Iterable[str]) -> bool:
        """Whether values of these names, which are not among `sent_names`, need no closer look."""
        return not names or (not self._strict and not any(name in self._by_name for name in names))

    def row(self, values: list[Given] | dict[str, Given], topic: str, unused: list[UnusedValue]) -> Row | None:
        """One reading as a full row, NaN for other sources' variables and None for nulls; raises RejectedError.

        Values that cannot be used are None, and added to `unused`. None if there are only values of unknown variables.
        """
        if type(values) is list:
            if len(values) != self.length:
                text = f"{len(values)} values; {topic} has {self.length} variables"
                raise RejectedError(Reason.WRONG_LENGTH, text)
            if self.length == self.width and Unused not in set(map(type, values)):
                return values  # type: ignore[return-value]
            values = dict(zip(self._names, values, strict=True))
        assert type(values) is dict
        row: Row = [math.nan] * self.width
        found = not values
        for name, value in values.items():
            column = self._by_name.get(name)
            if column is None:
                unused.append(self._unused(name, Unused(ValueReason.UNKNOWN_VARIABLE, name), topic))
                continue
            found = True
            if type(value) is Unused:
                unused.append(self._unused(self._names[self._columns.index(column)], value, topic))
                value = None
            row[column] = value  # type: ignore[assignment]
        return row if found else None

    def _unused(self, name: str, value: Unused, topic: str) -> UnusedValue:
        """Raises RejectedError where the source is strict."""
        if self._strict:
            if value.reason == ValueReason.UNKNOWN_VARIABLE:
                raise RejectedError(Reason.UNKNOWN_VARIABLE, f"{topic} has no {name[:200]}")
            raise RejectedError(_STRICT[value.reason], f"{name} is {value.given}")
        return UnusedValue(name, value.reason)

    def rows(self, values: Matrix) -> Matrix:
        """Readings in list form (n, this source's variables) as full rows (n, V), NaN elsewhere."""
        if self.length == self.width:
            return values
        rows = np.full((len(values), self.width), np.nan)
        rows[:, self._columns] = values
        return rows


def source_columns(machine_type: MachineType) -> dict[str, SourceColumns]:
    """By topic, where the values of each source of a machine type belong."""
    columns = {}
    for index, name in enumerate(machine_type.source_names):
        own = {v.name: column for column, v in enumerate(machine_type.variables) if v.source == name}
        tags = {v.tag: own[v.name] for v in machine_type.variables if v.source == name and v.tag is not None}
        source = machine_type.sources[name]
        columns[source.topic] = SourceColumns(index, own, tags, len(machine_type.variables), source)
    return columns


class SlotStates(Protocol):
    """Something that keeps a state per machine, in the slots of its group."""

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""

    def drop(self, slot: int) -> None:
        """Forget a machine; its slot can serve another."""


class MachineGroup:
    """All machines of one type; each has the same slot in everything that keeps a state of them."""

    def __init__(self, machine_type: MachineType, notify: Notify) -> None:
        self.machine_type = machine_type
        self.name = machine_type.name
        self.digest = machine_type.digest
        self.aligner = Aligner(machine_type, notify)
        self.value_rules = ValueRules(machine_type, notify)
        self.machines: list[Machine | None] = []
        self.width = len(machine_type.variables)
        self.max_skew_ms = machine_type.max_skew_ms
        self.idle_after_ms = [machine_type.idle_after_ms(name) for name in machine_type.source_names]
        self.sources = source_columns(machine_type)
        self._free: list[int] = []
        self._last_round: tuple[Ints, list[Machine]] = np.empty(0, np.int64), []
        self._states: list[SlotStates] = [self.aligner]

    def attach(self, states: SlotStates) -> None:
        """Let the group's slots reserve and drop states there too."""
        states.reserve(len(self.machines))
        self._states.append(states)

    def add(self, name: str, partition: int, last_ms: int) -> Machine:
        """Give a machine a slot."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = len(self.machines)
            self.machines.append(None)
            for states in self._states:
                states.reserve(slot + 1)
        machine = self.machines[slot] = Machine(
            name, name.encode(), messages.quoted(name), self, slot, partition, last_ms, [last_ms] * len(self.sources)
        )
        return machine

    def remove(self, machine: Machine) -> None:
        """Forget a machine and free its slot."""
        self._last_round = np.empty(0, np.int64), []
        for states in self._states:
            states.drop(machine.slot)
        self.machines[machine.slot] = None
        self._free.append(machine.slot)

    def in_slots(self, slots: Ints) -> list[Machine]:
        """The machines in slots that are taken; the same list as for the last round if that had the same slots."""
        last_slots, last_machines = self._last_round
        if np.array_equal(slots, last_slots):
            return last_machines
        machines = [machine for slot in slots.tolist() if (machine := self.machines[slot]) is not None]
        self._last_round = slots, machines
        return machines

    def present(self) -> list[Machine]:
        """All machines that the group has now, in the order of their slots."""
        return [machine for machine in self.machines if machine is not None]


class Machines:
    """All machines of a plant, and what is left of those that were forgotten."""

    def __init__(self, profile: PlantProfile, partition_of: Callable[[bytes], int] | None, notify: Notify) -> None:
        """`partition_of` detects keys in the wrong partition; None accepts all."""
        self._profile = profile
        self._partition_of = partition_of
        self.groups = {machine_type.name: MachineGroup(machine_type, notify) for machine_type in profile.machine_types}
        self.by_key: dict[bytes, Machine] = {}
        self.changed: dict[bytes, Machine] = {}  # since the last checkpoint
        self.forgotten: dict[str, Forgotten] = {}  # until their last records are committed
        self.evicted: set[str] = set()  # forgotten since the last checkpoint

    def find_or_add(self, record: Record, name: str) -> Machine:
        """The machine that a record is about; a new one gets a slot. Raises RejectedError or AppliedError."""
        key = record.key
        machine = self.by_key.get(key) if key is not None else None
        if machine is not None and machine.name == name:
            if machine.partition != record.partition:
                text = f"machine {name[:80]} lives in partition {machine.partition}, this is {record.partition}"
                raise RejectedError(Reason.WRONG_PARTITION, f"{text}; {_REWRITTEN}")
            return machine
        machine_type = self._type_of_new(record, name)
        before = self.forgotten.get(name)
        if before is not None and record.offset <= before.applied.get(record.topic, -1):
            raise AppliedError
        machine = self.groups[machine_type.name].add(name, record.partition, record.timestamp_ms)
        if before is not None:
            machine.applied.update(before.applied)
            machine.group.aligner.begin_after(machine.slot, before.closed)
        self.by_key[machine.key] = machine
        return machine

    def _type_of_new(self, record: Record, name: str) -> MachineType:
        """The type of a machine that has no state yet; raises RejectedError if the record cannot be its first."""
        key = record.key
        if key is None or key != name.encode(errors="replace"):
            given = "no key" if key is None else repr(key[:80])
            raise RejectedError(Reason.KEY_MISMATCH, f"the record is about {name[:80]!r} but has {given}; {_REWRITTEN}")
        if not is_machine_id(name):
            raise RejectedError(
                Reason.UNKNOWN_MACHINE, f"{name[:80]!r} is not a machine id of 1 to 200 printable characters"
            )
        if self._partition_of is not None and (right := self._partition_of(key)) != record.partition:
            text = (
                f"key {name[:80]!r} belongs to partition {right} by murmur2, this is {record.partition}; {_REWRITTEN}"
            )
            raise RejectedError(Reason.WRONG_PARTITION, text)
        machine_type = self._profile.type_of(name)
        if machine_type is None:
            raise RejectedError(
                Reason.UNKNOWN_MACHINE, f"no machine type of plant {self._profile.plant} matches {name[:80]!r}"
            )
        return machine_type

    def newest_in(self, partition: int) -> list[tuple[bytes, int]]:
        """Key and newest time stamp of each machine in a partition."""
        return [(key, machine.last_ms) for key, machine in self.by_key.items() if machine.partition == partition]

    def condition(self) -> PlantCondition:
        """How all machines are, counted."""
        condition = PlantCondition()
        for group in self.groups.values():
            if machines := group.present():
                slots = np.array([machine.slot for machine in machines])
                partitions = np.array([machine.partition for machine in machines])
                aligner = group.aligner
                condition.add(partitions, aligner.states(slots), aligner.frozen(slots), aligner.handed_out_ms(slots))
        return condition

    def mark_changed(self, machines: Iterable[Machine]) -> None:
        """The next checkpoint has to save these."""
        for machine in machines:
            self.changed[machine.key] = machine

    def forget(self, name: str) -> None:
        """Drop a machine and its state, if it has one."""
        machine = self.by_key.pop(name.encode(), None)
        self.changed.pop(name.encode(), None)
        if machine is not None:
            machine.group.remove(machine)

    def forget_if_new(self, record: Record) -> None:
        """Drop the machine of a rejected record if no other record has had an effect on it."""
        machine = self.by_key.get(record.key)  # type: ignore[arg-type]
        if machine is None:
            return
        before = self.forgotten.get(machine.name)
        if machine.applied == ({} if before is None else before.applied):
            self.forget(machine.name)

    def evict(self, machine: Machine, applied: dict[str, int], now_ms: int | None, confirmed_ms: int | None) -> None:
        """Drop a machine; that its records are applied and its frames closed stays known for a while.

        If its own clock was far ahead of the partition's, its frames count as closed no further than that has come:
        `now_ms`, of which others have confirmed `confirmed_ms`.
        """
        kind = machine.group.machine_type
        time_ms = machine.last_ms if now_ms is None else now_ms
        closed_ms = machine.group.aligner.closed_until_ms(machine.slot)
        if closed_ms - time_ms > kind.blind_after_ms:
            closed_ms = _frame_end(time_ms, kind)
        kept_from_ms = time_ms if confirmed_ms is None else confirmed_ms
        self.forget(machine.name)
        self.forgotten[machine.name] = Forgotten(
            machine.name,
            machine.partition,
            machine.last_ms,
            applied,
            confirmed_ms,
            closed=closed_ms,
            keep_until=kept_from_ms + kind.state_ttl_ms,
        )
        self.evicted.add(machine.name)

    def begin_again(self, name: str, partition: int, applied: dict[str, int]) -> None:
        """Drop a machine whose readings come from another log now; `applied` is what stays so of other topics."""
        self.forget(name)
        self.forgotten[name] = Forgotten(name, partition, NEVER_MS, applied)
        self.evicted.add(name)

    def drop_tombstoned(self, names: Sequence[str]) -> None:
        """The last records of these forgotten machines are committed and will not come again."""
        for name in names:
            self.forgotten.pop(name, None)
            self.evicted.discard(name)

    def release(self, partitions: frozenset[int]) -> None:
        """Drop all machines of partitions that now belong to another worker."""
        for name in [machine.name for machine in self.by_key.values() if machine.partition in partitions]:
            self.forget(name)
        self.drop_tombstoned([name for name, gone in self.forgotten.items() if gone.partition in partitions])


def _frame_end(time_ms: int, kind: MachineType) -> int:
    return (time_ms // kind.frame_period_ms + 1) * kind.frame_period_ms
