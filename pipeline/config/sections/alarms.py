"""When alarms are raised and how they live: entries of a profile for a plant, a machine type, machines or a fault."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from pipeline.config.classes import RECOVERING, UNKNOWN
from pipeline.config.quantities.durations import DurationMs, parse_duration_ms
from pipeline.config.sections.titles import Name, Part, Priority
from pipeline.errors import ProfileError
from pipeline.files.yaml_fields import did_you_mean, field_problems

STALE: Final = "stale"
OFFLINE: Final = "offline"
BLIND: Final = "blind"
MACHINE_CONDITIONS: Final = (STALE, OFFLINE, BLIND)
"""Alarms that are about a machine's data and not about a fault."""

PRIORITIES: Final[tuple[Priority, ...]] = ("low", "medium", "high", "critical")
MAX_ALARM_FRAMES: Final = 100
SHELVE_LIMIT_MS: Final = 12 * 3_600_000

_SELECTORS: Final = frozenset({"machine_type", "machine", "fault"})

_Delay = Annotated[int, BeforeValidator(parse_duration_ms), Field(ge=0)]


class AlarmEntry(Part):
    """Settings of alarms, and which alarms they are for: all that fit each selector that is given."""

    machine_type: Name | None = None
    machine: str | None = Field(default=None, min_length=1, max_length=200)
    """A machine's id, or a shell pattern over ids."""
    fault: Name | None = None
    """A fault, `unknown`, `stale`, `offline` or `blind`."""

    alarm: bool | None = None
    """Whether there is an alarm at all."""
    agree: int | None = Field(default=None, ge=1, le=MAX_ALARM_FRAMES)
    """How many of the recent frames must name the fault."""
    frames: int | None = Field(default=None, ge=1, le=MAX_ALARM_FRAMES)
    """How many recent frames count."""
    confidence: float | None = Field(default=None, ge=0, le=1)
    """Confidence below which the fault does not count."""
    dead_band: float | None = Field(default=None, ge=0, le=1)
    """By how much the confidence may be lower while the fault is there."""
    on_delay_ms: _Delay | None = Field(default=None, alias="on_delay")
    """How long the fault must be there before its alarm is raised."""
    off_delay_ms: _Delay | None = Field(default=None, alias="off_delay")
    """How long it must be gone before the alarm returns to normal."""
    priority: Priority | None = None
    acknowledge: bool | None = None
    """Whether an alarm that nobody has acknowledged stays when its fault is gone."""
    latch: bool | None = None
    """Whether an alarm stays when its fault is gone, until it is acknowledged then."""
    re_alarm_ms: _Delay | None = Field(default=None, alias="re_alarm")
    """After how long an alarm that is still there calls again; 0 for never."""
    escalate_after_ms: _Delay | None = Field(default=None, alias="escalate_after")
    """After how long without acknowledgement the priority rises by one; 0 for never."""
    shelve_limit_ms: DurationMs | None = Field(default=None, alias="shelve_limit")
    """How long the alarm may be shelved at most."""
    suppress: bool | None = None
    """Whether the alarm is suppressed by design: recorded, and nobody is called."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.values:
            raise ValueError("it sets nothing; give a setting such as on_delay: 2m, or leave the entry out")
        if self.agree is not None and self.frames is not None and self.agree > self.frames:
            raise ValueError(f"agree {self.agree} is more than frames {self.frames}; lower it, or raise the other")
        return self

    @property
    def values(self) -> dict[str, Any]:
        """The settings that it gives."""
        names = (name for name in type(self).model_fields if name not in _SELECTORS)
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def is_for_machine(self, machine_type: str, machine: str) -> bool:
        """Whether it is for any alarm of a machine."""
        if self.machine_type not in (None, machine_type):
            return False
        return self.machine is None or self.machine == machine or fnmatchcase(machine, self.machine)


@dataclass(frozen=True, slots=True)
class AlarmSettings:
    """All settings of one alarm."""

    alarm: bool
    agree: int
    frames: int
    confidence: float
    priority: Priority
    dead_band: float = 0.0
    on_delay_ms: int = 0
    off_delay_ms: int = 0
    acknowledge: bool = False
    latch: bool = False
    re_alarm_ms: int = 0
    escalate_after_ms: int = 0
    shelve_limit_ms: int = SHELVE_LIMIT_MS
    suppress: bool = False

    def with_entries(self, entries: Iterable[AlarmEntry], fault: str) -> AlarmSettings:
        """As entries of a machine change them for an alarm; of two that give the same setting the later one counts."""
        changes: dict[str, Any] = {}
        for entry in entries:
            if entry.fault in (None, fault):
                changes |= entry.values
        changed = replace(self, **changes)
        return replace(changed, agree=min(changed.agree, changed.frames))


def alarm_names(faults: Sequence[str]) -> tuple[str, ...]:
    """Everything that can have an alarm on a machine whose type has these classes, of which the first is normal."""
    return (*faults[1:], *(() if UNKNOWN in faults else (UNKNOWN,)), *MACHINE_CONDITIONS)


def check_alarms(entries: Sequence[AlarmEntry], faults: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if an entry names a machine type or fault that there is not; `faults` has the classes of each
    machine type."""
    for number, entry in enumerate(entries):
        where = f"alarms.{number}"
        if entry.machine_type is not None and entry.machine_type not in faults:
            hint = did_you_mean(entry.machine_type, tuple(faults))
            raise ValueError(f"{where}: there is no machine type {entry.machine_type!r}; {hint}")
        if entry.fault is None:
            continue
        types = faults if entry.machine_type is None else [entry.machine_type]
        known = tuple(dict.fromkeys(name for one in types for name in alarm_names(faults[one])))
        if entry.fault not in known:
            reason = "never has an alarm" if entry.fault in ("normal", RECOVERING) else "is no fault"
            raise ValueError(f"{where}: {entry.fault!r} {reason}; {did_you_mean(entry.fault, known)}")


def parse_entry(values: Mapping[str, object], faults: Mapping[str, Sequence[str]]) -> AlarmEntry:
    """An entry that has come with a control record; raises ProfileError."""
    try:
        entry = AlarmEntry.model_validate(values)
        check_alarms([entry], faults)
    except ValidationError as error:
        raise ProfileError(field_problems(error, AlarmEntry, "alarms")) from error
    except ValueError as error:
        raise ProfileError(str(error).removeprefix("alarms.0: ")) from error
    return entry


def alarm_essence(plant: Mapping[str, Any]) -> dict[str, Any]:
    """What the records of alarms depend on in a profile as JSON: nothing without the section `alarms`, and with it that
    section and the faults' priorities."""
    if not plant.get("alarms"):
        return {}
    priorities = [
        {fault["name"]: fault["priority"] for fault in described["described_faults"]}
        for described in plant["machine_types"]
    ]
    return {"alarms": plant["alarms"], "priorities": priorities}
