"""A machine's saved state: its content, its bytes, and what can be read of it without restoring it."""

from __future__ import annotations

import zlib
from typing import Final, NamedTuple

import msgspec

from pipeline.arrays import NEVER_MS
from pipeline.errors import StateError

STATE_VERSION = 1

_NO_CHECK: Final = bytes(4)
_CHECK_MARK: Final = b"\xa5check\xc4\x04"
"""How a state ends before its checksum: the field's name and size in msgpack."""

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class SavedMachine(msgspec.Struct, frozen=True, gc=False):
    """Everything that a machine's future depends on."""

    version: int
    machine: str
    type: str
    profile: str
    """Digest of the machine type's part of the profile."""
    model: str
    """The model's hash."""
    partition: int
    last: int
    """Time stamp of its newest record, milliseconds."""
    arrived: list[int]
    """By source, time stamp of its newest reading, milliseconds."""
    applied: dict[str, int]
    """By topic, the last offset whose effect is in the state."""
    aligner: dict[str, object]
    runner: bytes
    alarms: bytes
    texts: list[tuple[str, str, int, bool]]
    """Id, text, time in milliseconds and lateness of the texts that diagnoses can show; of an area, those about its
    utilities, with the utility's id."""
    clock: int | None = None
    """How far the partition's time had come, milliseconds; unknown in older states."""
    logs: dict[str, str] = {}
    """By topic, the id of the log that the offset in `applied` belongs to, where it is known."""
    drift: bytes = b""
    """Windows, reference and standing drift; empty in older states and without drift reports."""
    alarm_life: bytes = b""
    """Open, shelved and suppressed alarms, and settings that came with control records; empty in older states, and
    where there is none of that."""
    check: bytes = _NO_CHECK
    """CRC-32 of all that comes before it; the last field. Older states have none."""


class Forgotten(msgspec.Struct, frozen=True):
    """What is kept of a forgotten machine: that its records are applied, until they are committed; and up to where it
    was diagnosed, so that no diagnosis is made a second time with other contents, until `keep_until`.
    """

    machine: str
    partition: int
    last: int
    applied: dict[str, int]
    clock: int | None = None
    forgotten: bool = True
    version: int = STATE_VERSION
    logs: dict[str, str] = {}
    closed: int = -1
    """Up to where its frames had closed, milliseconds; negative if none had."""
    keep_until: int = -1
    """Until the partition's time has come here, milliseconds."""
    check: bytes = _NO_CHECK
    """As in SavedMachine."""


class StateOwner(NamedTuple):
    """What a saved state has to belong to; states of others are refused."""

    kind: str
    """The machine type."""
    profile: str
    """Digest of the part of the profile that the state depends on."""
    model: str
    """The model's hash."""
    frame_period_ms: int


class _Head(msgspec.Struct):
    version: int
    forgotten: bool = False


class SavedAt(msgspec.Struct):
    """What can be read of a saved state without restoring it."""

    applied: dict[str, int] = {}
    """By topic, the last offset whose effect is in the state."""
    last: int | None = None
    """Time stamp of the machine's newest record, milliseconds."""
    partition: int = -1
    logs: dict[str, str] = {}
    """By topic, the id of the log that the offset in `applied` belongs to, where it is known."""
    clock: int | None = None
    """How far the partition's time had come, milliseconds, where it is known."""


_decode_saved_at = msgspec.msgpack.Decoder(SavedAt).decode


def saved_at(state: bytes) -> SavedAt:
    """Offsets and time of a saved state; empty if it cannot be read."""
    try:
        return _decode_saved_at(state) if is_whole(state) else SavedAt()
    except _UNREADABLE:
        return SavedAt()


def encode_state(saved: SavedMachine | Forgotten) -> bytes:
    """The bytes of a state, with their checksum."""
    content = bytearray(_encode(saved))
    content[-4:] = _checksum(content)
    return bytes(content)


def _checksum(content: bytes | bytearray) -> bytes:
    return zlib.crc32(memoryview(content)[:-4]).to_bytes(4)


def is_whole(state: bytes) -> bool:
    """Whether the checksum is that of the content; a state without one may be."""
    return state[-4 - len(_CHECK_MARK) : -4] != _CHECK_MARK or state[-4:] == _checksum(state)


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(_Head).decode
_decode_forgotten = msgspec.msgpack.Decoder(Forgotten).decode
_decode_machine = msgspec.msgpack.Decoder(SavedMachine).decode


def decode_state(machine: str, state: bytes) -> SavedMachine | Forgotten:
    """The saved state of a machine; raises StateError if it cannot be read, is another's or has another version."""
    if not is_whole(state):
        raise StateError(f"state of {machine} is damaged: its content does not match its checksum")
    try:
        head = _decode_head(state)
        if head.version != STATE_VERSION:
            raise StateError(f"state of {machine} has version {head.version}, this is {STATE_VERSION}")
        saved = _decode_forgotten(state) if head.forgotten else _decode_machine(state)
    except _UNREADABLE as error:
        raise StateError(f"state of {machine} cannot be read: {error}") from error
    if saved.machine != machine:
        raise StateError(f"state of {machine} is that of another machine")
    clock = saved.last if saved.clock is None else saved.clock
    if not (0 <= saved.partition < 2**31 and _is_past(saved.last) and _is_past(clock)):
        raise StateError(f"state of {machine} holds a partition or a time that cannot be")
    return saved


def _is_past(time_ms: int) -> bool:
    """Whether it is a record's time stamp, or NEVER_MS; stamps are whole numbers of 64 bits, not all of them times."""
    return NEVER_MS <= time_ms <= -NEVER_MS


def belongs_elsewhere(machine: str, state: bytes, kind: str | None, profile: str | None, model: str | None) -> bool:
    """Whether a state is whole, but of another version, machine type, profile (by its digest) or model (by its hash).

    Those of the machine now are given, None if no type matches it. Such a state may still be of use to another worker.
    """
    try:
        if is_whole(state) and _decode_head(state).version != STATE_VERSION:
            return True
        saved = decode_state(machine, state)
    except (*_UNREADABLE, StateError):
        return False
    return isinstance(saved, SavedMachine) and (saved.type, saved.profile, saved.model) != (kind, profile, model)


def without_state(machine: str, state: bytes) -> bytes:
    """What is kept of a saved state that is too large to be saved: that its records are applied."""
    saved = _decode_machine(state)
    gone = Forgotten(machine, saved.partition, saved.last, saved.applied, saved.clock, logs=saved.logs)
    return encode_state(gone)
