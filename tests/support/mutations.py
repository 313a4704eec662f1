"""Damage for files and states: bytes flipped, cut and copied, and values replaced by others of any type."""

from __future__ import annotations

import copy
import random
from typing import Any, Final

import msgspec

_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 127, 2**31, -(2**31), 2**53, 2**62, -(2**63), 2**63 - 1, 2**64 - 1, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "x", "p1", "\U0001f527" * 9, "1" * 400, b"", b"\0", b"\xff" * 8, b"\xff" * 99, [],
    {}, [[]], [None], {"a": 1}, [1, 2, 3], {"sensors": -5}, {"sensors": 2**63 - 1},
)  # fmt: skip


def damaged(chance: random.Random, content: bytes) -> bytes:
    """The bytes with one to three accidents."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if not data:
            return bytes([chance.randrange(256)])
        at = chance.randrange(len(data))
        size = chance.choice((1, 1, 2, 4, 8, 64))
        match chance.randrange(7):
            case 0 | 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + size]
            case 4:
                data[at:at] = chance.randbytes(size)
            case 5:
                data[at : at + size] = bytes([chance.choice((0, 0x7F, 0x80, 0xFF))]) * size
            case 6:
                other = chance.randrange(len(data))
                data[at : at + size] = data[other : other + size]
    return bytes(data)


def altered(chance: random.Random, value: Any) -> Any:
    """A value of plain types with one part replaced, removed or added."""
    value = copy.deepcopy(value)
    holder: Any = None
    key: Any = None
    part = value
    while isinstance(part, dict | list) and part and (holder is None or chance.random() < 0.75):
        holder, key = part, chance.choice(list(part) if isinstance(part, dict) else range(len(part)))
        part = holder[key]
    new = damaged(chance, part) if isinstance(part, bytes) and chance.random() < 0.7 else _other(chance, part)
    if holder is None:
        return new
    match chance.randrange(6):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, list):
            holder.insert(key, copy.deepcopy(part))
        case 2 if isinstance(holder, dict):
            holder[chance.choice(("", "x", "sensors", "control", "9" * 50))] = new
        case _:
            holder[key] = new
    return value


def altered_msgpack(chance: random.Random, content: bytes) -> bytes:
    """A msgpack map with one part altered, as another writer would have written it."""
    return msgspec.msgpack.encode(altered(chance, msgspec.msgpack.decode(content)))


def _other(chance: random.Random, part: Any) -> Any:
    if isinstance(part, int) and not isinstance(part, bool) and chance.random() < 0.5:
        return max(-(2**63), min(part + chance.choice((1, -1, 2**16, -(2**40), 2**40)), 2**64 - 1))
    return copy.deepcopy(chance.choice(_VALUES))
