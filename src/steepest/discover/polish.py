# SPDX-License-Identifier: Apache-2.0
"""The constants of a structure with the smallest largest error, in arithmetic much longer than float64."""

from typing import Any

import mpmath
import numpy as np
from scipy.optimize import linprog

from steepest.discover._interpreter import backward, forward
from steepest.discover.program import ARITHMETIC, Program, run
from steepest.discover.targets import Target

_DIGITS = 40
_POINTS = 160
_SMALLEST_STEP = 1e-9
_LONG = {**ARITHMETIC, "sqrt": mpmath.sqrt}


def exact_errors(program: Program, target: Target, x: np.ndarray) -> list[Any]:
    """Return the program's weighted errors at x, computed with 40 digits.

    Args:
        program: What is judged.
        target: What it should be.
        x: Points, shape (points,).

    Returns:
        mpmath numbers; inf where the program divides by zero or leaves the real numbers.

    Example:
        >>> line = Program((("add", (1, 0)),), ((1.0, 0.0),))
        >>> [float(e) for e in exact_errors(line, Target("exp2"), np.array([0.0]))]
        [0.0]
    """
    with mpmath.workdps(_DIGITS):
        own = [mpmath.mpf(hi) + mpmath.mpf(lo) for hi, lo in program.constants]
        return _Judge(target, x).errors(program, own)


class _Judge:
    """Exact values at some points, computed once; used inside `mpmath.workdps`."""

    def __init__(self, target: Target, x: np.ndarray) -> None:
        self.x = x
        self._points = [mpmath.mpf(float(p)) for p in x]
        self._exact = [target.exact(p) for p in self._points]
        self._absolute = target.measure == "absolute"
        self.weights = np.array([1.0 if self._absolute else float(1 / v) for v in self._exact])

    def errors(self, program: Program, constants: list[Any]) -> list[Any]:
        return [self._error(program, p, v, constants) for p, v in zip(self._points, self._exact, strict=True)]

    def _error(self, program: Program, x: Any, exact: Any, constants: list[Any]) -> Any:
        try:
            value = run(program, x, constants, _LONG)
        except ZeroDivisionError:
            return mpmath.inf
        if isinstance(value, mpmath.mpc):
            return mpmath.inf
        return value - exact if self._absolute else value / exact - 1


def polish(program: Program, target: Target, *, rounds: int = 40) -> Program:
    r"""Return the program with constants that make its largest error as small as they can, nearby.

    Each round solves the linear program $\min_d \max_i |e_i + J_i d|$ within a box that shrinks when the true errors
    do not follow, which is the exchange algorithm's step for functions that are not linear in their constants.

    Args:
        program: Structure and start.
        target: What is approximated.
        rounds: Linear programs at most.

    Returns:
        The program; each constant is a sum of two floats, good to about 32 digits. Never worse than the start at the
        points where it is judged.

    Raises:
        ValueError: If rounds is below 1.

    Numerics:
        Errors with 40 digits at 160 Chebyshev points and both ends, derivatives in float64.

    Example:
        >>> line = Program((("mul", (1, 0)), ("add", (2, 3))), ((0.7, 0.0), (1.0, 0.0)))
        >>> best = polish(line, Target("exp2", (0.0, 1.0), "absolute"))
        >>> round(float(max(abs(e) for e in exact_errors(best, Target("exp2", (0.0, 1.0)), np.array([0.0, 1.0])))), 3)
        0.043
    """
    if rounds < 1:
        raise ValueError(f"rounds is at least 1, got {rounds}")
    if not program.constants:
        return program
    low, high = target.ends
    x = np.concatenate([[low], target.points(_POINTS), [high]])
    x = x[x != 0]
    with mpmath.workdps(_DIGITS):
        best = [mpmath.mpf(hi) + mpmath.mpf(lo) for hi, lo in program.constants]
        judge = _Judge(target, x)
        errors = judge.errors(program, best)
        box, largest = 0.1, max(abs(e) for e in errors)
        for _ in range(rounds):
            if not mpmath.isfinite(largest) or largest == 0 or box < _SMALLEST_STEP:
                break
            step = _minimax_step(program, judge, best, errors, box)
            trial = [c + mpmath.mpf(float(d)) for c, d in zip(best, step, strict=True)]
            found = judge.errors(program, trial)
            now = max(abs(e) for e in found)
            if now >= largest:
                box /= 8
                continue
            gain, best, errors, largest = largest / now - 1, trial, found, now
            box *= 2
            if gain < 1e-5:
                break
        pairs = [(float(c), float(c - mpmath.mpf(float(c)))) for c in best]
    return Program(program.instructions, tuple(pairs))


def _minimax_step(program: Program, judge: _Judge, constants: list[Any], errors: list[Any], box: float) -> np.ndarray:
    """Return the change of the constants that the linear program asks for; `box` is relative to each constant."""
    x, largest = judge.x, max(abs(e) for e in errors)
    e = np.array([float(v / largest) for v in errors])
    c = np.array([float(v) for v in constants])
    values = np.empty((1 + len(c) + len(program.instructions), len(x)))
    jacobian, adjoint = np.empty((len(c), len(x))), np.empty_like(values)
    forward(program.code, c, x, values)
    backward(program.code, values, judge.weights, adjoint, jacobian)
    jacobian = jacobian.T / float(largest)
    scale = np.maximum(np.abs(jacobian).max(axis=0), 1e-300)
    # Orthogonal directions: a program's constants can do nearly the same, and the solver's tolerance is finite.
    q, r = np.linalg.qr(jacobian / scale)
    u, s, vt = np.linalg.svd(r)
    s = np.maximum(s, 1e-12 * s[0])
    basis = q @ u  # column k is the effect of one unit along vt[k] / s[k]
    to_constants = (vt.T / s) / scale[:, None]
    columns = np.column_stack([basis, -np.ones(len(x))])
    mirrored = np.column_stack([-basis, -np.ones(len(x))])
    limit = box * np.maximum(np.abs(c), 1e-3)
    kept = np.column_stack([to_constants, np.zeros(len(c))]) / limit[:, None]
    one = np.ones(len(c))
    matrix = np.concatenate([columns, mirrored, kept, -kept])
    bounds = np.concatenate([-e, e, one, one])
    found = linprog(
        np.eye(len(c) + 1)[-1], A_ub=matrix, b_ub=bounds, bounds=[(None, None)] * len(c) + [(0, None)], method="highs"
    )
    return to_constants @ found.x[:-1] if found.x is not None else np.zeros(len(c))
