# SPDX-License-Identifier: Apache-2.0
"""Lanes to memory: whole, in part, and past the caches."""

from llvmlite import ir
from numba import types

from steepest.kernels._llvm import host_has, intrinsic
from steepest.kernels._vector import (
    _ELEMENTS,
    _HALVES,
    _I32,
    _I64,
    _INTS,
    _MANGLED,
    _MASK,
    _SHORTS,
    LANES,
    WIDTH,
    _constant,
    _first,
    _function,
    _place,
)


def _narrow(builder, value, kind):
    if kind == _HALVES:
        return builder.fptrunc(value, _HALVES)
    if kind == _SHORTS:  # nearest even; NaN stays NaN
        bits = builder.bitcast(value, _INTS)
        odd = builder.and_(builder.lshr(bits, _constant(16, _INTS)), _constant(1, _INTS))
        rounded = builder.add(bits, builder.add(odd, _constant(0x7FFF, _INTS)))
        quiet = builder.or_(bits, _constant(0x400000, _INTS))
        bits = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        return builder.trunc(builder.lshr(bits, _constant(16, _INTS)), _SHORTS)
    return value


@intrinsic
def store(typingctx, pointer, i, a):
    """Write elements i to i + 15; a pointer that is None takes nothing."""

    def generate(context, builder, sig, args):
        if not isinstance(sig.args[0], types.NoneType):
            place, vector, size = _place(builder, sig.args[0], args[0], args[1])
            builder.store(_narrow(builder, args[2], vector), place, align=size)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, LANES), generate


def _write_masked(builder, place, value, size, count):
    kinds = [value.type, place.type, _I32, _MASK]
    write = _function(builder, f"llvm.masked.store.{_MANGLED[value.type]}.p0", ir.VoidType(), kinds)
    builder.call(write, [value, place, ir.Constant(_I32, size), _first(builder, count)])


def _write_pieces(builder, place, value, size, count):
    # 16, 8, 4, 2 and 1 elements, as count has bits: a masked store of AVX2 takes AMD's processors 20 to 40 operations.
    element, length = value.type.element, WIDTH
    first = builder.bitcast(place, element.as_pointer())
    with builder.if_then(builder.icmp_unsigned("==", count, ir.Constant(_I64, WIDTH))):
        builder.store(value, place, align=size)
    while length > 1:
        length //= 2
        wanted = builder.icmp_unsigned("!=", builder.and_(count, ir.Constant(_I64, length)), ir.Constant(_I64, 0))
        nothing = ir.Constant(value.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(value, nothing, ir.Constant(ir.VectorType(_I32, length), half))
            for half in (list(range(length)), list(range(length, 2 * length)))
        )
        with builder.if_then(wanted):
            at = builder.gep(first, [builder.and_(count, ir.Constant(_I64, -2 * length))])
            builder.store(low, builder.bitcast(at, low.type.as_pointer()), align=size)
        value = builder.select(wanted, high, low)


_write_some = _write_masked if host_has("avx512f") else _write_pieces


@intrinsic
def store_some(typingctx, pointer, i, a, count):
    """Write elements i to i + count - 1, count <= 16; a pointer that is None takes nothing."""

    def generate(context, builder, sig, args):
        if not isinstance(sig.args[0], types.NoneType):
            place, vector, size = _place(builder, sig.args[0], args[0], args[1])
            _write_some(builder, place, _narrow(builder, args[2], vector), size, args[3])
        return context.get_dummy_value()

    return types.void(pointer, types.intp, LANES, types.intp), generate


@intrinsic
def stream(typingctx, pointer, i, a):
    """Write elements i to i + 15 past the caches; their address must be a multiple of their 64 or 32 bytes."""

    def generate(context, builder, sig, args):
        place, vector, size = _place(builder, sig.args[0], args[0], args[1])
        written = builder.store(_narrow(builder, args[2], vector), place, align=WIDTH * size)
        written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, LANES), generate


@intrinsic
def misalignment(typingctx, pointer):
    """Return how many elements lie between a pointer and the next address at which `stream` may write."""

    def generate(context, builder, sig, args):
        size = _ELEMENTS[sig.args[0]][2]
        address = builder.ptrtoint(args[0], _I64)
        missing = builder.and_(builder.neg(address), ir.Constant(_I64, WIDTH * size - 1))
        return builder.lshr(missing, ir.Constant(_I64, size.bit_length() - 1))

    return types.intp(pointer), generate
