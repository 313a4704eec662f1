"""A line: all machines of one type, with their alignment, model, alarms and diagnoses in equal slots."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from pipeline.alignment.aligner import Aligner
from pipeline.arrays import Ints
from pipeline.compiled import Notify
from pipeline.config.profile import MachineType
from pipeline.engine.alarms import AlarmRule, Alarms
from pipeline.engine.diagnoses import DiagnosisWriter, RememberedText
from pipeline.errors import SettingsError
from pipeline.frames import StepRunner
from pipeline.wire import messages
from pipeline.wire.messages import Reason, RejectedError

EVIDENCE_TEXTS = 8
"""Texts of a machine that its diagnoses can show as evidence."""


@dataclass(slots=True)
class Machine:
    """One machine that has been heard of."""

    name: str
    key: bytes
    quoted: bytes  # the name as JSON has it between its quotes
    line: Line
    slot: int
    partition: int
    last_ms: int  # time stamp of its newest record
    arrived_ms: list[int]  # by source, time stamp of its newest reading
    applied: dict[str, int] = field(default_factory=dict)  # topic -> last offset whose effect is in the state
    texts: deque[RememberedText] = field(default_factory=lambda: deque(maxlen=EVIDENCE_TEXTS))


class SourceColumns:
    """Where the values of one source belong among all variables of a machine type."""

    def __init__(self, index: int, by_name: dict[str, int], width: int) -> None:
        self.index = index
        self.length = len(by_name)
        self._by_name = by_name
        self.columns = list(by_name.values())
        self._width = width

    def row(self, values: list[float | None] | dict[str, float | None], topic: str) -> list[float | None]:
        """A full row of the machine type's variables; raises RejectedError."""
        if type(values) is list:
            if len(values) != self.length:
                text = f"{len(values)} values; {topic} has {self.length} variables"
                raise RejectedError(Reason.WRONG_LENGTH, text)
            if self.length == self._width:
                return values
            row: list[float | None] = [None] * self._width
            for column, number in zip(self.columns, values, strict=True):
                row[column] = number
            return row
        assert type(values) is dict
        row = [None] * self._width
        try:
            for name, number in values.items():
                row[self._by_name[name]] = number
        except KeyError:
            unknown = ", ".join(sorted(set(values) - set(self._by_name)))
            raise RejectedError(Reason.UNKNOWN_VARIABLE, f"{topic} has no {unknown[:200]}") from None
        return row


class Line:
    """All machines of one type: their alignment, model and alarms, in equal slots."""

    def __init__(self, kind: MachineType, runner: StepRunner, rule: AlarmRule, notify: Notify) -> None:
        if runner.classes != kind.faults:
            raise SettingsError(f"model {runner.name} knows other faults than machine type {kind.name} of the profile")
        self.kind = kind
        self.digest = kind.digest
        self.name = kind.name
        self.runner = runner
        self.aligner = Aligner(kind, notify)
        self.alarms = Alarms(rule)
        self.machines: list[Machine | None] = []
        self.writer = DiagnosisWriter(kind, runner, notify)
        self._free: list[int] = []
        self._last_round: tuple[Ints, list[Machine]] = np.empty(0, np.int64), []
        self.width = len(kind.variables)
        self.max_skew_ms = kind.max_skew_ms
        self.idle_after_ms = [kind.idle_after_ms(name) for name in kind.source_names]
        self.sources = {
            kind.sources[name].topic: SourceColumns(
                index, {v.name: column for column, v in enumerate(kind.variables) if v.source == name}, self.width
            )
            for index, name in enumerate(kind.source_names)
        }

    def add(self, name: str, partition: int, last_ms: int) -> Machine:
        """Give a machine a slot."""
        if self._free:
            slot = self._free.pop()
        else:
            slot = len(self.machines)
            self.machines.append(None)
            self.aligner.reserve(slot + 1)
            self.alarms.reserve(len(self.machines) + 64)
            self.runner.reserve(slot + 1)
        machine = self.machines[slot] = Machine(
            name, name.encode(), messages.quoted(name), self, slot, partition, last_ms, [last_ms] * len(self.sources)
        )
        return machine

    def in_slots(self, slots: Ints) -> list[Machine]:
        """The machines in slots that are taken; the same list as for the last round if that had the same slots."""
        last_slots, last_machines = self._last_round
        if np.array_equal(slots, last_slots):
            return last_machines
        machines = [machine for slot in slots.tolist() if (machine := self.machines[slot]) is not None]
        self._last_round = slots, machines
        return machines

    def remove(self, machine: Machine) -> None:
        """Forget a machine and free its slot."""
        self._last_round = np.empty(0, np.int64), []
        self.aligner.drop(machine.slot)
        self.alarms.drop(machine.slot)
        self.runner.reset(np.array([machine.slot]))
        self.machines[machine.slot] = None
        self._free.append(machine.slot)
