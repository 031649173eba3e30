# SPDX-License-Identifier: Apache-2.0
"""Programs whose every operation is rounded to float32: search, last bits, exhaustive check, speed of the kernel."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.special
from llvmlite import ir
from numba import types

from steepest.discover._float32 import climb, each_float, forward32, largest_ulp
from steepest.discover.program import Program
from steepest.discover.search import Options, ProgramProblem
from steepest.discover.targets import Target
from steepest.evolve.engine import Member
from steepest.kernels import _coefficients as k
from steepest.kernels._llvm import fma, intrinsic, max_or_second, min_or_second, scale_rounded

_ULP_POINTS, _CHUNK = 1500, 1 << 22
#: A fit whose real error is above this many ulp is not worth tuning bit by bit.
_PROMISING = 8.0
_REFERENCES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp2": np.exp2,
    "exp": np.exp,
    "log2": np.log2,
    "erf": scipy.special.erf,
    "tanh": np.tanh,
    "sigmoid": scipy.special.expit,
    "tan": np.tan,
}


def ulp(values: np.ndarray) -> np.ndarray:
    """Return the distance of neighbouring float32 numbers at float64 values, 2^-149 where they are subnormal.

    Args:
        values: Any shape, float64, finite and below the float32 range.

    Returns:
        The same shape, float64.

    Example:
        >>> float(ulp(np.array(1.5))) == 2.0**-23
        True
    """
    exponent = np.frexp(values)[1] - 24
    return np.ldexp(1.0, np.maximum(exponent, -149))


def largest_error(program: Program, target: Target, x: np.ndarray) -> float:
    """Return the largest error in ulp at float32 points, every operation rounded and fma fused.

    Args:
        program: Its constants are rounded to float32.
        target: One of the functions known by name.
        x: float32, shape (points,).

    Returns:
        Ulp of the exact value; inf if a value is not finite.

    Example:
        >>> round(largest_error(Program((("square", (0,)),)), Target("exp2"), np.array([1.0], np.float32)), 0)
        4194304.0
    """
    want = _REFERENCES[target.name](x.astype(np.float64))
    constants = program.floats.astype(np.float32)
    values = np.empty((1 + len(constants) + len(program.code), len(x)), np.float32)
    return float(largest_ulp(program.code, constants, x, want, 1 / ulp(want), values))


@dataclass(frozen=True)
class Exhaustive:
    """What a check of every float32 in an interval found.

    Attributes:
        tested: How many numbers.
        ulp: The largest error.
        at: Where.
        above_one: How many errors are above 1 ulp.
    """

    tested: int
    ulp: float
    at: float
    above_one: int


def exhaustive(program: Program, target: Target, *, smallest: float = 0.0) -> Exhaustive:
    """Try every float32 of the target's interval.

    Args:
        program: Its constants are rounded to float32.
        target: One of the functions known by name.
        smallest: Leave out numbers that are nearer to zero than this.

    Returns:
        The result; an interval around zero has about two thousand million numbers, which takes a minute or more.

    Raises:
        ValueError: If the function is not known by name or smallest is negative.

    Numerics:
        The reference is float64, whose own error is below 1e-8 ulp of float32.

    Example:
        >>> line = Program((("add", (1, 0)),), ((1.0, 0.0),))
        >>> exhaustive(line, Target("exp", (0.0, 2.0**-10)), smallest=2.0**-11).tested
        8388609
    """
    if target.name not in _REFERENCES or smallest < 0:
        raise ValueError(f"expected one of {', '.join(_REFERENCES)} and smallest >= 0, got {target.name}, {smallest}")
    constants, code = program.floats.astype(np.float32), program.code
    tested, worst, at, above = 0, 0.0, math.nan, 0
    for first, last in _bit_ranges(target.ends, smallest):
        for low in range(first, last, _CHUNK):
            x = each_float(low, min(low + _CHUNK, last))
            values = np.empty((1 + len(constants) + len(code), len(x)), np.float32)
            forward32(code, constants, x, values)
            want = _REFERENCES[target.name](x.astype(np.float64))
            error = np.abs(values[-1] - want) / ulp(want)
            error[~np.isfinite(error)] = np.inf
            tested, above = tested + len(x), above + int((error > 1).sum())
            if error.max() > worst:
                worst, at = float(error.max()), float(x[error.argmax()])
    return Exhaustive(tested, worst, at, above)


def _bit_ranges(ends: tuple[float, float], smallest: float) -> list[tuple[int, int]]:
    """Return half-open ranges of bits, as signed integers, of the float32 in an interval."""
    low, high = ends
    ranges = []
    for sign, near, far in ((0, max(low, smallest), high), (-(2**31), max(-high, smallest), -low)):
        if far >= near and far >= 0:
            start, stop = np.float32(near), np.float32(far)
            start = np.nextafter(start, np.float32(np.inf)) if start < near else start
            stop = np.nextafter(stop, np.float32(0)) if stop > far else stop
            first, last = (int(v.view(np.int32)) for v in (start, stop))
            ranges.append((sign + first, sign + last + 1))
    return ranges


def tune(program: Program, target: Target, *, tries: int = 20000, points: int = _ULP_POINTS, seed: int = 0) -> Program:
    """Return the program with float32 constants whose last bits make the largest error small.

    Args:
        program: Start.
        target: One of the functions known by name.
        tries: Random changes of last bits, each kept if the largest error does not grow.
        points: Evenly spaced float32 points at which the error is taken.
        seed: Of the changes.

    Returns:
        The program; deterministic.

    Example:
        >>> line = Program((("mul", (1, 0)), ("add", (2, 3))), ((1.0, 0.0), (1.0, 0.0)))
        >>> x = np.linspace(-0.01, 0.01, 100, dtype=np.float32)
        >>> small = Target("exp", (-0.01, 0.01))
        >>> largest_error(tune(line, small, tries=300), small, x) < largest_error(line, small, x)
        True
    """
    x = np.unique(np.linspace(*target.ends, points).astype(np.float32))
    want = _REFERENCES[target.name](x.astype(np.float64))
    constants = program.floats.astype(np.float32)
    if len(constants):
        climb(program.code, constants, x, want, 1 / ulp(want), tries, seed)
    return program.with_constants(constants)


class Float32Problem(ProgramProblem):
    """The problem that `evolve` solves in float32 mode: objectives are the largest error in ulp, and the cost.

    Args:
        target: One of the functions known by name.
        options: What programs may be made of; costs are best `PORT`, where fma counts one.
        tries: Changes of last bits for each promising program.
    """

    def __init__(self, target: Target, options: Options, *, tries: int = 400) -> None:
        super().__init__(target, options)
        self._tries = tries
        self._target = target

    def evaluate(self, genome: Program, rng: np.random.Generator) -> Member[Program]:
        """Return the program fitted in float64, then, if that is near enough, tuned bit by bit."""
        member = super().evaluate(genome, rng)
        if not math.isfinite(member.objectives[0]):
            return member
        program = member.genome
        x = np.unique(np.linspace(*self._target.ends, _ULP_POINTS).astype(np.float32))
        error = largest_error(program, self._target, x)
        if error < _PROMISING:
            tuned = tune(program, self._target, tries=self._tries, points=400, seed=int(rng.integers(2**31)))
            found = largest_error(tuned, self._target, x)
            program, error = (tuned, found) if found < error else (program, error)
        return Member(program, (error if error < 1e30 else math.inf, member.objectives[1]))

    def describe(self) -> dict[str, Any]:
        """Return target, options and mode."""
        return {**super().describe(), "mode": "float32", "tries": self._tries}


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
    values = [float(np.float32(v)) for v in program.floats]

    def generate(context, builder, signature, args):
        del context, signature
        real = ir.FloatType()
        registers = [args[0], *[ir.Constant(real, v) for v in values]]
        for name, operands in program.instructions:
            registers.append(_emit(builder, real, name, [registers[r] for r in operands]))
        return registers[-1]

    def evaluate(typingctx, x):
        """Return the program's value."""
        del typingctx
        return (types.float32(types.float32), generate) if x == types.float32 else None

    return intrinsic(evaluate)


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
        >>> from steepest.discover.float32 import house_exp
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
    values = [float(c) for c in k.EXP.coefficients]
    distinct = list(dict.fromkeys(values))
    place = {value: 1 + i for i, value in enumerate(distinct)}
    register, lines = place[values[-1]], []
    for value in reversed(values[:-1]):
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
