"""The record of a change in a machine's alarm, as published; and what one step of its life leads to."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from pipeline.config.sections.titles import DEFAULT_PRIORITY, Priority
from pipeline.wire.messages import decoded

ALARM_STATES: Final = (
    *("raised", "cleared", "acknowledged", "returned", "latched", "realarmed", "escalated"),
    *("shelved", "unshelved", "suppressed", "unsuppressed", "commented", "configured"),
)


class Alarm(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A change in a machine's alarm, one of ALARM_STATES; docs/guide/messages.md says what each field means."""

    id: str
    machine: str
    fault: str
    state: str
    time: int
    confidence: float
    diagnosis: str
    priority: Priority = DEFAULT_PRIORITY
    alarm: str | None = None
    suppressed: Literal["shelved", "out_of_service", "by_design"] | None = None
    by: str | None = None
    why: str | None = None
    sent: int | None = None
    until: int | None = None
    settings: dict[str, object] | None = None


class AlarmEvent(NamedTuple):
    """A record to publish, and what is counted of it."""

    record: Alarm
    is_chatter: bool = False
    """Raised at least three times within an hour."""
    acknowledged_after_ms: int | None = None
    """Event time from its raising to its acknowledgement, where that is known."""


_decode = msgspec.json.Decoder(Alarm).decode


def decode_alarm(value: bytes) -> Alarm:
    """A published change of an alarm from its JSON bytes; raises RejectedError."""
    return decoded(_decode, value)
