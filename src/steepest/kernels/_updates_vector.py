# SPDX-License-Identifier: Apache-2.0
"""Lanes for the updates: the terms of the rules, masks, magnitudes, the rest of a tensor."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from steepest.kernels import _vector
from steepest.kernels._llvm import _pointer_intrinsic, host_has, intrinsic
from steepest.kernels._vector import LANES, WIDTH

_I8, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_LANES, _INTS = (ir.VectorType(kind, WIDTH) for kind in (ir.FloatType(), _I32))
#: Numbers of a step, float64; the first five differ between the families. `FLOATS` of them are used as float32.
NUMBERS, FLOATS = 14, 11
EPS, L2, GRAD_SCALE, SHRINK, STEP_CUT, DECAY_CUT, RANDOM, ROUND_PARAMS, SIGN = range(5, NUMBERS)

#: Processors with AVX-512 follow the streams themselves, over pages too; there (Zen 4) asking for memory made AdamW a
#: quarter slower.
_FETCHES = not host_has("avx512f")

u8_pointer = _pointer_intrinsic(types.uint8, "Return a pointer to bytes at an address.")


def int_constant(value: int) -> ir.Constant:
    """Return lanes of one integer."""
    return _vector._constant(value, _INTS)


def splat_int(builder: Any, value: Any) -> Any:
    """Return lanes that all hold a 32-bit integer."""
    return _vector._splat(builder, value, _INTS)


def as_ints(builder: Any, lanes: Any) -> Any:
    """Return the bit patterns of lanes."""
    return builder.bitcast(lanes, _INTS)


def flag(builder: Any, condition: Any) -> Any:
    """Return a boolean as one bit."""
    return builder.trunc(condition, ir.IntType(1)) if condition.type != ir.IntType(1) else condition


_SIZES = {types.CPointer(types.uint8): 1, **{kind: size for kind, (_, _, size) in _vector._ELEMENTS.items()}}


def _bytes_at(builder: Any, pointer: Any, i: Any, size: int) -> Any:
    start = builder.bitcast(pointer, _I8.as_pointer())
    return builder.gep(start, [builder.mul(i, ir.Constant(_I64, size))])


def _scalars(builder: Any, packed: Any, *places: int) -> list[Any]:
    return [_vector._splat(builder, builder.extract_value(packed, i), _LANES) for i in places]


@intrinsic
def numbers(typingctx, address):
    """Return the first numbers of a step, float64 in memory, as float32."""

    def generate(context, builder, sig, args):
        start = builder.inttoptr(args[0], ir.DoubleType().as_pointer())
        parts = [builder.load(builder.gep(start, [ir.Constant(_I64, i)])) for i in range(FLOATS)]
        return context.make_tuple(builder, sig.return_type, [builder.fptrunc(part, _F32) for part in parts])

    return types.UniTuple(types.float32, FLOATS)(types.intp), generate


@intrinsic
def gradient(typingctx, p, g, rule):
    """Return g scaled, plus its part of p in a general rule."""

    def generate(context, builder, sig, args):
        p, g, rule = args
        l2, scale = _scalars(builder, builder.extract_value(rule, 0), L2, GRAD_SCALE)
        scaled = builder.fmul(g, scale)
        return _vector._call("fma")(builder, l2, p, scaled) if _is_general(sig.args[2]) else scaled

    return LANES(p, g, rule), generate


def _is_general(rule: Any) -> bool:
    return rule.types[2] != types.none


def _average(builder: Any, x: Any, old: Any, weight: Any, general: bool) -> Any:
    """Return old + weight (x - old); x - (1 - weight) (x - old) where the weight is large keeps a small x."""
    fma, far = _vector._call("fma"), builder.fsub(x, old)
    near = fma(builder, weight, far, old)
    if not general:
        return near
    rest = builder.fsub(weight, _vector._constant(1.0))
    is_large = builder.fcmp_ordered(">", weight, _vector._constant(0.5))
    return builder.select(is_large, fma(builder, rest, far, x), near)


@intrinsic
def first_moment(typingctx, g, m, rule):
    """Return m + k[0] (g - m)."""

    def generate(context, builder, sig, args):
        (weight,) = _scalars(builder, builder.extract_value(args[2], 0), 0)
        return _average(builder, args[0], args[1], weight, _is_general(sig.args[2]))

    return LANES(g, m, rule), generate


@intrinsic
def second_moment(typingctx, g, v, rule):
    """Return v + k[1] (g^2 - v); an infinite square, or average of them, stays so and is no NaN."""

    def generate(context, builder, sig, args):
        (weight,) = _scalars(builder, builder.extract_value(args[2], 0), 1)
        square, old, infinite = builder.fmul(args[0], args[0]), args[1], _vector._constant(float("inf"))
        average = _average(builder, square, old, weight, _is_general(sig.args[2]))
        overflown = builder.or_(builder.fcmp_ordered("==", square, infinite), builder.fcmp_ordered("==", old, infinite))
        return builder.select(overflown, builder.fadd(square, old), average)

    return LANES(g, v, rule), generate


@intrinsic
def adam_ratio(typingctx, g, m, v, rule):
    """Return (k[2] m + k[3] g) / (k[4] sqrt v + eps)."""

    def generate(context, builder, sig, args):
        g, m, v, rule = args
        k = builder.extract_value(rule, 0)
        fma = _vector._call("fma")
        a, b, c, eps = _scalars(builder, k, 2, 3, 4, EPS)
        above = fma(builder, a, m, builder.fmul(b, g))
        return builder.fdiv(above, fma(builder, c, _vector._call("sqrt")(builder, v), eps))

    return LANES(g, m, v, rule), generate


@intrinsic
def new_buffer(typingctx, g, old, rule):
    """Return k[0] old + k[1] g."""

    def generate(context, builder, sig, args):
        g, old, rule = args
        k = builder.extract_value(rule, 0)
        keep, take = _scalars(builder, k, 0, 1)
        return _vector._call("fma")(builder, keep, old, builder.fmul(take, g))

    return LANES(g, old, rule), generate


@intrinsic
def momentum_direction(typingctx, g, old, new, rule):
    """Return k[2] old + k[3] new + k[4] g."""

    def generate(context, builder, sig, args):
        g, old, new, rule = args
        k = builder.extract_value(rule, 0)
        fma = _vector._call("fma")
        x, y, z = _scalars(builder, k, 2, 3, 4)
        return fma(builder, x, old, fma(builder, y, new, builder.fmul(z, g)))

    return LANES(g, old, new, rule), generate


def _sign(builder, x):
    """The sign of x; a product with it, unlike one with x, is zero only where a factor is."""
    copysign = _vector._function(builder, "llvm.copysign.v16f32", _LANES, [_LANES, _LANES])
    one = builder.call(copysign, [_vector._constant(1.0), x])
    return builder.select(builder.fcmp_ordered("!=", x, _vector._constant(0.0)), one, x)


@intrinsic
def applied(typingctx, p, g, u, rule):
    """Return p - rate u - decay; a general rule masks by its cuts: 0 where a mask is on, else NaN."""

    def generate(context, builder, sig, args):
        p, g, u, rule = args
        k, rate = (builder.extract_value(rule, i) for i in range(2))
        zero, fma = _vector._constant(0.0), _vector._call("fma")
        shrink, step_cut, decay_cut = _scalars(builder, k, SHRINK, STEP_CUT, DECAY_CUT)
        if _is_general(sig.args[3]):
            u = builder.select(builder.fcmp_ordered("<=", builder.fmul(u, _sign(builder, g)), step_cut), zero, u)
            against = builder.fcmp_ordered("<", builder.fmul(u, _sign(builder, p)), decay_cut)
            shrink = builder.select(against, zero, shrink)
        rates = _vector._splat(builder, rate, _LANES)
        return fma(builder, builder.fneg(rates), u, fma(builder, builder.fneg(shrink), p, p))

    return LANES(p, g, u, rule), generate


@intrinsic
def fetch_ahead(typingctx, streams, i):
    """Ask for the line that holds element i of each stream, where that helps."""

    def generate(context, builder, sig, args):
        if not _FETCHES:
            return context.get_dummy_value()
        pointer = _I8.as_pointer()
        ask = _vector._function(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, _I32, _I32, _I32])
        for number, kind in enumerate(sig.args[0]):
            if not isinstance(kind, types.NoneType):
                place = _bytes_at(builder, builder.extract_value(args[0], number), args[1], _SIZES[kind])
                builder.call(ask, [place, ir.Constant(_I32, 0), ir.Constant(_I32, 3), ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(streams, types.intp), generate


@intrinsic
def sign_if(typingctx, active, x):
    """Return the sign of x (0 of 0, NaN of NaN) if active, else x."""

    def generate(context, builder, sig, args):
        return builder.select(flag(builder, args[0]), _sign(builder, args[1]), args[1])

    return LANES(types.boolean, x), generate


@intrinsic
def count_above(typingctx, counts, x, cut):
    """Return counts + 1 in the lanes where not x <= cut."""

    def generate(context, builder, sig, args):
        cut = _vector._lanes(builder, args[2], sig.args[2])
        more = builder.fadd(args[0], _vector._constant(1.0))
        return builder.select(builder.fcmp_ordered("<=", args[1], cut), args[0], more)

    return LANES(counts, x, cut), generate


@intrinsic
def larger_magnitude(typingctx, peak, x):
    """Return the larger of |peak| and |x|; infinity is larger than any number, NaN larger than infinity."""

    def generate(context, builder, sig, args):
        magnitude = builder.and_(as_ints(builder, args[1]), int_constant(0x7FFFFFFF))
        peak = as_ints(builder, args[0])
        larger = builder.select(builder.icmp_signed(">", magnitude, peak), magnitude, peak)
        return builder.bitcast(larger, _LANES)

    return LANES(peak, x), generate


@intrinsic
def largest_lane(typingctx, peak):
    """Return the largest lane of `larger_magnitude`'s result."""

    def generate(context, builder, sig, args):
        reduce = _vector._function(builder, "llvm.vector.reduce.smax.v16i32", _I32, [_INTS])
        return builder.bitcast(builder.call(reduce, [as_ints(builder, args[0])]), ir.FloatType())

    return types.float32(peak), generate


@intrinsic
def move_elements(typingctx, targets, i, sources, j, count, clear):
    """Copy fewer than sixteen elements of each stream from sources[.] + j to targets[.] + i; None has no elements.

    If `clear`, sixteen elements of each target are set to zero first.
    """

    def generate(context, builder, sig, args):
        for number, kind in enumerate(sig.args[0]):
            if isinstance(kind, types.NoneType):
                continue
            size = _SIZES[kind]
            target, source = (
                _bytes_at(builder, builder.extract_value(args[streams], number), args[streams + 1], size)
                for streams in (0, 2)
            )
            with builder.if_then(flag(builder, args[5])):
                cgutils.memset(builder, target, ir.Constant(_I64, size * WIDTH), 0)
            cgutils.raw_memcpy(builder, target, source, args[4], size)
        return context.get_dummy_value()

    return types.void(targets, types.intp, sources, types.intp, types.intp, types.boolean), generate


@intrinsic
def no_pointer(typingctx, address):
    """Return None, the pointer of a stream that is not there."""
    return types.none(types.intp), lambda context, builder, sig, args: context.get_dummy_value()
