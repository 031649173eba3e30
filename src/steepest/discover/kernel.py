# SPDX-License-Identifier: Apache-2.0
"""Float32 programs as compiled vector loops, and how fast these are."""

import contextlib
import ctypes
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types

from steepest.discover.program import Program
from steepest.kernels import _coefficients as k
from steepest.kernels._llvm import fma, intrinsic, max_or_second, min_or_second, scale_rounded


def compiled(program: Program) -> Any:
    """Return the program as an intrinsic for Numba, float32 to float32, that LLVM can vectorize.

    Args:
        program: Its constants are rounded to float32.

    Returns:
        Something to call in jitted code.

    Example:
        >>> square = compiled(Program((("square", (0,)),)))
        >>> float(numba.njit(lambda x: square(x))(np.float32(3)))
        9.0
    """

    def generate(context, builder, signature, args):
        del context, signature
        return _value(builder, program, args[0])

    def evaluate(typingctx, x):
        """Return the program's value."""
        del typingctx
        return (types.float32(types.float32), generate) if x == types.float32 else None

    return intrinsic(evaluate)


def _value(builder: Any, program: Program, x: Any) -> Any:
    """Return the LLVM value of a program at the float32 value x, its instructions put where `builder` stands."""
    real = ir.FloatType()
    registers = [x, *[ir.Constant(real, float(np.float32(v))) for v in program.floats]]
    for name, operands in program.instructions:
        registers.append(_emit(builder, real, name, [registers[r] for r in operands]))
    return registers[-1]


def _emit(builder: Any, real: Any, name: str, parts: list[Any]) -> Any:
    plain = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
    scales = {"double": 2.0, "quadruple": 4.0, "half": 0.5, "quarter": 0.25}
    if name in plain:
        return getattr(builder, plain[name])(*parts)
    if name == "square":
        return builder.fmul(parts[0], parts[0])
    if name in scales:
        return builder.fmul(parts[0], ir.Constant(real, scales[name]))
    label = f"llvm.{name}.f32"
    known = builder.module.globals.get(label)
    function = known or ir.Function(builder.module, ir.FunctionType(real, [real] * len(parts)), label)
    return builder.call(function, parts)


def exp_loop(program: Program) -> Callable[[np.ndarray, np.ndarray], None]:
    """Return a compiled loop that fills `out` with e^x: the kernels' reduction, then the program.

    Args:
        program: Approximates e^t for |t| <= 0.3466.

    Returns:
        A function of (x, out), both float32 and of one length; right for every float32 if the program is.

    Example:
        >>> from steepest.discover.kernel import house_exp
        >>> x = np.ones(8, np.float32); out = np.empty_like(x)
        >>> exp_loop(house_exp())(x, out)
        >>> round(float(out[0]), 5)
        2.71828
    """
    f = compiled(program)
    log2e, high, low = k.LOG2E, k.LN2_HI, k.LN2_LO
    rounder, lowest, highest = np.float32(1.5 * 2.0**23), np.float32(-105), np.float32(89)

    @numba.njit(error_model="numpy", boundscheck=False, nogil=True)
    def loop(x, out):
        for i in range(len(x)):
            clipped = min_or_second(highest, max_or_second(lowest, x[i]))
            shifted = fma(clipped, log2e, rounder)
            n = shifted - rounder
            t = fma(n, -low, fma(n, -high, clipped))
            out[i] = scale_rounded(f(t), shifted)

    return loop


def house_exp() -> Program:
    """Return the kernels' degree-6 Horner polynomial of e^t as a program of six fused multiply-adds.

    Returns:
        The program; its constants are those of `steepest.kernels`.

    Example:
        >>> house_exp().cost()
        6.0
    """
    return horner([float(c) for c in k.EXP.coefficients])


def horner(coefficients: Sequence[float]) -> Program:
    """Return Horner's program of a polynomial in fused multiply-adds, one for each degree.

    Args:
        coefficients: Lowest first, two or more; equal ones become one constant.

    Returns:
        The program.

    Raises:
        ValueError: If there are fewer than two coefficients.

    Example:
        >>> horner([1.0, 1.0, 0.5]).instructions
        (('fma', (1, 0, 2)), ('fma', (3, 0, 2)))
    """
    if len(coefficients) < 2:
        raise ValueError(f"a polynomial of degree 1 or more has two coefficients or more, got {len(coefficients)}")
    distinct = list(dict.fromkeys(reversed(coefficients)))
    place = {value: 1 + i for i, value in enumerate(distinct)}
    register, lines = place[coefficients[-1]], []
    for value in reversed(coefficients[:-1]):
        lines.append(("fma", (register, 0, place[value])))
        register = len(distinct) + len(lines)
    return Program(tuple(lines), tuple((v, 0.0) for v in distinct))


def compare_speed(
    loops: Mapping[str, Callable[[np.ndarray, np.ndarray], None]], *, count: int = 4096, rounds: int = 200
) -> dict[str, tuple[float, float]]:
    """Time loops in turns, in one process, on an array that fits the first cache.

    Args:
        loops: Name to function of (x, out).
        count: Length of the array.
        rounds: Turns; each times every loop once.

    Returns:
        Name to (fastest, median) nanoseconds for an element.

    Raises:
        ValueError: If count or rounds is below 1.

    Example:
        >>> sorted(compare_speed({"copy": lambda x, out: np.copyto(out, x)}, rounds=2))
        ['copy']
    """
    if count < 1 or rounds < 1:
        raise ValueError(f"count and rounds are at least 1, got {count} and {rounds}")
    x = np.linspace(-80, 80, count, dtype=np.float32)
    out = np.empty_like(x)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for loop in loops.values():
        loop(x, out)
    for _ in range(rounds):
        for name, loop in loops.items():
            start = time.perf_counter_ns()
            for _ in range(20):
                loop(x, out)
            times[name].append((time.perf_counter_ns() - start) / 20 / count)
    return {name: (min(taken), statistics.median(taken)) for name, taken in times.items()}


def relative_time(
    program: Program, interval: tuple[float, float], *, count: int = 2048, repeats: int = 16, rounds: int = 24
) -> float:
    """Return the time of a program's vector loop relative to the kernels' degree-6 Horner polynomial.

    Both are compiled by LLVM for this processor, loop vectorizer on, and timed in turns on an array that fits the first
    cache.

    Args:
        program: Its constants are rounded to float32.
        interval: Where the arguments lie, evenly spaced.
        count: Length of the array.
        repeats: Passes over the array in one measurement.
        rounds: Measurements of each; the fastest counts.

    Returns:
        1 for a program as fast as the polynomial, 2 for one that takes twice as long. It is a measurement: it differs a
        little from call to call.

    Raises:
        ValueError: If count, repeats or rounds is below 1.

    Example:
        >>> square = Program((("square", (0,)),))
        >>> relative_time(square, (0.0, 1.0), rounds=1) > 0
        True
    """
    if min(count, repeats, rounds) < 1:
        raise ValueError(f"count, repeats and rounds are at least 1, got {count}, {repeats}, {rounds}")
    x = np.linspace(*interval, count, dtype=np.float32)
    out = np.empty_like(x)
    loops = (VectorLoop(program), _house_loop())
    fastest = [np.inf, np.inf]
    for _ in range(rounds):
        for i, loop in enumerate(loops):
            start = time.perf_counter_ns()
            loop(x, out, repeats)
            fastest[i] = min(fastest[i], time.perf_counter_ns() - start)
    return fastest[0] / fastest[1]


@functools.cache
def _house_loop() -> "VectorLoop":
    return VectorLoop(house_exp())


def _machine() -> Any:
    """Return a new target machine: the engine that takes it deletes it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    return llvm.Target.from_default_triple().create_target_machine(llvm.get_host_cpu_name(), features, opt=3, jit=True)


class VectorLoop:
    """A program compiled by LLVM alone as a loop over arrays: some ten milliseconds, where Numba takes hundreds.

    Calling it with `x`, `out` (float32, contiguous, one length of at least 1, not overlapping) and `repeats` (1 or
    more) fills `out`, as often as asked.

    Args:
        program: Its constants are rounded to float32.

    Example:
        >>> x, out = np.arange(3, dtype=np.float32), np.empty(3, np.float32)
        >>> VectorLoop(Program((("square", (0,)),)))(x, out, 1)
        >>> out.tolist()
        [0.0, 1.0, 4.0]
    """

    def __init__(self, program: Program) -> None:
        module = llvm.parse_assembly(str(_loop_module(program)))
        module.verify()
        tuning = llvm.create_pipeline_tuning_options(speed_level=3)
        tuning.loop_vectorization = tuning.loop_interleaving = tuning.loop_unrolling = True
        machine = _machine()
        passes = llvm.create_pass_builder(machine, tuning)
        passes.getModulePassManager().run(module, passes)
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self._call = kind(self._engine.get_function_address("repeat"))

    def __call__(self, x: np.ndarray, out: np.ndarray, repeats: int) -> None:
        """Fill `out`."""
        self._call(x.ctypes.data, out.ctypes.data, len(x), repeats)


def _loop_module(program: Program) -> ir.Module:
    """Return kernel(x, out, n), which applies the program to each element, and repeat(x, out, n, times)."""
    module = ir.Module("program")
    module.triple = llvm.get_process_triple()
    integer, pointer = ir.IntType(64), ir.FloatType().as_pointer()
    kernel = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer, integer]), "kernel")
    kernel.attributes.add("noinline")
    x, out, n = kernel.args
    x.add_attribute("noalias")
    out.add_attribute("noalias")
    with _counted(kernel, n) as (builder, i):
        value = _value(builder, program, builder.load(builder.gep(x, [i])))
        builder.store(value, builder.gep(out, [i]))
    repeat = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, pointer, integer, integer]), "repeat")
    with _counted(repeat, repeat.args[3]) as (builder, _):
        builder.call(kernel, repeat.args[:3])
    return module


@contextlib.contextmanager
def _counted(function: ir.Function, count: Any) -> Iterator[tuple[ir.IRBuilder, Any]]:
    """Give the builder of a loop's body and its counter, which goes from 0 to count - 1; count is above 0."""
    entry, loop, done = (function.append_basic_block(name) for name in ("entry", "loop", "done"))
    ir.IRBuilder(entry).branch(loop)
    builder = ir.IRBuilder(loop)
    i = builder.phi(count.type)
    i.add_incoming(ir.Constant(count.type, 0), entry)
    yield builder, i
    following = builder.add(i, ir.Constant(count.type, 1))
    i.add_incoming(following, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, count), loop, done)
    ir.IRBuilder(done).ret_void()
