"""Operations as functions of their own: each is compiled when a model first needs it, and called by its address."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from models.configs import fusion
from models.stepping.kernels.block import Block
from models.stepping.kernels.codes import OPERANDS
from pipeline.compiled import CompiledCallback

SOURCES: Final = [*Path(__file__).parents[1].rglob("*.py"), Path(fusion.__file__)]
"""Files that the compiled code depends on."""

_ANY_SIZE: Final = 1 << 40
"""Where an array comes as an address, its size is not known, and not asked for."""

_INTS, _FLOATS = types.CPointer(types.int64), types.CPointer(types.float32)
_ARGUMENTS: Final = (_INTS, _FLOATS, _FLOATS, _FLOATS, _INTS, _INTS, _INTS, types.int64, types.int64)
_SIGNATURE: Final = types.void(*_ARGUMENTS)


def operation(kernel: Any) -> CompiledCallback:
    """What `call` can call by address, of a kernel that takes operands, block and rows."""

    def entry(
        op: Any, weights: Any, work: Any, states: Any, at: Any, state_at: Any, rows: Any, count: int, present_at: int
    ) -> None:
        block = Block(
            carray(weights, _ANY_SIZE),
            carray(work, _ANY_SIZE),
            carray(states, _ANY_SIZE),
            carray(at, _ANY_SIZE),
            carray(state_at, _ANY_SIZE),
            present_at,
        )
        kernel(carray(op, OPERANDS), block, carray(rows, count))

    return CompiledCallback(entry, _SIGNATURE, SOURCES, name=kernel.__name__)


@intrinsic
def call(
    typing_context: Any,
    address: Any,
    op: Any,
    weights: Any,
    work: Any,
    states: Any,
    at: Any,
    state_at: Any,
    rows: Any,
    count: Any,
    present_at: Any,
) -> Any:
    """Call an operation by its address."""
    arrays = (op, weights, work, states, at, state_at, rows)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        passed = [
            context.make_array(kind)(context, builder, array).data
            for kind, array in zip(arrays, arguments[1:-2], strict=True)
        ]
        passed += arguments[-2:]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in passed])
        function = builder.inttoptr(arguments[0], kind.as_pointer())
        builder.call(function, passed)
        return context.get_dummy_value()

    return types.void(types.int64, *arrays, types.int64, types.int64), generate
