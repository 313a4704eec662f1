"""What is known of one machine: its type, its state, its newest records, letters and diagnosis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from agents.audit.machine_list import MachineSummary
from pipeline.alignment.machine_states import MachineState
from pipeline.wire.messages import VariableEvidence

Fate = Literal["used", "late", "dead"]
"""What became of a record: diagnosed, or a late record, or a dead letter."""
_MANY = 3
_STALLED_MS = 120_000


@dataclass(slots=True)
class Searched:
    """Which part of a topic was read."""

    records: int = 0
    since_ms: int | None = None
    """Kafka time stamp of the oldest record of that part."""


@dataclass(slots=True)
class InputFinds:
    """What the newest records of one topic hold of the machine, whatever their keys and partitions are."""

    topic: str
    """Its name on the broker."""
    holds: str
    """`readings`, `texts`, or `for ingest`."""
    searched: Searched = field(default_factory=Searched)
    found: int = 0
    fates: Counter[Fate] = field(default_factory=Counter)
    """What became of those that are processed."""
    waiting: int = 0
    """Records among them that are not processed yet."""
    waiting_since_ms: int | None = None
    """Kafka time stamp of the oldest of those."""
    newest_fate: Fate | None = None
    """What became of the newest record that is processed."""
    newest_run: int = 0
    """How many of the newest processed records in a row had that fate."""
    newest_time_ms: int | None = None
    """Time inside the newest record, None if it has none that can be read."""
    newest_stamp_ms: int | None = None
    """Kafka time stamp of the newest record."""
    ahead_ms: int | None = None
    """How much the times inside are ahead of the Kafka time stamps, as the median of that run."""
    wrong_keys: Counter[str] = field(default_factory=Counter)
    """Keys that are not the machine's id."""
    wrong_partitions: Counter[int] = field(default_factory=Counter)
    """Partitions that are not the machine's."""
    is_newest_right: bool = False
    """Whether the newest record has the right key and partition."""
    unprocessed: int | None = None
    """Unprocessed records of the machine's partition, or of all partitions for `faultline ingest`."""

    def all_are(self, fate: Fate) -> bool:
        """Whether that became of all of its records, or of more than a few of the newest in a row."""
        return self.newest_fate == fate and (self.newest_run >= _MANY or self.newest_run == self.found - self.waiting)

    def is_stalled(self, now_ms: int) -> bool:
        """Whether its records are not processed as they come."""
        if self.waiting_since_ms is None:
            return False
        return self.waiting == self.found or now_ms - self.waiting_since_ms > _STALLED_MS


@dataclass(slots=True)
class Letters:
    """Late records or dead letters of the machine."""

    searched: Searched = field(default_factory=Searched)
    reasons: Counter[str] = field(default_factory=Counter)
    newest_reason: str = ""
    newest_detail: str = ""
    newest_place: str = ""
    """Where the newest one's record was, as topic/partition/offset."""
    newest_stamp_ms: int | None = None
    late_by_ms: int | None = None
    """By how much they came too late, as the median of the newest ones."""
    closed_until_ms: int | None = None
    """Up to where the machine's frames had closed when the newest one came."""

    @property
    def count(self) -> int:
        """How many there are."""
        return self.reasons.total()


@dataclass(frozen=True, slots=True)
class LastDiagnosis:
    """The newest diagnosis of the machine."""

    fault: str
    confidence: float
    status: str
    reset: str | None
    frame_start_ms: int
    frame_end_ms: int
    model: str
    frozen: tuple[str, ...]
    """Variables that count as frozen."""
    variables: tuple[VariableEvidence, ...] = ()
    """Variables that are out of their range, the furthest first."""
    components: Mapping[str, float] | None = None
    """The probability that the fault begins in each component; None where the profile places no fault."""


@dataclass(frozen=True, slots=True)
class WorkerPage:
    """What a worker's own pages say, as far as one answers."""

    url: str
    problem: str | None = None
    """Why nothing came from there."""
    not_ready: str | None = None
    """What `/readyz` says while it is not ready."""
    version: str | None = None
    plant: str | None = None
    profile: str | None = None
    """Digest of its profile."""
    lag: Mapping[int, int] = field(default_factory=dict)
    """Unprocessed records of the partitions that it has."""
    is_worker: bool = True
    """Whether the pages are those of a worker."""


@dataclass(slots=True)
class Facts:
    """All of it, and what follows."""

    machine: str
    plant: str
    profile: str
    """Digest of the profile with which was asked."""
    now_ms: int
    partition: int
    """Its key's partition."""
    patterns: Mapping[str, str]
    """By machine type, the pattern that ids have to match."""
    type: str | None = None
    summary: MachineSummary | None = None
    """Its saved state, if there is one that can be read."""
    forgotten: bool = False
    """Whether it was forgotten: by a command, or after long silence."""
    closed_until_ms: int | None = None
    """Up to where its frames have closed, also if it was forgotten since."""
    wrong_clock_ms: int = 0
    """From which difference between times inside and Kafka time stamps on its clock counts as wrong."""
    state_problem: str | None = None
    """Why its saved state cannot be read."""
    inputs: list[InputFinds] = field(default_factory=list)
    late: Letters = field(default_factory=Letters)
    dead: Letters = field(default_factory=Letters)
    diagnosis: LastDiagnosis | None = None
    diagnoses_searched: Searched = field(default_factory=Searched)
    similar: list[str] = field(default_factory=list)
    """Ids that were seen and are like the one that was asked for, the nearest first."""
    worker: WorkerPage | None = None

    @property
    def state(self) -> str:
        """How the machine is, in one word."""
        if self.type is None:
            return "no type"
        if self.summary is not None:
            return self.summary.state
        if self.forgotten:
            return "forgotten"
        return "unreadable" if self.state_problem is not None else "unknown"

    @property
    def direct(self) -> list[InputFinds]:
        """What was found in the topics that workers read."""
        return [one for one in self.inputs if one.holds != "for ingest"]

    @property
    def is_active(self) -> bool:
        """Whether it is diagnosed as it should be: active, and its newest records are used."""
        readings = [one for one in self.direct if one.holds == "readings"]
        is_unused = any(one.all_are("late") or one.all_are("dead") or one.is_stalled(self.now_ms) for one in readings)
        return self.state == MachineState.ACTIVE and not is_unused

    def as_dict(self, next_steps: list[str]) -> dict[str, Any]:
        """For JSON."""
        known: dict[str, Any] = msgspec.to_builtins(self)
        return {"state": self.state, "active": self.is_active, "next": next_steps} | known
