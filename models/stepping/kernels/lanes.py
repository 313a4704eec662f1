"""Eight float32 numbers that the processor works on at once: a numba type with the operations that the step needs.

LLVM turns each operation into whatever the processor has (two SSE registers, one of AVX). Every operation is a single
IEEE operation per lane, and nothing is contracted or reordered, so the bits are the same on every processor. Kernels
written in lanes do not depend on the mood of a compiler's own vectorizer either.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

from llvmlite import ir
from numba import types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES: Final = 8

Lanes = Any
"""Eight numbers inside a compiled function, for signatures that people read; numba infers its own types."""

_FLOAT = ir.FloatType()
_INT = ir.IntType(32)
_FLOATS = ir.VectorType(_FLOAT, LANES)
_INTS = ir.VectorType(_INT, LANES)
_ALIGNMENT: Final = 4
"""Bytes; rows begin anywhere."""

_EXPONENT_BITS: Final = 23
_BIAS: Final = 127
_SIGN: Final = 0x80000000
_MANTISSA: Final = 0x007FFFFF


class LanesType(types.Type):  # type: ignore[misc]  # numba has no types here
    """Type of eight float32 numbers inside compiled functions; they cannot be passed in from Python."""

    def __init__(self) -> None:
        super().__init__(name="Lanes")


lanes: Final = LanesType()


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, of_type: Any) -> None:
        super().__init__(manager, of_type, _FLOATS)


def _constant(kind: ir.VectorType, value: float) -> Any:
    return ir.Constant(kind, [value] * LANES)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


def _reduced(builder: Any, value: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """All lanes combined into one number, halves first, in an order that never changes."""
    width = LANES
    while width > 1:
        width //= 2
        halves = [
            builder.shuffle_vector(
                value,
                ir.Constant(value.type, ir.Undefined),
                ir.Constant(ir.VectorType(_INT, width), list(range(start, start + width))),
            )
            for start in (0, width)
        ]
        value = combine(*halves)
    return builder.extract_element(value, ir.Constant(_INT, 0))


def _in_every_lane(builder: Any, value: Any) -> Any:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(single, undefined, _constant(_INTS, 0))


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    """The eight numbers of a flat float32 array that begin at `index`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=_ALIGNMENT)

    return lanes(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Put eight numbers into a flat float32 array from `index` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = _pointer(context, builder, signature.args[0], *arguments[:2])
        builder.store(arguments[2], target, align=_ALIGNMENT)
        return context.get_dummy_value()

    return types.void(array, types.intp, lanes), generate


@intrinsic
def splat(typing_context: Any, value: Any) -> Any:
    """One number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _in_every_lane(builder, arguments[0])

    return lanes(types.float32), generate


@intrinsic
def broadcast(typing_context: Any, array: Any, index: Any) -> Any:
    """One number of a flat float32 array in every lane; unlike `splat(array[index])` without numba's test for negative
    indices, which would take as long as the arithmetic of an inner loop."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        value = builder.load(builder.gep(data, [arguments[1]]), align=_ALIGNMENT)
        return _in_every_lane(builder, value)

    return lanes(array, types.intp), generate


@intrinsic
def first(typing_context: Any, value: Any) -> Any:
    """The number in the first lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(arguments[0], ir.Constant(_INT, 0))

    return types.float32(lanes), generate


@intrinsic
def total(typing_context: Any, value: Any) -> Any:
    """Sum of all lanes: halves are added until one number is left, ((0+4)+(2+6)) + ((1+5)+(3+7))."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduced(builder, arguments[0], builder.fadd)

    return types.float32(lanes), generate


@intrinsic
def totals(typing_context: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> Any:
    """Eight sums, each of all lanes of one argument, with fewer steps than eight times `total`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = list(arguments)
        # Each level adds the halves of what is left of every argument, and packs two results into one vector.
        for part in (LANES // 2, LANES // 4, LANES // 8):
            starts = range(0, 2 * LANES, 2 * part)
            low = [start + lane for start in starts for lane in range(part)]
            high = [index + part for index in low]
            pairs = zip(values[::2], values[1::2], strict=True)
            values = [
                builder.fadd(*(builder.shuffle_vector(one, other, ir.Constant(_INTS, lanes)) for lanes in (low, high)))
                for one, other in pairs
            ]
        return values[0]

    return lanes(*[lanes] * LANES), generate


@intrinsic
def counting(typing_context: Any) -> Any:
    """0, 1, 2 … 7."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(_FLOATS, [float(lane) for lane in range(LANES)])

    return lanes(), generate


@intrinsic
def largest(typing_context: Any, value: Any) -> Any:
    """The largest of all lanes, of which none is a NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _reduced(builder, arguments[0], lambda a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))

    return types.float32(lanes), generate


@intrinsic
def pick_less(typing_context: Any, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
    """Lane by lane `then` where a < b, else `otherwise`, which is also what a NaN gets."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *arguments[:2]), *arguments[2:])

    return lanes(lanes, lanes, lanes, lanes), generate


@intrinsic
def absolute(typing_context: Any, value: Any) -> Any:
    """The numbers without their signs."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.and_(builder.bitcast(arguments[0], _INTS), _constant(_INTS, _SIGN - 1))
        return builder.bitcast(bits, _FLOATS)

    return lanes(lanes), generate


@intrinsic
def with_sign(typing_context: Any, magnitude: Any, signed: Any) -> Any:
    """Numbers that are not negative, with the signs of others."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        magnitude, signed = (builder.bitcast(argument, _INTS) for argument in arguments)
        return builder.bitcast(builder.or_(magnitude, builder.and_(signed, _constant(_INTS, _SIGN))), _FLOATS)

    return lanes(lanes, lanes), generate


@intrinsic
def times_power_of_two(typing_context: Any, value: Any, exponent: Any) -> Any:
    """value * 2 ** exponent, for whole exponents from -126 to 127."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        biased = builder.add(builder.fptosi(arguments[1], _INTS), _constant(_INTS, _BIAS))
        power = builder.bitcast(builder.shl(biased, _constant(_INTS, _EXPONENT_BITS)), _FLOATS)
        return builder.fmul(arguments[0], power)

    return lanes(lanes, lanes), generate


@intrinsic
def exponent(typing_context: Any, value: Any) -> Any:
    """The whole n of value = m * 2 ** n with 1 <= m < 2, for normal positive numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.bitcast(arguments[0], _INTS)
        biased = builder.lshr(bits, _constant(_INTS, _EXPONENT_BITS))
        return builder.sitofp(builder.sub(biased, _constant(_INTS, _BIAS)), _FLOATS)

    return lanes(lanes), generate


@intrinsic
def mantissa(typing_context: Any, value: Any) -> Any:
    """The m of value = m * 2 ** n with 1 <= m < 2, for normal positive numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        bits = builder.and_(builder.bitcast(arguments[0], _INTS), _constant(_INTS, _MANTISSA))
        return builder.bitcast(builder.or_(bits, _constant(_INTS, _BIAS << _EXPONENT_BITS)), _FLOATS)

    return lanes(lanes), generate


@intrinsic
def square_root(typing_context: Any, value: Any) -> Any:
    """Of one float32 number, correctly rounded."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [_FLOAT]), arguments)

    return types.float32(types.float32), generate


@intrinsic
def roots(typing_context: Any, value: Any) -> Any:
    """Square roots of numbers that are not negative, correctly rounded."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        return builder.call(builder.module.declare_intrinsic(f"llvm.sqrt.v{LANES}f32", (), kind), arguments)

    return lanes(lanes), generate


def _define(symbol: Callable[..., Any], instruction: str) -> None:
    """Let an operator of Python stand for an instruction on lanes."""

    @infer_global(symbol)
    class Typing(ConcreteTemplate):  # type: ignore[misc]
        cases = (signature(lanes, lanes, lanes),)

    @lower_builtin(symbol, lanes, lanes)
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return getattr(builder, instruction)(*arguments)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
