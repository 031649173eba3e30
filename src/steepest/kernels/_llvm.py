# SPDX-License-Identifier: Apache-2.0
"""LLVM instructions that Numba does not offer: fma, bit casts, select, power-of-two scaling, 16-bit floats, raw memory.

Everything here is for use inside jitted code, works on scalars, and is turned into vector instructions by LLVM's loop
vectorizer. Addresses are the integers that `Tensor.data_ptr()` gives. No function here allows NaN or inf to be ignored.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import config, extending

_I16, _I32 = ir.IntType(16), ir.IntType(32)
_F32, _HALF = ir.FloatType(), ir.HalfType()
#: Size of `scratch_memory`.
SCRATCH_BYTES = 4096
_SUFFIX = {types.float32: "f32", types.float64: "f64"}


def intrinsic(define: Callable[..., Any]) -> Callable[..., Any]:
    """Return Numba's intrinsic, typed as what it is inside jitted code: something to call with scalars."""
    return extending.intrinsic(define)


def host_has(feature: str) -> bool:
    """Say whether code is compiled for a processor with a feature, by LLVM's name of it."""
    enabled: str | None = getattr(config, "CPU_FEATURES", None)
    if enabled is not None:  # set by the user through NUMBA_CPU_FEATURES
        return f"+{feature}" in enabled
    return bool(llvmlite.binding.get_host_cpu_features().get(feature, False))


#: Whether `ldexp` becomes one vector instruction (vscalefps); LLVM knows this from version 22 on.
HAS_VECTOR_LDEXP = host_has("avx512f") and llvmlite.binding.llvm_version_info[0] >= 22
#: Whether float16 can be widened and narrowed in hardware.
HAS_FLOAT16 = host_has("f16c") or llvmlite.binding.get_process_triple().startswith(("aarch64", "arm64"))


def _declare(builder, name, result, arguments):
    function_type = ir.FunctionType(result, arguments)
    return builder.module.globals.get(name) or ir.Function(builder.module, function_type, name)


def _math_intrinsic(name, arity, doc):
    """Return an intrinsic for llvm.<name>, float32 or float64, all operands of one type."""

    def generate(context, builder, signature, args):
        kind = context.get_value_type(signature.return_type)
        function = _declare(builder, f"llvm.{name}.{_SUFFIX[signature.return_type]}", kind, [kind] * arity)
        return builder.call(function, args)

    def typed(*operands):
        return (operands[0](*operands), generate) if all(o == operands[0] for o in operands) else None

    typers: dict[int, Callable[..., Any]] = {
        1: lambda typingctx, a: typed(a) if a in _SUFFIX else None,
        2: lambda typingctx, a, b: typed(a, b) if a in _SUFFIX else None,
        3: lambda typingctx, a, b, c: typed(a, b, c) if a in _SUFFIX else None,
    }
    typer = typers[arity]
    typer.__name__ = name.replace(".", "_")
    typer.__doc__ = doc
    return intrinsic(typer)


fma = _math_intrinsic("fma", 3, "Return a * b + c rounded once.")
rint = _math_intrinsic("rint", 1, "Round to the nearest integer, ties to even.")
fabs = _math_intrinsic("fabs", 1, "Clear the sign bit.")
copysign = _math_intrinsic("copysign", 2, "Return |a| with the sign of b.")
sqrt = _math_intrinsic("sqrt", 1, "Return the correctly rounded square root.")
maximum = _math_intrinsic(
    "maximum", 2, "Return the larger operand; NaN when either is NaN; -0 < +0. Reduces in vectors."
)
minimum = _math_intrinsic(
    "minimum", 2, "Return the smaller operand; NaN when either is NaN; -0 < +0. Reduces in vectors."
)
maxnum = _math_intrinsic("maxnum", 2, "Return the larger operand, ignoring one that is NaN.")
minnum = _math_intrinsic("minnum", 2, "Return the smaller operand, ignoring one that is NaN.")


@intrinsic
def max_or_second(typingctx, a, b):
    """Return a if a > b else b: one instruction (maxps); when either is NaN the second operand is the answer."""

    def generate(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, a), generate


@intrinsic
def min_or_second(typingctx, a, b):
    """Return a if a < b else b: one instruction (minps); when either is NaN the second operand is the answer."""

    def generate(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered("<", *args), *args)

    return a(a, a), generate


@intrinsic
def select(typingctx, condition, a, b):
    """Return a where the condition holds, else b; both are evaluated, so it never becomes a branch."""

    def generate(context, builder, signature, args):
        return builder.select(*args)

    return (a(types.boolean, a, a), generate) if a == b else None


def _chosen_integer(comparison, doc):
    def typer(typingctx, a, b):
        def generate(context, builder, signature, args):
            return builder.select(builder.icmp_signed(comparison, *args), *args)

        return types.intp(types.intp, types.intp), generate

    typer.__doc__ = doc
    return intrinsic(typer)


# Python's own take several times as long to compile.
smaller = _chosen_integer("<", "Return the smaller of two integers.")
larger = _chosen_integer(">", "Return the larger of two integers.")


@intrinsic
def horner(typingctx, x, coefficients):
    """Return coefficients[0] + x * (coefficients[1] + ...) by fused Horner steps; the tuple must be a constant."""
    suffix = _SUFFIX[x]

    def generate(context, builder, signature, args):
        kind = context.get_value_type(signature.return_type)
        function = _declare(builder, f"llvm.fma.{suffix}", kind, [kind] * 3)
        x_value, packed = args
        count = len(signature.args[1])
        value = builder.extract_value(packed, count - 1)
        for i in reversed(range(count - 1)):
            value = builder.call(function, [value, x_value, builder.extract_value(packed, i)])
        return value

    return x(x, coefficients), generate


def _bitcast_intrinsic(source, target, doc):
    def typer(typingctx, a):
        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(target))

        return target(source), generate

    typer.__doc__ = doc
    return intrinsic(typer)


bits_f32 = _bitcast_intrinsic(types.float32, types.int32, "Return the bits of a float32 as int32.")
f32_bits = _bitcast_intrinsic(types.int32, types.float32, "Return the float32 that has these bits.")
bits_f64 = _bitcast_intrinsic(types.float64, types.int64, "Return the bits of a float64 as int64.")
f64_bits = _bitcast_intrinsic(types.int64, types.float64, "Return the float64 that has these bits.")


@intrinsic
def power_of_two(typingctx, n):
    """Return 2^n as float32 for an integral float32 n in [-126, 127]; anything else is meaningless."""

    def generate(context, builder, signature, args):
        # Adding 2^23 + 127 leaves n + 127 in the low bits; the shift drops everything above them.
        biased = builder.fadd(args[0], ir.Constant(_F32, 2.0**23 + 127.0))
        return builder.bitcast(builder.shl(builder.bitcast(biased, _I32), ir.Constant(_I32, 23)), _F32)

    return types.float32(types.float32), generate


@intrinsic
def power_of_low_bits(typingctx, w):
    """Return 2^(k - 127), k the low eight bits of a float32 that holds 1.5 * 2^23 + k, 0 < k < 255."""

    def generate(context, builder, signature, args):
        return builder.bitcast(builder.shl(builder.bitcast(args[0], _I32), ir.Constant(_I32, 23)), _F32)

    return types.float32(types.float32), generate


def _whole(builder, n):
    # Not fptosi, which is poison for NaN and whose saturating form LLVM cannot vectorize.
    biased = builder.fadd(n, ir.Constant(_F32, 1.5 * 2.0**23))
    return builder.sub(builder.bitcast(biased, _I32), ir.Constant(_I32, 0x4B400000))


@intrinsic
def scale(typingctx, a, n):
    """Return a * 2^n rounded once, for |a| in [2^-24, 2^24] or 0 or NaN, and an integral float32 n in [-200, 200].

    Right for subnormal results and for overflow. The caller clamps n.
    """

    def with_ldexp(context, builder, signature, args):
        function = _declare(builder, "llvm.ldexp.f32.i32", _F32, [_F32, _I32])
        return builder.call(function, [args[0], _whole(builder, args[1])])

    def with_two_factors(context, builder, signature, args):
        # 2^(n >> 1) * 2^(n - (n >> 1)): the first product is exact, so only the second rounds. The low nine bits of
        # `biased` are n + 254, both exponents with their bias; the shift drops everything above them.
        value = args[0]
        biased = builder.bitcast(builder.fadd(args[1], ir.Constant(_F32, 1.5 * 2.0**23 + 254.0)), _I32)
        half = builder.lshr(biased, ir.Constant(_I32, 1))
        for part in (half, builder.sub(biased, half)):
            value = builder.fmul(value, builder.bitcast(builder.shl(part, ir.Constant(_I32, 23)), _F32))
        return value

    return types.float32(types.float32, types.float32), with_ldexp if HAS_VECTOR_LDEXP else with_two_factors


@intrinsic
def scale_rounded(typingctx, a, k):
    """Return `scale(a, n)` for k = 1.5 2^23 + n, as n is before that constant is taken off: five operations fewer."""

    def with_ldexp(context, builder, signature, args):
        function = _declare(builder, "llvm.ldexp.f32.i32", _F32, [_F32, _I32])
        whole = builder.sub(builder.bitcast(args[1], _I32), ir.Constant(_I32, 0x4B400000))
        return builder.call(function, [args[0], whole])

    def with_two_factors(context, builder, signature, args):
        # The constant's own bits are above those that the shift keeps, in both halves.
        value, bits = args[0], builder.bitcast(args[1], _I32)
        half = builder.ashr(bits, ir.Constant(_I32, 1))
        for part in (half, builder.sub(bits, half)):
            exponent = builder.shl(builder.add(part, ir.Constant(_I32, 127)), ir.Constant(_I32, 23))
            value = builder.fmul(value, builder.bitcast(exponent, _F32))
        return value

    return types.float32(types.float32, types.float32), with_ldexp if HAS_VECTOR_LDEXP else with_two_factors


@intrinsic
def f32_from_half(typingctx, bits):
    """Widen the float16 with these 16 bits to float32, exactly."""

    def generate(context, builder, signature, args):
        return builder.fpext(builder.bitcast(args[0], _HALF), _F32)

    return types.float32(types.uint16), generate


@intrinsic
def half_from_f32(typingctx, a):
    """Round a float32 to float16 (nearest even) and return its 16 bits."""

    def generate(context, builder, signature, args):
        return builder.bitcast(builder.fptrunc(args[0], _HALF), _I16)

    return types.uint16(types.float32), generate


@intrinsic
def f32_from_bfloat(typingctx, bits):
    """Widen the bfloat16 with these 16 bits to float32, exactly."""

    def generate(context, builder, signature, args):
        return builder.bitcast(builder.shl(builder.zext(args[0], _I32), ir.Constant(_I32, 16)), _F32)

    return types.float32(types.uint16), generate


@intrinsic
def bfloat_from_f32(typingctx, a):
    """Round a float32 to bfloat16 (nearest even, NaN stays NaN) and return its 16 bits."""

    def generate(context, builder, signature, args):
        bits = builder.bitcast(args[0], _I32)
        sixteen = ir.Constant(_I32, 16)
        odd = builder.and_(builder.lshr(bits, sixteen), ir.Constant(_I32, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(_I32, 0x7FFF)))
        quiet = builder.or_(bits, ir.Constant(_I32, 0x400000))
        bits = builder.select(builder.fcmp_unordered("uno", args[0], args[0]), quiet, rounded)
        return builder.trunc(builder.lshr(bits, sixteen), _I16)

    return types.uint16(types.float32), generate


def _pointer_intrinsic(element, doc):
    def typer(typingctx, address):
        def generate(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(types.CPointer(element)))

        return types.CPointer(element)(types.intp), generate

    typer.__doc__ = doc
    return intrinsic(typer)


f32_pointer = _pointer_intrinsic(types.float32, "Return a float32 pointer to an address; index it like an array.")
f64_pointer = _pointer_intrinsic(types.float64, "Return a float64 pointer to an address; index it like an array.")
u16_pointer = _pointer_intrinsic(types.uint16, "Return a 16-bit pointer to an address, for float16 and bfloat16 bits.")
i64_pointer = _pointer_intrinsic(types.int64, "Return an int64 pointer to an address; index it like an array.")


@intrinsic
def scratch_memory(typingctx):
    """Return the address of `SCRATCH_BYTES` that this call of the kernel owns, a multiple of 64; not cleared.

    It takes a twentieth of an array's time to compile. Numba's own `alloca_once` would clear it by thousands of stores.
    """

    def generate(context, builder, signature, args):
        with builder.goto_entry_block():
            place = builder.alloca(ir.ArrayType(ir.IntType(8), SCRATCH_BYTES))
        place.align = 64
        return builder.ptrtoint(place, ir.IntType(64))

    return types.intp(), generate


@intrinsic
def stream_line(typingctx, target, source):
    """Copy 64 bytes past the caches (a non-temporal store) to an address that is a multiple of 64.

    LLVM does not vectorize non-temporal scalar stores, so a kernel that wants them fills a small buffer and copies it
    out line by line, then calls `store_fence` once.
    """

    def generate(context, builder, signature, args):
        line = ir.VectorType(_F32, 16)
        pointers = [builder.inttoptr(arg, line.as_pointer()) for arg in args]
        store = builder.store(builder.load(pointers[1], align=4), pointers[0], align=64)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), generate


@intrinsic
def store_fence(typingctx):
    """Make earlier streaming stores visible to other threads."""

    def generate(context, builder, signature, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
