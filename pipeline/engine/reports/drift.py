"""Drift of every machine of one type: windows of frames, the reference, what stands, and the reports of changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import Bools, Floats, Ints, Matrix
from pipeline.compiled import Notify
from pipeline.config.classes import unknown_class
from pipeline.config.profile import MachineType
from pipeline.config.topics import DRIFT
from pipeline.engine.reports.drift_kernels import (
    ADD_FRAMES,
    ANSWER_SUMS,
    COUNT,
    ENDED,
    EXPECTED,
    FRAMES,
    JUDGE_WINDOWS,
    REFERENCE_ROWS,
    STARTED,
    TOLD,
    TOLERANCE,
    VALUE,
)
from pipeline.engine.reports.drift_report import DriftReport
from pipeline.engine.reports.drift_rule import DriftKind, DriftRule, Statistics
from pipeline.engine.reports.drift_state import DriftState, decode_drift, encode_drift
from pipeline.frames import Frames, StepResult
from pipeline.wire import messages
from pipeline.wire.messages import ModelRef
from pipeline.wire.records import Output

_DECIMALS: Final = 5
_NEVER: Final = -1.0
_OF_VARIABLES: Final = (DriftKind.LEVEL, DriftKind.SPREAD)


class _Machine(Protocol):
    name: str
    key: bytes
    partition: int


@dataclass(frozen=True, slots=True)
class DriftChange:
    """Row of the round and statistic that changed, and what the window says of it."""

    row: int
    statistic: int
    started: bool
    since_ms: int
    value: float
    reference: float
    tolerance: float
    direction: int


class Drift:
    """The windows and the standing drift of every machine of one type, one slot each."""

    def __init__(
        self, rule: DriftRule, machine_type: MachineType, classes: Sequence[str], model: ModelRef, notify: Notify
    ) -> None:
        """`classes` are the model's; `notify` gets a line if code has to be compiled first."""
        self._rule = rule
        self._names = machine_type.variable_names
        self._period_ms = machine_type.frame_period_ms
        self._window_frames = rule.window_frames(machine_type.frame_period_ms)
        self._statistics = Statistics(len(self._names))
        self._smallest = self._statistics.smallest(rule)
        self._unknown = unknown_class(classes, machine_type.faults)
        self._model = model
        self._notify = notify
        self._new_arrays(0)

    def _new_arrays(self, slots: int) -> None:
        variables, count = len(self._names), self._statistics.count
        self._sums: Matrix = np.zeros((slots, 2 * variables + ANSWER_SUMS))
        self._counts: Floats = np.zeros((slots, 2 * variables), np.float32)
        self._reference: Floats = np.zeros((slots, REFERENCE_ROWS, count), np.float32)
        # By direction, up and down, and then by statistic: the sum of what was beyond the tolerance, and since when.
        self._excess: Matrix = np.zeros((slots, 2 * count))
        self._since: Matrix = np.full((slots, 2 * count), _NEVER)
        self._standing: NDArray[np.int8] = np.zeros((slots, count), np.int8)

    def reserve(self, slots: int) -> None:
        """Make room for at least this many machines."""
        size = len(self._standing)
        if slots > size:
            sums, counts, reference = self._sums, self._counts, self._reference
            excess, since, standing = self._excess, self._since, self._standing
            self._new_arrays(max(slots, 2 * size, 64))
            self._sums[:size], self._counts[:size], self._reference[:size] = sums, counts, reference
            self._excess[:size], self._since[:size], self._standing[:size] = excess, since, standing

    def load_code(self) -> None:
        """Load compiled code now, instead of with the first frame."""
        ADD_FRAMES.load(self._notify)
        JUDGE_WINDOWS.load(self._notify)

    def step(
        self, frames: Frames, result: StepResult, faults: Ints, confidence: Floats, disagreement: Matrix
    ) -> list[DriftChange]:
        """Take a round of frames, with its answers as in the diagnoses (class 0 = normal; negative = no evidence).

        Returns what changed, of each machine the largest change first.
        """
        is_any_full = ADD_FRAMES.load(self._notify)(
            frames.slots,
            frames.start_ms,
            np.ascontiguousarray(result.scaled, np.float32),
            np.ascontiguousarray(frames.observed, np.bool_),
            np.ascontiguousarray(result.present, np.bool_),
            faults,
            confidence,
            disagreement,
            self._unknown,
            self._window_frames,
            self._sums,
            self._counts,
        )
        return self._judge(frames.slots) if is_any_full else []

    def _judge(self, slots: Ints) -> list[DriftChange]:
        rows = np.flatnonzero(self._full(slots))
        full = slots[rows]
        told = np.empty((len(full), self._statistics.count, TOLD))
        changed = np.empty((len(full), self._statistics.count), np.int8)
        before = self._standing[full]
        rule = self._rule
        JUDGE_WINDOWS.load(self._notify)(
            full,
            self._window_frames,
            rule.reference_windows,
            rule.reference == "training",
            self._unknown,
            self._smallest,
            self._sums,
            self._counts,
            self._reference,
            self._excess,
            self._since,
            self._standing,
            told,
            changed,
        )
        found: list[DriftChange] = []
        for index in np.flatnonzero(changed.any(axis=1)).tolist():
            of_machine = np.flatnonzero(changed[index])
            distance = np.abs(told[index, of_machine, VALUE] - told[index, of_machine, EXPECTED])
            order = np.argsort(-distance / told[index, of_machine, TOLERANCE], kind="stable")
            for statistic in of_machine[order].tolist():
                value, reference, tolerance, since_ms = told[index, statistic].tolist()
                common = int(rows[index]), statistic
                numbers = value, reference, tolerance
                change = int(changed[index, statistic])
                if change & ENDED:
                    direction = int(before[index, statistic])
                    found.append(DriftChange(*common, False, int(since_ms), *numbers, direction))
                if change & STARTED:
                    direction = int(self._standing[full[index], statistic])
                    place = statistic if direction > 0 else self._statistics.count + statistic
                    began = int(self._since[full[index], place])
                    found.append(DriftChange(*common, True, began, *numbers, direction))
        return found

    def _full(self, slots: Ints) -> Bools:
        full: Bools = self._sums[slots, 2 * len(self._names) + FRAMES] >= self._window_frames
        return full

    def kind_of(self, change: DriftChange) -> DriftKind:
        """What a change is about."""
        return self._statistics.kind(change.statistic)

    def report(self, machine: _Machine, start_ms: int, change: DriftChange) -> tuple[DriftKind, Output]:
        """The record of a change that the frame that starts at `start_ms` brought."""
        end = start_ms + self._period_ms
        kind = self.kind_of(change)
        column = self._statistics.variable(change.statistic)
        variable = None if column is None else self._names[column]
        state: Literal["started", "ended"] = "started" if change.started else "ended"
        about = kind.value if variable is None else f"{kind}:{variable}"
        unit = 1.0 if kind in _OF_VARIABLES else change.tolerance
        report = DriftReport(
            id=f"{machine.name}:{end}:{self._model.hash[:12]}:{about}:{state}",
            machine=machine.name,
            kind=kind.value,
            variable=variable,
            state=state,
            time=end,
            since=change.since_ms,
            direction="up" if change.direction > 0 else "down",
            size=_rounded((change.value - change.reference) / unit, 2),
            value=_rounded(change.value),
            reference=_rounded(change.reference),
            tolerance=_rounded(change.tolerance),
            model=self._model,
        )
        return kind, Output(DRIFT, machine.partition, machine.key, messages.encode(report), end)

    def machines_drifting(self, slots: Ints) -> Counter[str]:
        """By kind, how many of these machines drift."""
        standing = self._standing[slots] != 0
        kinds = {kind.value: standing[:, self._statistics.of_kind(kind)] for kind in DriftKind}
        return Counter({kind: int(own.any(axis=1).sum()) for kind, own in kinds.items()})

    def machines_learning(self, slots: Ints) -> int:
        """How many of these machines have no reference yet."""
        windows = self._reference[slots, COUNT].max(axis=1, initial=0)
        return int((windows < self._rule.reference_windows).sum())

    def save(self, slots: Ints) -> list[bytes]:
        """Each machine's windows, reference and standing drift; empty if it has had no frame."""
        return [encode_drift(self._state(slot)) for slot in slots.tolist()]

    def _state(self, slot: int) -> DriftState:
        return DriftState(
            self._window_frames,
            self._rule.reference_windows,
            self._sums[slot],
            self._counts[slot],
            self._reference[slot],
            self._excess[slot],
            self._since[slot],
            self._standing[slot],
        )

    def load(self, slot: int, state: bytes) -> None:
        """Put back what `save` gave; a machine whose windows were others learns its reference again.

        Raises StateError if it is damaged.
        """
        self.drop(slot)
        decode_drift(state, self._state(slot))

    def drop(self, slot: int) -> None:
        """Forget a machine."""
        self._sums[slot], self._counts[slot], self._reference[slot] = 0, 0, 0
        self._excess[slot], self._since[slot], self._standing[slot] = 0, _NEVER, 0


def _rounded(value: float, decimals: int = _DECIMALS) -> float:
    return round(value, decimals) + 0.0  # no negative zero
