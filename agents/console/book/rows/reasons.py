"""What the reasons mean for which records could not be used, in words for people."""

from __future__ import annotations

from typing import Final

from pipeline.wire.messages import Reason

MEANINGS: Final[dict[str, tuple[str, str]]] = {
    Reason.EMPTY: ("Empty", "The record has no value."),
    Reason.TOO_LARGE: ("Too large", "The text is longer than 64 KiB."),
    Reason.NOT_JSON: ("Not JSON", "The value is not JSON; the detail says what it looks like instead."),
    Reason.UNREADABLE: ("Unreadable", "The value cannot be read in the form that the profile declares for the topic."),
    Reason.SCHEMA: ("Wrong format", "The value is JSON, but not in the format of the topic."),
    Reason.NOT_A_NUMBER: ("Not a number", "A value of a strict source is not a number."),
    Reason.NOT_FINITE: ("Not finite", "A value of a strict source is infinite, not a number, or too large."),
    Reason.WRONG_LENGTH: ("Wrong length", "The list of values is longer or shorter than the profile's."),
    Reason.OUT_OF_RANGE: ("Out of range", "A value of a strict source is outside the range that the profile gives."),
    Reason.UNKNOWN_VARIABLE: ("Unknown variable", "A strict source has no variable of that name."),
    Reason.UNKNOWN_MACHINE: ("Unknown machine", "No machine type's pattern matches the machine's id."),
    Reason.UNKNOWN_TOPIC: ("Unknown topic", "The plant does not have the topic."),
    Reason.NO_TEXTS: ("No texts", "The text is for a machine whose type has no texts."),
    Reason.BAD_TIME: ("Bad time", "The time cannot be read, or cannot be that of the record."),
    Reason.FUTURE_TIME: ("Time in the future", "The time is further ahead of the record's time stamp than may be."),
    Reason.KEY_MISMATCH: ("Key is not the machine", "The record's key is not the machine's id."),
    Reason.WRONG_PARTITION: ("Wrong partition", "The record is not in the machine's partition; check the partitioner."),
    Reason.BUFFER_FULL: ("Buffer full", "The machine has more readings waiting than may wait."),
    Reason.UNREADABLE_STATE: ("Unreadable state", "A saved state cannot be read; the machine started without it."),
    Reason.LATE: ("Late", "The reading's frame had closed when it came."),
    Reason.EXPIRED: ("Expired", "The text was older than texts may be when it came."),
}
"""By reason, its title and what it means."""

OTHER_MEANING: Final = ("Another reason", "The letter was written by something else than this release.")
