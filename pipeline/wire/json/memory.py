"""Bytes by their address in compiled code: no call passes an array, which numba would count references to each time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pipeline.arrays import Ints

_BYTE, _WORD = ir.IntType(8), ir.IntType(64)


def address_of(text: bytes) -> int:
    """Where bytes are, for as long as somebody keeps them."""
    address: int = np.frombuffer(text or b" ", np.uint8).ctypes.data
    return address


def ends_of(texts: Sequence[bytes]) -> Ints:
    """Where each of some texts ends when they are joined, behind a 0."""
    ends = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=ends[1:])
    return ends


def _pointer(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


@intrinsic
def load_byte(_: Any, address: Any) -> Any:
    """The byte at an address."""

    def generate(_: Any, builder: Any, __: Any, values: Sequence[Any]) -> Any:
        return builder.zext(builder.load(_pointer(builder, values[0], _BYTE)), _WORD)

    return types.int64(types.int64), generate


@intrinsic
def load_word(_: Any, address: Any) -> Any:
    """Eight bytes as one number; the first one lowest, on a little-endian processor."""

    def generate(_: Any, builder: Any, __: Any, values: Sequence[Any]) -> Any:
        return builder.load(_pointer(builder, values[0], _WORD), align=1)

    return types.uint64(types.int64), generate


@intrinsic
def store_byte(_: Any, address: Any, byte: Any) -> Any:
    """Put a byte at an address."""

    def generate(context: Any, builder: Any, _: Any, values: Sequence[Any]) -> Any:
        builder.store(builder.trunc(values[1], _BYTE), _pointer(builder, values[0], _BYTE))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def copy_bytes(_: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy so many bytes from one address to another; they do not overlap."""

    def generate(context: Any, builder: Any, _: Any, values: Sequence[Any]) -> Any:
        to, from_ = (_pointer(builder, address, _BYTE) for address in values[:2])
        cgutils.raw_memcpy(builder, to, from_, values[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate
