# SPDX-License-Identifier: Apache-2.0
"""Programs whose every operation is rounded to float32: search, last bits, exhaustive check."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from steepest.discover._float32 import climb, each_float, judge, largest_ulp
from steepest.discover.baselines import minimax_polynomial
from steepest.discover.kernel import horner, relative_time
from steepest.discover.program import Program
from steepest.discover.search import Options, ProgramProblem
from steepest.discover.targets import Target
from steepest.evolve.engine import Member

_ULP_POINTS, _CHUNK = 1500, 1 << 15
#: A fit whose real error is above this many ulp is not worth tuning bit by bit.
_PROMISING = 8.0
_USELESS = 1e9
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
    values = np.empty((1 + len(constants) + len(code), _CHUNK), np.float32)
    tested, worst, at, above = 0, 0.0, math.nan, 0
    for first, last in _bit_ranges(target.ends, smallest):
        for low in range(first, last, _CHUNK):
            x = each_float(low, min(low + _CHUNK, last))
            want = _REFERENCES[target.name](x.astype(np.float64))
            here, where, more = judge(code, constants, x, want, np.ascontiguousarray(values[:, : len(x)]))
            tested, above = tested + len(x), above + more
            if here > worst:
                worst, at = here, float(x[where])
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


def polynomials(target: Target, most: int = 8, *, tries: int = 4000) -> list[Program]:
    """Return Horner's programs, in fused multiply-adds, of the minimax polynomials, last bits tuned.

    Args:
        target: One of the functions known by name.
        most: The highest degree, 1 or more.
        tries: Of `tune`.

    Returns:
        A program for each degree from 1 on.

    Raises:
        ValueError: If most is below 1.

    Example:
        >>> [p.cost() for p in polynomials(Target("exp"), 2)]
        [1.0, 2.0]
    """
    if most < 1:
        raise ValueError(f"the highest degree is at least 1, got {most}")
    exact = [minimax_polynomial(target, degree) for degree in range(1, most + 1)]
    return [tune(horner([float(c) for c in p.floats]), target, tries=tries) for p in exact]


class Float32Problem(ProgramProblem):
    """The problem that `evolve` solves in float32 mode: objectives are the largest error in ulp, and the cost.

    Args:
        target: One of the functions known by name.
        options: What programs may be made of; costs are best `PORT`, where fma counts one.
        tries: Changes of last bits for each promising program.
        measured: The second objective is the time of the compiled vector loop relative to the kernels' degree-6
            polynomial, and `options.costs` only limit what is tried. A search with it is not repeatable.

    Raises:
        ValueError: If the function is not known by name or tries is negative.
    """

    def __init__(self, target: Target, options: Options, *, tries: int = 400, measured: bool = False) -> None:
        super().__init__(target, options)
        if target.name not in _REFERENCES or tries < 0:
            raise ValueError(f"expected one of {', '.join(_REFERENCES)} and tries >= 0, got {target.name}, {tries}")
        self._tries, self._measured = tries, measured
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
        if not error < _USELESS:
            return Member(program, (math.inf, member.objectives[1]))
        cost = relative_time(program, self._target.ends) if self._measured else member.objectives[1]
        return Member(program, (error, cost))

    def readable(self, member: Member[Program]) -> str:
        """Return a member's error for people."""
        return f"{member.objectives[0]:.4g} ulp"

    def describe(self) -> dict[str, Any]:
        """Return target, options and mode."""
        return {**super().describe(), "mode": "float32", "tries": self._tries, "measured": self._measured}
