"""Wire schemas: what inputs and outputs look like as JSON bytes, and how bad input is classified.

Decoding is strict (no strings for numbers, no numbers for booleans) and done by msgspec, which reads a
52-variable reading in less than half the time of pydantic; docs/decisions/0002 has the measurement.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, TypeVar, overload

import msgspec

from pipeline.arrays import Bools, Ints
from pipeline.config.hints import looks_like
from pipeline.errors import FaultlineError
from pipeline.wire.records import Output

MAX_TIME_MS = 2**42
"""Times from this on (the year 2109) are refused; it keeps integer arithmetic on times far from overflow."""


MAX_EVENT_BYTES = 64 << 10
"""Size of an event's value, at most; waiting texts are part of a machine's state with their original bytes."""

_MAX_TEXT_ID = 200

MAX_NAME = 200
"""Characters of a machine's id, or of a fault's name in a label, at most."""


LAST_DECIMAL = 1e-5
"""Diagnoses have five decimals; numbers that differ by the last bit of a float32 can differ by so much there."""

MIN_PROBABILITY = 0.0005
"""Diagnoses leave out probabilities that are smaller after rounding to their decimals."""

_Message = TypeVar("_Message")


class Reason(StrEnum):
    """Why a record could not be used; the label of the dead-letter and late counters."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    UNREADABLE = "unreadable"
    SCHEMA = "schema"
    NOT_A_NUMBER = "not_a_number"
    NOT_FINITE = "not_finite"
    WRONG_LENGTH = "wrong_length"
    OUT_OF_RANGE = "out_of_range"
    UNKNOWN_VARIABLE = "unknown_variable"
    UNKNOWN_MACHINE = "unknown_machine"
    UNKNOWN_TOPIC = "unknown_topic"
    NO_TEXTS = "no_texts"
    BAD_TIME = "bad_time"
    FUTURE_TIME = "future_time"
    KEY_MISMATCH = "key_mismatch"
    WRONG_PARTITION = "wrong_partition"
    BUFFER_FULL = "buffer_full"
    UNREADABLE_STATE = "unreadable_state"
    LATE = "late"
    EXPIRED = "expired"


class RejectedError(FaultlineError):
    """A record that cannot be used: the reason, and in words what was wrong."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class EventMessage(msgspec.Struct, frozen=True, gc=False):
    """One text about one machine."""

    machine: str
    time: int | str
    text: str
    id: str | None = None
    source: str | None = None
    severity: str | None = None


Identifier = str | int | float
"""What many systems number; a number means its digits."""


class _SentEvent(msgspec.Struct, frozen=True, gc=False):
    """An EventMessage as it may be sent."""

    machine: Identifier
    time: int | str
    text: Identifier
    id: Identifier | None = None
    source: Identifier | None = None
    severity: Identifier | None = None


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]
MAX_NOTE = 2_000
"""Characters of a label's note."""
MAX_DIAGNOSIS_ID = 300
"""Characters of a diagnosis' id, at most: a machine's, a time, the beginning of a hash and a revision."""
MAX_PERSON = 200
"""Characters of `by` in a label or a control record."""
MAX_WHY = 1_000
"""Characters of `why` in a control record."""
DiagnosisId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_DIAGNOSIS_ID)]
Person = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PERSON)]


class Label(msgspec.Struct, frozen=True, gc=False):
    """What a technician found: the fault from `start` until before `end` (null = still there)."""

    machine: Name
    start: int | str
    fault: Name
    end: int | str | None = None
    note: Annotated[str, msgspec.Meta(max_length=MAX_NOTE)] | msgspec.UnsetType = msgspec.UNSET
    """What else the technician has to say; left out if there is nothing."""
    corrects: DiagnosisId | msgspec.UnsetType = msgspec.UNSET
    """The id of the diagnosis that somebody looked at; left out if it was none."""
    by: Person | msgspec.UnsetType = msgspec.UNSET
    """Who says so; left out if nobody is named."""


OperatorKind = Literal["acknowledge", "shelve", "unshelve", "suppress", "unsuppress", "comment", "configure"]


class Control(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An input that is not data: time passing; a machine's reset, the end of its run, or that it is to be forgotten;
    and what people do with alarms."""

    kind: Literal["tick", "reset", "end", "forget"] | OperatorKind
    time: int | str | None = None
    machine: str | None = None
    fault: str | None = None
    by: str | None = None
    why: str | None = None
    duration: int | str | None = None
    settings: dict[str, object] | None = None


class ModalityAnswer(msgspec.Struct, frozen=True, gc=False):
    """The fault by one modality alone, its weight, and the age of its newest evidence."""

    fault: str
    confidence: float
    weight: float
    present: bool
    age_ms: int | None


class VariableEvidence(msgspec.Struct, frozen=True, gc=False):
    """A variable far from its normal range: its value, and the distance in standard deviations."""

    name: str
    value: float
    deviation: float


class TextEvidence(msgspec.Struct, frozen=True, gc=False):
    """A text that was in the model's memory."""

    id: str
    text: str
    age_ms: int
    late: bool


class Evidence(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The evidence that a diagnosis shows."""

    variables: list[VariableEvidence]
    texts: list[TextEvidence]
    frozen: list[str] = []
    """Variables that have not changed for too long to be believed."""


class ModelRef(msgspec.Struct, frozen=True, gc=False):
    """The model that a diagnosis comes from."""

    name: str
    hash: str


class RemainingLife(msgspec.Struct, frozen=True, gc=False):
    """How many frames a machine has until it fails: the estimate, and the ends of its interval."""

    frames: float
    low: float
    high: float


class Diagnosis(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The state of one machine in one frame, as published; times are integer milliseconds UTC."""

    id: str
    machine: str
    frame_start: int
    frame_end: int
    fault: str
    confidence: float
    probabilities: dict[str, float]
    modalities: dict[str, ModalityAnswer]
    entropy: float
    disagreement: float
    evidence: Evidence
    status: str
    reset: str | None
    revision: int
    model: ModelRef
    attention: list[list[float]] | None = None
    """How much each modality (row) took from each, for models with cross-modal attention; else absent."""
    novelty: float | None = None
    """How unlike the normal state the machine is, 1 being the alarm limit; absent where the model cannot say."""
    candidates: list[str] = []
    """The classes that the answer may be, in the order of the model's classes; absent where the model cannot say."""
    remaining: RemainingLife | None = None
    """Absent where the model cannot say."""
    components: dict[str, float] | None = None
    """The probability that the fault begins in each component; absent where the profile places no fault."""
    embeddings: dict[str, str] = {}
    """By modality that is present, base64 of its features as little-endian float32; absent unless the machine is in an
    area. The last field, which is written behind all others."""


@overload
def is_time_ms(value: int) -> bool: ...
@overload
def is_time_ms(value: Ints) -> Bools: ...
def is_time_ms(value: int | Ints) -> bool | Bools:
    """Whether a number, or each of a column, is a time in milliseconds between 1970 and 2109."""
    return (value >= 0) & (value < MAX_TIME_MS)


def parse_time_ms(value: int | str, hint: str | None = None) -> int:
    """Integer milliseconds UTC of a wire time; raises RejectedError if it is none, or has no UTC offset.

    `hint` says what it looks like instead.
    """
    time_ms = _from_iso(value, hint) if isinstance(value, str) else value
    if not is_time_ms(time_ms):
        text = f"{_formatted(value)} is not a time in milliseconds between 1970 and 2109"
        raise RejectedError(Reason.BAD_TIME, text if hint is None else f"{text}; {hint}")
    return time_ms


def _from_iso(text: str, hint: str | None) -> int:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise RejectedError(Reason.BAD_TIME, f"{text[:40]!r} has no UTC offset; write for example a final Z")
        return _to_milliseconds(moment)
    except (ValueError, OverflowError):  # overflow: in UTC it is before the year 1 or after the year 9999
        told = "" if hint is None else f"; it {hint}"
        raise RejectedError(Reason.BAD_TIME, f"{text[:40]!r} is not an ISO 8601 time{told}") from None


def _formatted(value: int | str) -> str:
    """A time as it was given, cut: a number may have thousands of digits."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _to_milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970, exact (a float of seconds would not be)."""
    offset = moment.utcoffset()
    assert offset is not None
    utc = moment.replace(tzinfo=None) - offset
    delta = utc - datetime(1970, 1, 1)
    return delta.days * 86_400_000 + delta.seconds * 1_000 + delta.microseconds // 1_000


_TIMES = ("`$.time`", "`$.start`", "`$.end`")

_decode_event = msgspec.json.Decoder(_SentEvent).decode
_decode_label = msgspec.json.Decoder(Label).decode
_decode_control = msgspec.json.Decoder(Control).decode
_decode_diagnosis = msgspec.json.Decoder(Diagnosis).decode
_encode = msgspec.json.Encoder().encode


def check_event_bytes(value: bytes) -> None:
    """Raises RejectedError if they are too many to be kept with a machine's state."""
    if len(value) > MAX_EVENT_BYTES:
        raise RejectedError(Reason.TOO_LARGE, f"{len(value)} bytes; an event may have {MAX_EVENT_BYTES}")


def decoded(decode: Callable[[bytes], _Message], value: bytes) -> _Message:
    """What a decoder of msgspec makes of JSON bytes; raises RejectedError."""
    try:
        return decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refused(error, value) from None


def text_id(event: EventMessage, time_ms: int) -> str:
    """A text's own id, a checksum for its end if it is too long; without one, its time and content."""
    if not event.id:
        return f"{time_ms}-{zlib.crc32(event.text.encode(errors='replace')):08x}"
    if len(event.id) <= _MAX_TEXT_ID:
        return event.id
    return f"{event.id[: _MAX_TEXT_ID - 9]}-{zlib.crc32(event.id.encode(errors='replace')):08x}"


def decode_event(value: bytes) -> EventMessage:
    """An event text from its JSON bytes; raises RejectedError."""
    check_event_bytes(value)
    sent = decoded(_decode_sent, value)
    return EventMessage(
        machine=digits_of(sent.machine),
        time=sent.time,
        text=digits_of(sent.text),
        id=None if sent.id is None else digits_of(sent.id),
        source=None if sent.source is None else digits_of(sent.source),
        severity=None if sent.severity is None else digits_of(sent.severity),
    )


def _decode_sent(value: bytes) -> _SentEvent:
    try:
        return _decode_event(value)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        # Half of a surrogate pair is left where a text was cut inside an emoji; msgspec refuses it, Python does not.
        if b"\\ud" not in value.lower():
            raise
        try:
            body = json.loads(value)
        except ValueError:
            raise error from None
        return msgspec.convert(body, _SentEvent)


def digits_of(given: Identifier) -> str:
    """An identifier as text; a number as its digits, without a decimal point if it is whole."""
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    return given.encode(errors="replace").decode() if isinstance(given, str) else str(given)


def decode_label(value: bytes) -> Label:
    """A label from its JSON bytes; raises RejectedError."""
    return decoded(_decode_label, value)


def decode_control(value: bytes) -> Control:
    """A control record from its JSON bytes; raises RejectedError."""
    return decoded(_decode_control, value)


def decode_diagnosis(value: bytes) -> Diagnosis:
    """A published diagnosis from its JSON bytes; raises RejectedError."""
    return decoded(_decode_diagnosis, value)


def encode(message: msgspec.Struct) -> bytes:
    """JSON bytes of any message of this module."""
    return _encode(message)


def text_head(id_: str, text: str) -> bytes:
    """The JSON of a TextEvidence up to its age."""
    return _encode(TextEvidence(id_, text, 0, False)).removesuffix(b'0,"late":false}')


def quoted(name: str) -> bytes:
    """A name as JSON has it between its quotes."""
    return _encode(name)[1:-1]


def refused(error: Exception, value: bytes = b"") -> RejectedError:
    """What msgspec found wrong with a message, and what its bytes look like instead."""
    text = str(error)[:200]
    hint = looks_like(value)
    told = f"; it {hint}" if hint else ""
    if not isinstance(error, msgspec.ValidationError):
        return RejectedError(Reason.NOT_JSON, f"{text or 'nested too deeply'}{told}")
    if text.startswith("Integer value out of range") and any(field in text for field in _TIMES):
        # A time of thousands of digits.
        return RejectedError(Reason.BAD_TIME, text)
    if "out of range" in text:
        return RejectedError(Reason.NOT_FINITE, text)
    if "`$.values[" in text and "Expected `float" in text:
        return RejectedError(Reason.NOT_A_NUMBER, text)
    return RejectedError(Reason.SCHEMA, text + told)


def tick(time_ms: int, partition: int) -> Output:
    """The control record that sets a partition's time."""
    return Output("control", partition, None, _encode(Control("tick", time_ms)), time_ms)
