"""Machines as their newest diagnoses say: state, fault, since when, and when a machine is no longer known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from agents.console.book.bounded import Limits
from agents.console.book.published import SeenDiagnosis
from agents.console.documents.plant import TileState
from pipeline.config.classes import NO_EVIDENCE, RECOVERING, UNKNOWN
from pipeline.config.profile import NORMAL, MachineType, PlantProfile

_WITHOUT_FAULT: Final[Mapping[str, TileState]] = {
    NORMAL: "normal",
    NO_EVIDENCE: "no_evidence",
    RECOVERING: "recovering",
    UNKNOWN: "unknown",
}
_ANNOUNCED: Final[Mapping[str, TileState]] = {"stale": "stale", "offline": "offline"}
_KEPT_MS: Final = 604_800_000
"""How long a machine of no type of the profile is known after its last frame."""


@dataclass(slots=True)
class Since:
    """How a machine is, and since when."""

    state: TileState
    fault: str
    time_ms: int
    known: bool
    """False if it was so where reading began."""


@dataclass(slots=True)
class SeenMachine:
    """A machine of which there was a diagnosis."""

    newest: SeenDiagnosis
    since: Since
    before: Since | None
    """As it was before the newest frame, which may come once more as a revision."""
    first: str
    """The id of the diagnosis with which its state began, as far as that was read."""


class MachineBook:
    """The newest diagnosis of every machine."""

    def __init__(self, profile: PlantProfile, limits: Limits) -> None:
        self._profile = profile
        self._limits = limits
        self._types: dict[str, MachineType | None] = {}
        self._machines: dict[str, SeenMachine] = {}
        self._forgotten: dict[str, int] = {}
        self._expired_at_ms: int | None = None
        self.read_ms: int | None = None
        """The end of the newest frame of all."""

    def take(self, seen: SeenDiagnosis) -> bool:
        """Take a machine's diagnosis; returns whether it is news."""
        if self.read_ms is None or seen.frame_end > self.read_ms:
            self.read_ms = seen.frame_end
        state, is_start = self._state(seen), seen.reset == "start"
        machine = self._machines.get(seen.machine)
        if machine is not None:
            newest = machine.newest
            is_older = (seen.frame_end, seen.revision) <= (newest.frame_end, newest.revision)
            if is_older and (not is_start or seen.id == machine.first):
                return False
            if is_older or seen.frame_end - newest.frame_end > self._kept_ms(seen.machine):
                machine = None  # workers had forgotten it: its clock was ahead, or it was silent for too long
        if machine is None:
            since = Since(state, seen.fault, seen.frame_start, known=is_start)
            self._machines[seen.machine] = SeenMachine(seen, since, None, seen.id if is_start else "")
            self._limit()
            return True
        before = machine.before if seen.frame_end == machine.newest.frame_end else machine.since
        if before is not None and (before.state, before.fault) == (state, seen.fault):
            machine.since = before
        else:
            is_known = before is not None or is_start or machine.since.known
            machine.since = Since(state, seen.fault, seen.frame_start, is_known)
        machine.before = before
        machine.newest = seen
        if is_start:
            machine.first = seen.id
        return True

    def _limit(self) -> None:
        if len(self._machines) > self._limits.machines:
            del self._machines[min(self._machines, key=lambda name: (self._machines[name].newest.frame_end, name))]

    def forget(self, machine: str, time_ms: int) -> bool:
        """Somebody has asked workers to forget a machine; returns whether that is news."""
        if time_ms <= self._forgotten.get(machine, -1):
            return False
        self._forgotten[machine] = time_ms
        if len(self._forgotten) > self._limits.machines:
            del self._forgotten[min(self._forgotten, key=lambda name: (self._forgotten[name], name))]
        return True

    def get(self, machine: str) -> SeenMachine | None:
        """A machine that is known; None of one that was forgotten, or has been silent for too long."""
        found = self._machines.get(machine)
        return None if found is None or self._is_gone(machine, found) else found

    def since_of(self, machine: str) -> Since | None:
        """Another object whenever a machine's state or fault changes."""
        found = self._machines.get(machine)
        return None if found is None else found.since

    def __iter__(self) -> Iterator[str]:
        """Those that are known."""
        return (name for name, found in self._machines.items() if not self._is_gone(name, found))

    def expire(self) -> list[str]:
        """Drop what is no longer known; returns the machines."""
        if self._expired_at_ms == self.read_ms:
            return []
        self._expired_at_ms = self.read_ms
        gone = [name for name, found in self._machines.items() if self._is_too_old(name, found)]
        for name in gone:
            del self._machines[name]
        return gone

    def type_of(self, machine: str) -> MachineType | None:
        """A machine's type."""
        try:
            return self._types[machine]
        except KeyError:
            if len(self._types) > 2 * self._limits.machines:
                self._types.clear()
            found = self._types[machine] = self._profile.type_of(machine)
            return found

    def _is_gone(self, machine: str, found: SeenMachine) -> bool:
        end_ms = found.newest.frame_end
        return end_ms <= self._forgotten.get(machine, -1) or self._is_too_old(machine, found)

    def _is_too_old(self, machine: str, found: SeenMachine) -> bool:
        return self.read_ms is not None and self.read_ms - found.newest.frame_end > self._kept_ms(machine)

    def _kept_ms(self, machine: str) -> int:
        """As long as workers keep the state of a silent machine."""
        kind = self.type_of(machine)
        return _KEPT_MS if kind is None else kind.state_ttl_ms

    def _state(self, seen: SeenDiagnosis) -> TileState:
        if (announced := _ANNOUNCED.get(seen.status)) is not None:
            return announced
        fault = seen.fault
        if (plain := _WITHOUT_FAULT.get(fault)) is None:
            return "fault"
        if plain in ("recovering", "unknown"):
            kind = self.type_of(seen.machine)  # a profile may have a fault of that name
            return "fault" if kind is not None and fault in kind.faults else plain
        return "silent" if seen.status == "silent" else plain
