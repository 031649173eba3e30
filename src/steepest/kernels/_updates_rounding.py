# SPDX-License-Identifier: Apache-2.0
"""Random bits, stochastic rounding and eight-bit codes of sixteen lanes.

Random bits travel as lanes whose bit patterns they are.
"""

from typing import Any

from llvmlite import ir
from numba import types

from steepest.kernels import _vector
from steepest.kernels._llvm import intrinsic
from steepest.kernels._updates_noise import MULTIPLIERS, STEP
from steepest.kernels._updates_states import OFFSETS, SHIFT, TOP
from steepest.kernels._updates_vector import as_ints, flag, int_constant, splat_int
from steepest.kernels._vector import LANES, WIDTH

_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_LANES, _INTS = (ir.VectorType(kind, WIDTH) for kind in (ir.FloatType(), _I32))
_BYTES = ir.VectorType(_I8, WIDTH)


@intrinsic
def random_bits(typingctx, active, key, i):
    """If active, return 32 random bits for each of the elements i to i + 15 of the tensor with this 64-bit key."""

    def generate(context, builder, sig, args):
        before = builder.block
        with builder.if_then(flag(builder, args[0])):
            made, after = hashed(builder, args[1:]), builder.block
        bits = builder.phi(_LANES)
        bits.add_incoming(_vector._constant(0.0), before)
        bits.add_incoming(made, after)
        return bits

    def hashed(builder, args):
        def shifted(x, count):
            return builder.xor(x, builder.lshr(x, int_constant(count)))

        low = builder.trunc(args[0], _I32)
        high = splat_int(builder, builder.trunc(builder.lshr(args[0], ir.Constant(_I64, 32)), _I32))
        first = builder.add(builder.mul(builder.trunc(args[1], _I32), ir.Constant(_I32, STEP)), low)
        steps = ir.Constant(_INTS, [STEP * j % 2**32 for j in range(WIDTH)])
        x = shifted(builder.add(splat_int(builder, first), steps), 16)
        x = builder.mul(x, int_constant(MULTIPLIERS[0]))
        x = builder.xor(shifted(x, 15), high)
        x = shifted(builder.mul(x, int_constant(MULTIPLIERS[1])), 16)
        return builder.bitcast(x, _LANES)

    return LANES(types.boolean, types.int64, types.intp), generate


@intrinsic
def low_bits(typingctx, bits):
    """Return the lower 16 of 32 bits."""

    def generate(context, builder, sig, args):
        return builder.bitcast(builder.and_(as_ints(builder, args[0]), int_constant(0xFFFF)), _LANES)

    return LANES(bits), generate


@intrinsic
def high_bits(typingctx, bits):
    """Return the upper 16 of 32 bits."""

    def generate(context, builder, sig, args):
        return builder.bitcast(builder.lshr(as_ints(builder, args[0]), int_constant(16)), _LANES)

    return LANES(bits), generate


def _round_bfloat(builder: Any, value: Any, noise: Any, random: Any) -> Any:
    bits = as_ints(builder, value)
    odd = builder.and_(builder.lshr(bits, int_constant(16)), int_constant(1))
    added = builder.select(random, noise, builder.add(odd, int_constant(0x7FFF)))
    quiet = builder.or_(bits, int_constant(0x400000))
    bits = builder.select(builder.fcmp_unordered("uno", value, value), quiet, builder.add(bits, added))
    return builder.trunc(builder.lshr(bits, int_constant(16)), _vector._SHORTS)


def _round_half(builder: Any, value: Any, noise: Any, random: Any) -> Any:
    whole = builder.add(as_ints(builder, value), builder.lshr(noise, int_constant(3)))
    normal = builder.bitcast(builder.and_(whole, int_constant(~0x1FFF)), _LANES)
    fraction = builder.fadd(builder.sitofp(noise, _LANES), _vector._constant(0.5))
    fraction = builder.fsub(builder.fmul(fraction, _vector._constant(2.0**-16)), _vector._constant(0.5))
    small = builder.fadd(value, builder.fmul(fraction, _vector._constant(2.0**-24)))
    magnitude = _vector._call("fabs")(builder, value)
    is_small = builder.fcmp_ordered("<", magnitude, _vector._constant(2.0**-14))
    is_finite = builder.fcmp_ordered("<", magnitude, _vector._constant(float("inf")))
    rounded = builder.select(is_finite, builder.select(is_small, small, normal), value)
    return builder.fptrunc(builder.select(random, rounded, value), _vector._HALVES)


@intrinsic
def store_rounded(typingctx, pointer, i, a, bits, random):
    """Write elements i to i + 15; 16-bit formats round at random with 16 bits a lane if random, else to nearest."""

    def generate(context, builder, sig, args):
        place, vector, size = _vector._place(builder, sig.args[0], args[0], args[1])
        value, random = args[2], flag(builder, args[4])
        if vector == _vector._SHORTS:
            value = _round_bfloat(builder, value, as_ints(builder, args[3]), random)
        elif vector == _vector._HALVES:
            value = _round_half(builder, value, as_ints(builder, args[3]), random)
        builder.store(value, place, align=size)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, LANES, LANES, types.boolean), generate


def _codes_place(builder: Any, pointer: Any, i: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [i]), _BYTES.as_pointer())


def _loader(signed: bool, doc: str) -> Any:
    offset, floor = OFFSETS[signed], _float_bits(OFFSETS[signed]) >> SHIFT

    def typer(typingctx: Any, pointer: Any, i: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            codes = builder.zext(builder.load(_codes_place(builder, *args), align=1), _INTS)
            magnitude = builder.and_(codes, int_constant(127)) if signed else codes
            bits = builder.shl(builder.add(magnitude, int_constant(floor)), int_constant(SHIFT))
            y = builder.fsub(builder.bitcast(bits, _LANES), _vector._constant(offset))
            if not signed:
                return y
            sign = builder.shl(builder.and_(codes, int_constant(128)), int_constant(24))
            return builder.bitcast(builder.or_(as_ints(builder, y), sign), _LANES)

        return LANES(pointer, types.intp), generate

    typer.__doc__ = doc
    return intrinsic(typer)


def _storer(signed: bool, doc: str) -> Any:
    offset, floor = OFFSETS[signed], _float_bits(OFFSETS[signed]) >> SHIFT

    def typer(typingctx: Any, pointer: Any, i: Any, y: Any, bits: Any, random: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            y = _vector._call("fabs")(builder, args[2])
            if not signed:
                least = builder.select(
                    builder.fcmp_ordered("<", y, _vector._constant(offset / 8)), _vector._constant(offset / 8), y
                )
                y = builder.select(builder.fcmp_ordered(">", y, _vector._constant(0.0)), least, y)
            z = builder.fadd(y, _vector._constant(offset))
            z = builder.select(builder.fcmp_ordered("<", z, _vector._constant(TOP)), z, _vector._constant(TOP))
            noise = builder.add(builder.shl(as_ints(builder, args[3]), int_constant(4)), int_constant(8))
            noise = builder.select(flag(builder, args[4]), noise, int_constant(1 << (SHIFT - 1)))
            codes = builder.lshr(builder.add(as_ints(builder, z), noise), int_constant(SHIFT))
            codes = builder.sub(codes, int_constant(floor))
            if signed:
                sign = builder.lshr(as_ints(builder, args[2]), int_constant(31))
                codes = builder.or_(codes, builder.shl(sign, int_constant(7)))
            builder.store(builder.trunc(codes, _BYTES), _codes_place(builder, args[0], args[1]), align=1)
            return context.get_dummy_value()

        return types.void(pointer, types.intp, LANES, LANES, types.boolean), generate

    typer.__doc__ = doc
    return intrinsic(typer)


def _float_bits(value: float) -> int:
    exponent = value.hex().partition("p")[2]  # a power of two
    return (int(exponent) + 127) << 23


load_signed = _loader(True, "Return what codes i to i + 15 stand for, in units of scale / (1.875 - c).")
load_unsigned = _loader(False, "Return what codes i to i + 15 stand for, in units of scale / (1.875 - c).")
store_signed = _storer(True, "Write y as codes i to i + 15, rounded at random with 16 bits a lane, or to nearest.")
store_unsigned = _storer(False, "Write y as codes i to i + 15, rounded at random with 16 bits a lane, or to nearest.")
