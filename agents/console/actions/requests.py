"""What pages ask for when somebody acts on alarms or gives feedback, and what they get for an answer."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_args

import msgspec

from pipeline.wire.messages import MAX_DIAGNOSIS_ID, MAX_NAME, MAX_NOTE, MAX_WHY

ActionKind = Literal["acknowledge", "shelve", "unshelve", "suppress", "unsuppress", "comment"]
ACTION_KINDS: Final[tuple[ActionKind, ...]] = get_args(ActionKind)

MAX_ALARMS = 200
"""Alarms that one request can be about."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
_AlarmId = Annotated[str, msgspec.Meta(min_length=1, max_length=3 * MAX_NAME)]


class AlarmRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody does with alarms: those of a machine, or those with certain ids."""

    why: Annotated[str, msgspec.Meta(max_length=MAX_WHY)]
    """Why; of a comment what there is to say."""
    machine: _Name | None = None
    fault: _Name | None = None
    """One alarm of the machine; all of them without it."""
    alarm: _AlarmId | None = None
    """The id with which an alarm was raised, instead of a machine."""
    alarms: Annotated[list[_AlarmId], msgspec.Meta(min_length=1, max_length=MAX_ALARMS)] | None = None
    """The same of several alarms."""
    for_: str | int | None = msgspec.field(default=None, name="for")
    """How long to shelve, in the machine's event time: such as 2h, or milliseconds."""
    until_ms: int | None = None
    """Until when to shelve, instead of `for`; event time."""


class LabelRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody says that a machine had, from a time until before another."""

    machine: _Name
    fault: _Name
    from_ms: int
    until_ms: int | None = None
    """None: the fault is still there; what is `normal` or `unknown` ends with the newest frame."""
    corrects: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_DIAGNOSIS_ID)] | None = None
    """The id of the diagnosis that was looked at."""
    comment: Annotated[str, msgspec.Meta(max_length=MAX_NOTE)] | None = None


class WrittenRecord(msgspec.Struct, frozen=True):
    """One record that was written, and where."""

    machine: str
    fault: str | None
    partition: int
    offset: int


class WrittenRecords(msgspec.Struct, frozen=True):
    """The records that were written, and in which topic."""

    topic: str
    records: list[WrittenRecord]


class Written(msgspec.Struct, frozen=True):
    """The answer to somebody who acts: what was written, and the same in words."""

    written: WrittenRecords
    said: str
