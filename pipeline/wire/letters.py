"""Dead letters and late records: the record as it was, with headers that say why it could not be used."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from pipeline.arrays import NEVER_MS
from pipeline.wire.messages import Reason, RejectedError
from pipeline.wire.records import Headers, Output, Place, Record, record_bytes

LETTER_BYTES = 16 << 20
"""The largest dead letter or late record: they hold a record as it was, and headers besides."""

LETTER_TOPICS = frozenset({"dead-letter", "late"})

LATE_BY = "faultline-late-by-ms"
"""Header of a late record: how much too late it came."""

CLOSED_UNTIL = "faultline-closed-until-ms"
"""Header of a late record: up to where its machine's frames had closed; empty if none had."""

_FIRST_HEADER = "faultline-reason"
"""Where the headers of a dead letter or late record begin, behind the original ones."""

_ORIGIN_HEADERS = 6
_MAX_DIGITS = 18
"""Numbers with as many fit into 64 bits."""


def dead_letter(record: Record, rejected: RejectedError) -> Output:
    """The record as it was, with reason and origin in its headers."""
    return Output(
        "dead-letter",
        record.partition,
        record.key,
        record.value,
        max(record.timestamp_ms, 0),
        record.headers + origin_headers(record, rejected.reason, rejected.detail),
    )


def late_record(
    record: Record, detail: str, *, reason: Reason, frame_end_ms: int, closed_ms: int, late_by_ms: int
) -> Output:
    """The record as it was, with how late it came, its frame, and up to where its machine's frames had closed."""
    times: Headers = (
        (LATE_BY, b"%d" % late_by_ms),
        ("faultline-frame-end-ms", b"%d" % frame_end_ms),
        (CLOSED_UNTIL, b"%d" % closed_ms if closed_ms > NEVER_MS else b""),
    )
    headers = record.headers + origin_headers(record, reason, detail) + times
    return Output("late", record.partition, record.key, record.value, max(record.timestamp_ms, 0), headers)


def origin_headers(record: Record, reason: Reason, detail: str) -> Headers:
    """Headers with the reason why a record could not be used, and its origin."""
    return (
        ("faultline-reason", reason.value.encode()),
        ("faultline-detail", detail.encode(errors="replace")),
        ("faultline-topic", record.topic.encode()),
        ("faultline-partition", b"%d" % record.partition),
        ("faultline-offset", b"%d" % record.offset),
        ("faultline-timestamp-ms", b"%d" % record.timestamp_ms),
    )


class Origin(NamedTuple):
    """What the headers of a late record or a dead letter say; `at` is where in the headers that begins."""

    reason: str
    detail: str
    place: Place
    timestamp_ms: int
    at: int


def origin_of(headers: Headers) -> Origin | None:
    """The reason why a record could not be used, and its origin; None if the headers have none."""
    names = [name for name, _ in headers]
    if _FIRST_HEADER not in names:
        return None
    at = len(names) - 1 - names[::-1].index(_FIRST_HEADER)
    found = dict(headers[at : at + _ORIGIN_HEADERS])
    try:
        return Origin(
            found["faultline-reason"].decode(),
            found["faultline-detail"].decode(errors="replace"),
            Place(found["faultline-topic"].decode(), int(found["faultline-partition"]), int(found["faultline-offset"])),
            int(found["faultline-timestamp-ms"]),
            at,
        )
    except (KeyError, ValueError):
        return None


def late_header(headers: Headers, name: str) -> int | None:
    """A time in milliseconds that the headers of a late record give; None if they do not."""
    return header_number(dict(headers).get(name, b""))


def header_number(text: bytes) -> int | None:
    """The whole number in a header; None if it is none, or longer than any of ours: anybody can write headers."""
    digits = text.removeprefix(b"-")
    return int(text) if digits.isdigit() and len(digits) <= _MAX_DIGITS else None


def fit_letter(letter: Output, limit: int) -> Output:
    """A dead letter or late record cut to this size, as its headers then say.

    First the original headers go, then the ends of value and key. How long each was, and a SHA-256 of the whole
    value, stay; where the original lies is in the headers that every letter has.
    """
    key, value = letter.key or b"", letter.value or b""
    names = [name for name, _ in letter.headers]
    original = max((at for at, name in enumerate(names) if name == _FIRST_HEADER), default=0)
    own = letter.headers[original:]
    marks: Headers = (
        ("faultline-truncated", b"true"),
        ("faultline-key-bytes", b"%d" % len(key)),
        ("faultline-value-bytes", b"%d" % len(value)),
        ("faultline-value-sha256", hashlib.sha256(value).hexdigest().encode()),
    )
    cut = letter._replace(headers=letter.headers + marks)
    if record_bytes(cut._replace(key=None, value=None)) > limit // 2:
        cut = cut._replace(headers=(*own, *marks, ("faultline-headers-dropped", b"%d" % original)))
    room = limit - record_bytes(cut._replace(key=None, value=None))
    key_room = max(room // 2, room - len(value))
    if len(key) > key_room:
        cut = cut._replace(key=key[:key_room])
    return cut if letter.value is None else cut._replace(value=value[: room - len(cut.key or b"")])
