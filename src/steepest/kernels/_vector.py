# SPDX-License-Identifier: Apache-2.0
"""Sixteen float32 lanes as a value in jitted code, for row kernels that the loop vectorizer cannot be trusted with.

A reduction whose order is fixed, the tail of a row, a streaming store: each is one call here. Sixteen lanes are one
AVX-512 register, two of AVX2, four of NEON; LLVM splits them. A scalar operand stands for itself in every lane.
Memory is float32, bfloat16 or float16 according to the pointer; lanes are always float32.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import extending
from numba.core.datamodel import models
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

from steepest.kernels._llvm import _pointer_intrinsic, intrinsic

#: Number of lanes.
WIDTH = 16
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_F32, _F64, _HALF = ir.FloatType(), ir.DoubleType(), ir.HalfType()
_LANES, _WIDE, _MASK = (ir.VectorType(kind, WIDTH) for kind in (_F32, _F64, ir.IntType(1)))
_INTS, _SHORTS, _HALVES = (ir.VectorType(kind, WIDTH) for kind in (_I32, _I16, _HALF))


class Lanes(types.Type):
    """Numba's type of sixteen float32 lanes."""


LANES = Lanes("f32x16")


_register_model: Any = extending.register_model
_infer_global: Any = infer_global


@_register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _LANES)


#: Pointer types and the element they stand for: a signed 16-bit pointer is float16, an unsigned one bfloat16.
_ELEMENTS = {
    types.CPointer(types.float32): (_F32, _LANES, 4),
    types.CPointer(types.uint16): (_I16, _SHORTS, 2),
    types.CPointer(types.int16): (_HALF, _HALVES, 2),
}
bfloat_pointer = _pointer_intrinsic(types.uint16, "Return a bfloat16 pointer to an address.")
half_pointer = _pointer_intrinsic(types.int16, "Return a float16 pointer to an address.")


def _function(builder, name, result, arguments):
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, arguments), name)


def _constant(value, kind=_LANES):
    return ir.Constant(kind, [value] * WIDTH)


def _splat(builder, value, kind):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(_INTS, [0] * WIDTH))


def _lanes(builder, value, kind):
    return value if kind == LANES else _splat(builder, value, _LANES)


def _is_operand(kind):
    return kind in (LANES, types.float32)


def _pure(name, arity, doc, build):
    """Return an intrinsic of `arity` operands, each lanes or a scalar, that `build(builder, *lanes)` makes."""

    def typed(*kinds):
        if not all(map(_is_operand, kinds)) or LANES not in kinds:
            return None

        def generate(context, builder, sig, args):
            return build(builder, *(_lanes(builder, a, k) for a, k in zip(args, sig.args, strict=True)))

        return LANES(*kinds), generate

    typers: dict[int, Any] = {
        1: lambda typingctx, a: typed(a),
        2: lambda typingctx, a, b: typed(a, b),
        3: lambda typingctx, a, b, c: typed(a, b, c),
    }
    typer = typers[arity]
    typer.__name__, typer.__doc__ = name, doc
    return intrinsic(typer)


def _call(name):
    def build(builder, *lanes):
        return builder.call(_function(builder, f"llvm.{name}.v16f32", _LANES, [_LANES] * len(lanes)), lanes)

    return build


def _larger(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _shifted_into_exponent(builder, n):
    return builder.shl(builder.bitcast(n, _INTS), _constant(23, _INTS))


def _powers_of_two(builder, n):
    return builder.bitcast(_shifted_into_exponent(builder, n), _LANES)


def _scaled(builder, a, n):
    return builder.bitcast(builder.add(builder.bitcast(a, _INTS), _shifted_into_exponent(builder, n)), _LANES)


vfma = _pure("vfma", 3, "Return a * b + c rounded once.", _call("fma"))
vrint = _pure("vrint", 1, "Round to the nearest integer, ties to even.", _call("rint"))
vmax = _pure("vmax", 2, "Return a where a > b, else b: b also where either is NaN.", _larger)
vpower = _pure("vpower", 1, "Return 2^(n - 127) for 1.5 2^23 + n, n from 1 to 254; 0 for n = 0.", _powers_of_two)
vscale = _pure(
    "vscale",
    2,
    "Return a * 2^n for 1.5 2^23 + n, where both a and the result are normal; exact, NaN may be lost.",
    _scaled,
)


vproduct = _pure(
    "vproduct", 2, "Return a * b, which `vsum` may fuse.", lambda b, x, y: b.fmul(x, y, flags=("contract",))
)
vsum = _pure(
    "vsum",
    2,
    "Return a + b, fused where b is a `vproduct` used once.",
    lambda b, x, y: b.fadd(x, y, flags=("contract",)),
)


@intrinsic
def splat(typingctx, a):
    """Return lanes that all hold a."""
    return LANES(types.float32), lambda context, builder, sig, args: _splat(builder, args[0], _LANES)


@intrinsic
def vhorner(typingctx, x, coefficients):
    """Return coefficients[0] + x * (coefficients[1] + ...) by fused Horner steps."""

    def generate(context, builder, sig, args):
        parts = [_splat(builder, builder.extract_value(args[1], i), _LANES) for i in range(len(sig.args[1]))]
        value = parts[-1]
        for part in reversed(parts[:-1]):
            value = _call("fma")(builder, value, args[0], part)
        return value

    return LANES(x, coefficients), generate


def _arithmetic(operation, instruction):
    @_infer_global(operation)
    class Arithmetic(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) == 2 and LANES in args and all(map(_is_operand, args)):
                return signature(LANES, *args)
            return None

    def generate(context, builder, sig, args):
        a, b = (_lanes(builder, value, kind) for value, kind in zip(args, sig.args, strict=True))
        return getattr(builder, instruction)(a, b)

    for kinds in ((LANES, LANES), (LANES, types.float32), (types.float32, LANES)):
        lower_builtin(operation, *kinds)(generate)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")


@intrinsic
def minus(typingctx, a, shift):
    """Return a - shift, or a if shift is None."""

    def generate(context, builder, sig, args):
        return (
            args[0]
            if isinstance(sig.args[1], types.NoneType)
            else builder.fsub(args[0], _splat(builder, args[1], _LANES))
        )

    return LANES(a, shift), generate


@intrinsic
def lanes_max(typingctx, a):
    """Return the largest lane that is not NaN; -inf if there is none."""

    def generate(context, builder, sig, args):
        clean = _larger(builder, args[0], _constant(float("-inf")))
        reduce = _function(builder, "llvm.vector.reduce.fmax.v16f32", _F32, [_LANES])
        return builder.call(reduce, [clean], fastmath=("nnan", "nsz"))

    return types.float32(LANES), generate


def sum_of_lanes(builder, lanes):
    """Build the float64 sum of lanes in a fixed tree order."""
    total, count = builder.fpext(lanes, _WIDE), WIDTH
    while count > 1:
        count //= 2
        low, high = (
            builder.shuffle_vector(
                total, ir.Constant(total.type, ir.Undefined), ir.Constant(ir.VectorType(_I32, count), half)
            )
            for half in (list(range(count)), list(range(count, 2 * count)))
        )
        total = builder.fadd(low, high)
    return builder.extract_element(total, ir.Constant(_I32, 0))


@intrinsic
def lanes_sum(typingctx, a):
    """Return the sum of the lanes in float64, in a fixed tree order."""
    return types.float64(LANES), lambda context, builder, sig, args: sum_of_lanes(builder, args[0])


def _widen(builder, value):
    if value.type == _SHORTS:
        bits = builder.shl(builder.zext(value, _INTS), _constant(16, _INTS))
        return builder.bitcast(bits, _LANES)
    return builder.fpext(value, _LANES) if value.type == _HALVES else value


def _place(builder, kind, pointer, i):
    scalar, vector, size = _ELEMENTS[kind]
    typed = builder.bitcast(pointer, scalar.as_pointer())
    return builder.bitcast(builder.gep(typed, [i]), vector.as_pointer()), vector, size


def _first(builder, count):
    numbers = ir.Constant(_INTS, list(range(WIDTH)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, _I32), _INTS))


_MANGLED = {_LANES: "v16f32", _SHORTS: "v16i16", _HALVES: "v16f16"}


def _read(builder, kind, pointer, i):
    place, _, size = _place(builder, kind, pointer, i)
    return _widen(builder, builder.load(place, align=size))


def _read_some(builder, kind, pointer, i, count):
    place, vector, size = _place(builder, kind, pointer, i)
    kinds = [place.type, _I32, _MASK, vector]
    load = _function(builder, f"llvm.masked.load.{_MANGLED[vector]}.p0", vector, kinds)
    wanted = _first(builder, count)
    raw = builder.call(load, [place, ir.Constant(_I32, size), wanted, ir.Constant(vector, None)])
    return _widen(builder, raw)


@intrinsic
def load(typingctx, pointer, i):
    """Return elements i to i + 15."""

    def generate(context, builder, sig, args):
        return _read(builder, sig.args[0], *args)

    return LANES(pointer, types.intp), generate


@intrinsic
def load_some(typingctx, pointer, i, count):
    """Return elements i to i + count - 1, count <= 16, and 0 in the other lanes, whose memory is not touched."""

    def generate(context, builder, sig, args):
        return _read_some(builder, sig.args[0], args[0], args[1], args[2])

    return LANES(pointer, types.intp, types.intp), generate


@intrinsic
def first_lanes(typingctx, a, count):
    """Return lanes 0 to count - 1 of a, count <= 16, and 0 in the others."""

    def generate(context, builder, sig, args):
        return builder.select(_first(builder, args[1]), args[0], _constant(0.0))

    return LANES(LANES, types.intp), generate


@intrinsic
def without_lane(typingctx, a, lane):
    """Return a with 0 in one lane; any number that is none of a lane takes none out."""

    def generate(context, builder, sig, args):
        numbers = ir.Constant(_INTS, list(range(WIDTH)))
        others = builder.icmp_signed("!=", numbers, _splat(builder, builder.trunc(args[1], _I32), _INTS))
        return builder.select(others, args[0], _constant(0.0))

    return LANES(LANES, types.intp), generate


def _logits(builder, kinds, parts, read):
    value = read(kinds[0], parts[0], lambda i: i)
    if len(parts) == 1:
        return value
    # A step of 0 reads one line of zeros again and again: no mask.
    mask = read(kinds[1], parts[1], lambda i: builder.mul(i, parts[2]))
    return _call("fma")(builder, value, _splat(builder, parts[3], _LANES), mask)


def _unpack(builder, sig, args):
    kinds = list(sig.args[0])
    return kinds, [builder.extract_value(args[0], i) for i in range(len(kinds))]


@intrinsic
def logits(typingctx, source, i):
    """Return logits i to i + 15 of source: (x,) or (x, mask, mask step, 1 / temperature)."""

    def generate(context, builder, sig, args):
        return _logits(builder, *_unpack(builder, sig, args), lambda kind, p, at: _read(builder, kind, p, at(args[1])))

    return LANES(source, types.intp), generate


@intrinsic
def logits_some(typingctx, source, i, count):
    """Return logits i to i + count - 1 of source, count <= 16, and -inf in the other lanes."""

    def generate(context, builder, sig, args):
        value = _logits(
            builder,
            *_unpack(builder, sig, args),
            lambda kind, p, at: _read_some(builder, kind, p, at(args[1]), args[2]),
        )
        return builder.select(_first(builder, args[2]), value, _constant(float("-inf")))

    return LANES(source, types.intp, types.intp), generate
