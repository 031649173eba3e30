# SPDX-License-Identifier: Apache-2.0
"""Sums of powers in vector lanes, one sum for each coefficient of a polynomial; the order is part of the type."""

from typing import Any

from llvmlite import ir
from numba import types

from steepest.kernels._llvm import intrinsic
from steepest.kernels._vector import LANES, WIDTH, sum_of_lanes

_F32, _I32 = ir.FloatType(), ir.IntType(32)
_LANES = ir.VectorType(_F32, WIDTH)


def _fma(builder: Any) -> Any:
    kind = ir.FunctionType(_LANES, [_LANES] * 3)
    known = builder.module.globals.get("llvm.fma.v16f32")
    return known or ir.Function(builder.module, kind, "llvm.fma.v16f32")


def _tuple(builder: Any, context: Any, kind: Any, values: list[Any]) -> Any:
    result = ir.Constant(context.get_value_type(kind), ir.Undefined)
    for i, value in enumerate(values):
        result = builder.insert_value(result, value, i)
    return result


@intrinsic
def coefficients(typingctx: Any, pointer: Any, order: Any) -> Any:
    """Return pointer[0], ..., pointer[order - 1] as a tuple for `vhorner`; the order must be a constant."""
    if not isinstance(order, types.IntegerLiteral):
        return None
    result = types.UniTuple(types.float32, order.literal_value)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        places = [builder.gep(args[0], [ir.Constant(_I32, i)]) for i in range(order.literal_value)]
        return _tuple(builder, context, result, [builder.load(place) for place in places])

    return result(pointer, order), generate


@intrinsic
def no_sums(typingctx: Any, order: Any) -> Any:
    """Return `order` lanes of zeros; the order must be a constant."""
    if not isinstance(order, types.IntegerLiteral):
        return None
    result = types.UniTuple(LANES, order.literal_value)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _tuple(builder, context, result, [ir.Constant(_LANES, [0.0] * WIDTH)] * order.literal_value)

    return result(order), generate


@intrinsic
def add_even_powers(typingctx: Any, sums: Any, x: Any) -> Any:
    """Return sums[k] + x^(2 (k + 1)) for every k."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        power, values, fma = args[1], [], _fma(builder)
        for k in range(len(sums)):
            power = power if k == 0 else builder.fmul(power, args[1])
            values.append(builder.call(fma, [power, power, builder.extract_value(args[0], k)]))
        return _tuple(builder, context, sums, values)

    return sums(sums, x), generate


@intrinsic
def add_powers(typingctx: Any, sums: Any, g: Any, x: Any) -> Any:
    """Return sums[k] + g x^k for every k."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        product, values = args[1], []
        for k in range(len(sums)):
            product = product if k == 0 else builder.fmul(product, args[2])
            values.append(builder.fadd(builder.extract_value(args[0], k), product))
        return _tuple(builder, context, sums, values)

    return sums(sums, g, x), generate


@intrinsic
def add_sums(typingctx: Any, pointer: Any, sums: Any) -> Any:
    """Add the total of each lanes to the float64 at pointer[k], in a fixed tree order."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for k in range(len(sums)):
            total = sum_of_lanes(builder, builder.extract_value(args[1], k))
            place = builder.gep(args[0], [ir.Constant(_I32, k)])
            builder.store(builder.fadd(builder.load(place), total), place)
        return context.get_dummy_value()

    return types.void(pointer, sums), generate


@intrinsic
def positive_part(typingctx: Any, g: Any, x: Any) -> Any:
    """Return g where x > 0 or x is NaN, else 0."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        zero = ir.Constant(_LANES, [0.0] * WIDTH)
        return builder.select(builder.fcmp_unordered(">", args[1], zero), args[0], zero)

    return LANES(LANES, LANES), generate
