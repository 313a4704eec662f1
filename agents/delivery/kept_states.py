"""States of another model or profile, kept in the state topic for a worker that they belong to.

A worker that refuses a machine's state writes it again under a key of its own, `MACHINE\\0ORIGIN`, in the machine's
partition and before anything is written over it. When a worker of that origin comes back, it goes on from there. No
machine id has a NUL character. A kept record has a format version of its own, so that a release that does not know such
records refuses them as it refuses every version that it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from pipeline.wire.states import STATE_VERSION, is_whole, saved_at

KEPT_MS = 7 * 24 * 3_600_000
"""How long a state is kept, by the times of its partition's records."""

KEPT_PER_MACHINE = 3
"""How many states of a machine are kept, the newest ones."""

_SEPARATOR: Final = "\0"
_KEPT_VERSION: Final = -1


class _Kept(msgspec.Struct):
    kept: bytes
    version: int = _KEPT_VERSION


class _Origin(msgspec.Struct):
    version: int
    type: str = ""
    model: str = ""
    profile: str = ""
    forgotten: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode_kept = msgspec.msgpack.Decoder(_Kept).decode
_decode_origin = msgspec.msgpack.Decoder(_Origin).decode


def origin(machine_type: str, profile: str, model: str, version: int = STATE_VERSION) -> str:
    """Which workers a state is of use to: those with this machine type, model (its hash), profile (the type's digest)
    and format.
    """
    return f"{version}-{model[:16]}-{profile[:16]}-{machine_type}"


def origin_of(state: bytes) -> str | None:
    """The origin of a saved state; None if it cannot be read, or is of use to every worker."""
    try:
        found = _decode_origin(state)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return (
        None
        if found.forgotten or not is_whole(state)
        else origin(found.type, found.profile, found.model, found.version)
    )


def kept_name(machine: str, state_origin: str) -> str:
    """The name under which a machine's state of this origin is kept."""
    return f"{machine}{_SEPARATOR}{state_origin}"


def machine_part(key: bytes) -> bytes:
    """The machine's key in the key of a state, which decides about the partition."""
    return key.partition(_SEPARATOR.encode())[0]


def is_kept(name: str) -> bool:
    """Whether a state has the name of one that is kept."""
    return _SEPARATOR in name


def of_machines(states: Mapping[str, bytes]) -> dict[str, bytes]:
    """The states in use, by machine."""
    return {name: state for name, state in states.items() if not is_kept(name)}


def kept_of(states: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """The states that are kept, by machine and origin; empty where one cannot be read."""
    kept: dict[str, dict[str, bytes]] = {}
    for name, state in states.items():
        if is_kept(name):
            machine, _, state_origin = name.partition(_SEPARATOR)
            kept.setdefault(machine, {})[state_origin] = _content(state)
    return kept


def wrap(state: bytes) -> bytes:
    """The record that keeps a state."""
    return _encode(_Kept(state))


def _content(record: bytes) -> bytes:
    try:
        return _decode_kept(record).kept
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""


def outdated(
    kept: Mapping[str, Mapping[str, bytes]], in_use: Mapping[str, str | None], newest_ms: int
) -> Iterator[str]:
    """Names of the kept states that are of no use any more.

    They are those of machines that are not `in_use`, those whose origin is that of the state in use, those that are
    older than KEPT_MS at `newest_ms`, all but the newest ones of a machine, and what cannot be read.
    """
    for machine, by_origin in kept.items():
        last_ms = {name: saved_at(state).last for name, state in by_origin.items() if origin_of(state) == name}
        ages_ms = {name: 0 if last is None else newest_ms - last for name, last in last_ms.items()}
        newest = sorted(ages_ms, key=ages_ms.__getitem__)[:KEPT_PER_MACHINE]
        for name in by_origin:
            is_needed = machine in in_use and in_use[machine] != name
            if not is_needed or name not in newest or ages_ms[name] > KEPT_MS:
                yield kept_name(machine, name)
