"""Documents about the plant: machines as tiles, areas with what their machines share, how far reading is, changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from agents.console.documents.alarms import Alarm, AlarmCounters

TileState = Literal[
    "fault",
    "unknown",
    "recovering",
    "normal",
    "no_evidence",
    "silent",
    "stale",
    "offline",
    "blind",
    "unheard",
]
"""How a machine is: what its newest frame says, unless no data come (silent, stale, offline, blind) or ever came."""


class Remaining(msgspec.Struct, frozen=True, gc=False):
    """How long a machine has until it fails: the estimate, and the ends of its interval."""

    frames: float
    low: float
    high: float
    ms: int
    low_ms: int
    high_ms: int


class Corrected(msgspec.Struct, frozen=True, gc=False):
    """What the area model says of a machine in the light of its neighbours."""

    fault: str
    fault_title: str
    confidence: float


class Tile(msgspec.Struct, frozen=True):
    """A machine as it is; times are event time in milliseconds."""

    id: str
    name: str
    """Id and title."""
    title: str
    area: str | None
    """The id of its declared area, else the words that the profile has for where it is."""
    area_title: str | None
    type: str
    state: TileState
    status: str
    """Of its newest frame, as published; empty if there never was one."""
    fault: str | None
    fault_title: str | None
    confidence: float | None
    since_ms: int | None
    """Since when state and fault are like this."""
    since_known: bool
    """False if that has been so since before what was read."""
    frame_start_ms: int | None
    frame_end_ms: int | None
    novelty: float | None
    diagnosis: str | None
    model: str | None
    """The beginning of its hash."""
    alarm: str | None
    """The key of its most urgent alarm."""
    alarm_state: str | None
    priority: str | None
    acknowledged: bool
    shelved: bool
    suppressed: bool
    alarms: int
    remaining: Remaining | None
    drifting: int
    """How many of its statistics drift."""
    corrected: Corrected | None


class Cause(msgspec.Struct, frozen=True, gc=False):
    """The most probable cause in an area."""

    kind: str
    """`utility`, `machine` or `none`."""
    id: str | None
    title: str | None
    fault: str | None
    fault_title: str | None
    probability: float
    since_ms: int
    """Since when it has been this one."""


class Utility(msgspec.Struct, frozen=True, gc=False):
    """What several machines of an area share."""

    id: str
    """As its alarms have it: `AREA/UTILITY`."""
    utility: str
    title: str
    state: Literal["fault", "normal", "unheard"]
    fault: str | None
    fault_title: str | None
    probability: float | None
    since_ms: int | None
    alarm: str | None
    alarm_state: str | None
    priority: str | None
    acknowledged: bool
    shelved: bool
    suppressed: bool


class AreaEvidence(msgspec.Struct, frozen=True, gc=False):
    """How much a machine or a utility's texts speak for the cause; the weights of all sum to 1."""

    kind: str
    id: str
    name: str
    weight: float


class Area(msgspec.Struct, frozen=True):
    """A declared area, or machines that the profile says to be in the same place."""

    id: str
    name: str
    title: str
    declared: bool
    machines: Sequence[str]
    states: Mapping[str, int]
    cause: Cause | None
    utilities: Sequence[Utility]
    evidence: Sequence[AreaEvidence]
    frame_end_ms: int | None
    diagnosis: str | None
    model: str | None


class PlantCounts(msgspec.Struct, frozen=True):
    """Machines and alarms, counted."""

    machines: int
    states: Mapping[str, int]
    priorities: Mapping[str, int]
    """Alarms whose fault is there and that call somebody."""
    unacknowledged: int


class Status(msgspec.Struct, frozen=True):
    """How far reading is, and whether the broker answers."""

    connected: bool
    away_since_wall_ms: int | None
    """Since when it does not, by the console's clock."""
    why: str | None
    read_ms: int | None
    """Event time up to which has been read."""
    caught_up: bool
    behind: int
    """Records that are not read yet, as far as is known."""
    lag: int | None
    """Records of inputs that workers have not processed."""
    unreadable: int
    """Records that could not be read, or were not written by Faultline."""
    missing_topics: Sequence[str]
    frozen: bool = False
    """Whether nothing more will come, because a demo is over."""
    still_since_wall_ms: int | None = None
    """Since when no newer frame has come though one should have, by the console's clock."""


class PlantDocument(msgspec.Struct, frozen=True):
    """The whole plant."""

    plant: str
    version: int
    read_ms: int | None
    machines: Sequence[Tile]
    areas: Sequence[Area]
    counts: PlantCounts
    status: Status


class MachinesUpdate(msgspec.Struct, frozen=True):
    """Tiles that have changed, and machines that are no longer known."""

    version: int
    read_ms: int | None
    machines: Sequence[Tile]
    removed: Sequence[str]
    counts: PlantCounts


class AreasUpdate(msgspec.Struct, frozen=True):
    """Areas that have changed."""

    version: int
    areas: Sequence[Area]


class AlarmsUpdate(msgspec.Struct, frozen=True):
    """Alarms that have changed, also those that are over, and keys of rows that are no more."""

    version: int
    alarms: Sequence[Alarm]
    removed: Sequence[str]
    counters: AlarmCounters


class Updates(msgspec.Struct, frozen=True):
    """What has changed after a version; None where nothing has."""

    version: int
    """After which to ask next."""
    reload: bool = False
    """Whether so much has changed that the documents have to be asked for again."""
    machines: MachinesUpdate | None = None
    areas: AreasUpdate | None = None
    alarms: AlarmsUpdate | None = None
    status: Status | None = None
