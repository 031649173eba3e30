# SPDX-License-Identifier: Apache-2.0
"""A rigorous bound of a program's error over its whole interval, in exact real arithmetic of its exact constants.

The interval is cut into pieces; on each, the error is a Taylor polynomial with a remainder, both in ball arithmetic.
Every register is a quotient p / q of two such series, so that a program may pass through infinity, as c / x + x does at
0, and the bound still holds.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from steepest.discover.program import Program
from steepest.discover.targets import Target

_BITS, _ORDER = 256, 12
_PIECES, _DEEPEST = 512, 12


@dataclass(frozen=True)
class Certificate:
    """What was proven.

    Attributes:
        bound: No error in the interval is larger, in exact arithmetic.
        reached: An error of this size exists, so the bound is loose by at most `bound / reached`.
        interval: Where.
        measure: "relative" or "absolute".
        pieces: How many pieces the interval was cut into.
        method: How, with the version of the library that did the arithmetic.
    """

    bound: float
    reached: float
    interval: tuple[float, float]
    measure: str
    pieces: int
    method: str


def certify(program: Program, target: Target) -> Certificate:
    """Prove how large a program's error can be.

    Args:
        program: With its constants, each taken as the exact sum of its two floats.
        target: One of the functions known by name: exp2, exp, log2, erf, tanh, sigmoid, tan.

    Returns:
        The certificate.

    Raises:
        ModuleNotFoundError: If python-flint is not installed.
        ValueError: If the function is not known by name, or the program has a pole or a negative root in the interval.

    Numerics:
        Balls of 256 bits; Taylor order 12 on 512 pieces, halved where a division is not resolved. Rounding of the
        program's own arithmetic is not part of the bound.

    Example:
        >>> line = Program((("mul", (1, 0)), ("add", (2, 3))), ((1.0, 0.0), (1.0, 0.0)))
        >>> round(certify(line, Target("exp2", (0.0, 1.0), "absolute")).bound, 3)
        0.086

    References:
        Makino and Berz (2003), Taylor models and other validated functional inclusion methods.
        Johansson (2017), Arb: efficient arbitrary-precision midpoint-radius interval arithmetic.
    """
    flint = _flint()
    if target.name not in _SERIES:
        raise ValueError(f"{target.name!r} has no rigorous form: choose from {', '.join(_SERIES)}")
    before, flint.ctx.prec = flint.ctx.prec, _BITS
    cap, flint.ctx.cap = flint.ctx.cap, _ORDER + 1
    try:
        return _Prover(flint, program, target).prove()
    finally:
        flint.ctx.prec, flint.ctx.cap = before, cap


def _flint() -> Any:
    try:
        return importlib.import_module("flint")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("rigorous bounds need python-flint: pip install 'steepest[discover]'") from error


_SERIES: dict[str, Callable[[Any, Any], Any]] = {
    "exp2": lambda flint, x: (x * flint.arb(2).log()).exp(),
    "exp": lambda flint, x: x.exp(),
    "log2": lambda flint, x: x.log() / flint.arb(2).log(),
    "erf": lambda flint, x: x.erf(),
    "tanh": lambda flint, x: 1 - 2 / ((2 * x).exp() + 1),
    "sigmoid": lambda flint, x: 1 / ((-x).exp() + 1),
    "tan": lambda flint, x: x.tan(),
}


class _UnresolvedError(Exception):
    """A ball that should not contain zero does."""


class _Prover:
    def __init__(self, flint: Any, program: Program, target: Target) -> None:
        self.flint, self.program, self.target = flint, program, target
        self.constants = [flint.arb(hi) + flint.arb(lo) for hi, lo in program.constants]
        self.pieces = 0

    def prove(self) -> Certificate:
        arb = self.flint.arb
        low, high = (arb(end) for end in self.target.ends)
        width = (high - low) / (2 * _PIECES)
        bound, reached = arb(0), 0.0
        for i in range(_PIECES):
            middle = (low + width * (2 * i + 1)).mid()
            # The middle was rounded: a piece is a little wider, so that no gap is left.
            piece, here = self._piece(middle, width * (1 + arb(2) ** -200), 0)
            bound, reached = bound.max(piece), max(reached, here)
        method = f"Taylor models of order {_ORDER} in ball arithmetic, python-flint {self.flint.__version__}"
        top = float(bound.upper()) * (1 + 2.0**-50)
        return Certificate(top, reached, self.target.ends, str(self.target.measure), self.pieces, method)

    def _piece(self, middle: Any, half: Any, depth: int) -> tuple[Any, float]:
        try:
            centre = self._error(middle)
            around = self._error(middle + self.flint.arb(0, half.upper()))
        except _UnresolvedError:
            if depth == _DEEPEST:
                raise ValueError(
                    f"the program or the error has a zero denominator near {float(middle):.6g}: there is no bound"
                ) from None
            quarter = half / 2
            parts = [self._piece(middle + sign * quarter, quarter, depth + 1) for sign in (-1, 1)]
            return parts[0][0].max(parts[1][0]), max(parts[0][1], parts[1][1])
        self.pieces += 1
        terms = [abs(centre[k]) * half**k for k in range(_ORDER)] + [abs(around[_ORDER]) * half**_ORDER]
        total: Any = sum(terms[1:], terms[0])
        return total.upper(), float(abs(centre[0]).lower())

    def _error(self, at: Any) -> Any:
        """Return the error's Taylor series around a ball."""
        series = self.flint.arb_series
        x = series([at, 1])
        p, q = self._quotient(x)
        exact = _SERIES[self.target.name](self.flint, x)
        if self.target.measure == "absolute":
            return self._nonzero(p - exact * q, q)
        return self._nonzero(p - exact * q, exact * q)

    def _nonzero(self, p: Any, q: Any) -> Any:
        if not q[0].is_finite() or q[0].contains(0):
            raise _UnresolvedError
        return p / q

    def _quotient(self, x: Any) -> tuple[Any, Any]:
        series = self.flint.arb_series
        one = series([1])
        registers = [(x, one), *[(series([c]), one) for c in self.constants]]
        for name, operands in self.program.instructions:
            registers.append(self._apply(name, [registers[r] for r in operands]))
        return registers[-1]

    def _apply(self, name: str, parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        (p, q), second = parts[0], parts[1] if len(parts) > 1 else None
        if name == "fma":
            return self._apply("add", [self._apply("mul", parts[:2]), parts[2]])
        if second is not None:
            r, s = second
            return {
                "add": lambda: (p * s + r * q, q * s),
                "sub": lambda: (p * s - r * q, q * s),
                "mul": lambda: (p * r, q * s),
                "div": lambda: (p * s, q * r),
            }[name]()
        if name == "sqrt":
            inside = p * q
            if not inside[0] > 0 or q[0].contains(0):
                raise _UnresolvedError
            return (inside.sqrt(), q) if q[0] > 0 else (-inside.sqrt(), q)
        if name == "square":
            return p * p, q * q
        factor = {"double": 2, "quadruple": 4, "half": 1, "quarter": 1}[name]
        divisor = {"double": 1, "quadruple": 1, "half": 2, "quarter": 4}[name]
        return p * factor, q * divisor
