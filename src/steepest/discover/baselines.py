# SPDX-License-Identifier: Apache-2.0
"""What textbooks offer, as programs: Taylor, Padé, minimax polynomials and rationals, and one published find."""

import contextlib
from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np

from steepest.discover.polish import polish
from steepest.discover.program import Program, canonical
from steepest.discover.targets import Target

_DIGITS = 60
#: Constants of the published ten-operation program for 2^x, in its symmetric form on [-1/2, 1/2].
_KNOWN = {"c1": 15141.348430147601, "c3": 5783.4315382002674, "c4": 501.09615808312062}


class NoSuchFunctionError(ValueError):
    """Degrees that no approximant of a target has."""


def polynomial(coefficients: Any) -> Program:
    """Return Horner's program of a polynomial: a multiplication and an addition for each degree.

    Args:
        coefficients: Lowest first, mpmath numbers or floats; each gives one constant.

    Returns:
        The program, with 2 times the degree operations.

    Raises:
        ValueError: If there are fewer than two coefficients.

    Example:
        >>> polynomial([1.0, 0.5]).instructions
        (('mul', (2, 0)), ('add', (1, 3)))
    """
    n = len(coefficients)
    if n < 2:
        raise ValueError(f"a polynomial of degree 1 or more has two coefficients or more, got {n}")
    lines: list[tuple[str, tuple[int, ...]]] = []
    register = n
    for k in range(n - 2, -1, -1):
        lines += [("mul", (register, 0)), ("add", (1 + k, n + len(lines) + 1))]
        register = n + len(lines)
    return Program(tuple(lines), _pairs(coefficients))


def rational(numerator: Any, denominator: Any) -> Program:
    """Return the program of P(x) / Q(x), both by Horner, with the highest coefficient of Q divided out.

    Args:
        numerator: Coefficients of P, lowest first.
        denominator: Coefficients of Q, lowest first, degree 1 or more.

    Returns:
        The program: twice the sum of the degrees operations, the saved multiplication spent on the division.

    Raises:
        ValueError: If the denominator has degree 0.

    Example:
        >>> len(rational([1.0, 0.5], [1.0, -0.5]).instructions)
        4
    """
    if len(denominator) < 2:
        raise ValueError("the denominator has degree 1 or more")
    top = denominator[-1]
    p, q = [c / top for c in numerator], [c / top for c in denominator[:-1]]
    constants = [*p, *q]
    lines: list[tuple[str, tuple[int, ...]]] = []
    base = 1 + len(constants)

    def emit(name: str, *operands: int) -> int:
        lines.append((name, operands))
        return base + len(lines) - 1

    def horner(first: int, count: int, register: int) -> int:
        for k in range(count - 1, -1, -1):
            register = emit("add", first + k, emit("mul", register, 0))
        return register

    above = horner(1, len(p) - 1, len(p))
    below = horner(1 + len(p), len(q) - 1, emit("add", len(p) + len(q), 0))
    emit("div", above, below)
    return Program(tuple(lines), _pairs(constants))


def continued_fraction(order: int) -> Program:
    """Return the structure c0 + c1 / (x + c2 + c3 / (x + c4 + ...)): a rational of equal degrees in fewest operations.

    Args:
        order: Degree of numerator and denominator, 1 or more.

    Returns:
        The program, with 3 times `order` operations; its constants are all 1.

    Raises:
        ValueError: If order is below 1.

    Example:
        >>> continued_fraction(1).instructions
        (('add', (1, 0)), ('div', (2, 4)), ('add', (3, 5)))
    """
    if order < 1:
        raise ValueError(f"the order is at least 1, got {order}")
    count = 2 * order + 1
    lines: list[tuple[str, tuple[int, ...]]] = [("add", (1, 0))]
    for k in range(order):
        last = count + len(lines)
        lines.append(("div", (2 + 2 * k, last)))
        if k < order - 1:
            lines += [("add", (3 + 2 * k, 0)), ("add", (last + 1, last + 2))]
        else:
            lines.append(("add", (3 + 2 * k, last + 1)))
    return Program(tuple(lines), _pairs([1.0] * count))


def taylor(target: Target, degree: int) -> Program:
    """Return the Taylor polynomial around the interval's middle, as a polynomial in x.

    Args:
        target: What is approximated.
        degree: 1 or more.

    Returns:
        Horner's program.

    Raises:
        ValueError: If degree is below 1.

    Example:
        >>> round(float(taylor(Target("exp2"), 1)(np.array(0.5))), 3)
        1.347
    """
    if degree < 1:
        raise ValueError(f"the degree is at least 1, got {degree}")
    with mpmath.workdps(_DIGITS):
        return polynomial(_shifted(_series(target, degree), _middle(target)))


def pade(target: Target, above: int, below: int) -> Program:
    """Return the Padé approximant around the interval's middle.

    Args:
        target: What is approximated.
        above: Degree of the numerator.
        below: Degree of the denominator, 1 or more.

    Returns:
        The program of the quotient in x; shorter where highest coefficients are zero.

    Raises:
        ValueError: If below is 0; `NoSuchFunctionError` if there is none of these degrees.

    Example:
        >>> len(pade(Target("exp2"), 1, 1).instructions)
        4
    """
    with mpmath.workdps(_DIGITS):
        try:
            p, q = map(_without_zeros, mpmath.pade(_series(target, above + below), above, below))
        except ZeroDivisionError:
            raise NoSuchFunctionError(f"{target.name} has no Padé approximant of degrees {above}, {below}") from None
        p, q = _shifted(p, _middle(target)), _shifted(q, _middle(target))
        return rational(p, q) if len(q) > 1 else polynomial([c / q[0] for c in p])


def _without_zeros(coefficients: Any) -> Any:
    """Leave out the highest coefficients that are zero, as those of odd functions are."""
    least = mpmath.mpf(10) ** (5 - _DIGITS) * max(abs(c) for c in coefficients)
    while len(coefficients) > 1 and abs(coefficients[-1]) <= least:
        coefficients = coefficients[:-1]
    return coefficients


def minimax_polynomial(target: Target, degree: int) -> Program:
    """Return Horner's program of the polynomial whose largest error is smallest.

    Args:
        target: What is approximated.
        degree: 1 or more.

    Returns:
        The program; constants good to 32 digits.

    Raises:
        ValueError: If degree is below 1.

    Example:
        >>> len(minimax_polynomial(Target("exp2"), 2).instructions)
        4
    """
    if degree < 1:
        raise ValueError(f"the degree is at least 1, got {degree}")
    x = target.points(2 * degree + 2)
    values, weights = target.sample(x)
    start = np.linalg.lstsq(np.vander(x, degree + 1, increasing=True) * weights[:, None], values * weights, rcond=None)
    return polish(polynomial(list(start[0])), target)


def minimax_rational(target: Target, above: int, below: int) -> Program:
    """Return the program of the rational function whose largest error is smallest, near the Padé approximant.

    Args:
        target: What is approximated.
        above: Degree of the numerator.
        below: Degree of the denominator, 1 or more.

    Returns:
        The program; constants good to 32 digits.

    Raises:
        ValueError: If below is 0.

    Example:
        >>> len(minimax_rational(Target("exp2"), 1, 1).instructions)
        4
    """
    return polish(pade(target, above, below), target)


def known_exp2() -> Program:
    """Return the published ten-operation program (c4 / (c1 / u + c2 + u) - c5)^8, u = c3 / x + x, for 2^x.

    Returns:
        The program in canonical form, with c5 = -1 and c2 = -c4 / 2, which make f(x) f(-x) = 1.

    Example:
        >>> known_exp2().cost()
        10.0

    References:
        Real et al. (2023), AutoNumerics-Zero, arXiv 2312.08472; constants fitted on [-1/2, 1/2] for this form.
    """
    u = ("add", ("div", _KNOWN["c3"], "x"), "x")
    below = ("add", ("add", ("div", _KNOWN["c1"], u), -_KNOWN["c4"] / 2), u)
    root = ("add", ("div", _KNOWN["c4"], below), 1.0)
    return canonical(("square", ("square", ("square", root))))


def fronts(target: Target, most: int = 10) -> dict[str, list[Program]]:
    """Return the textbook programs with at most `most` operations, by family.

    Args:
        target: What is approximated.
        most: Operations, 2 or more; a multiplication and an addition count one each.

    Returns:
        Family to programs in the order of their operations.

    Raises:
        ValueError: If most is below 2.

    Example:
        >>> [len(p.instructions) for p in fronts(Target("exp2"), 4)["Taylor"]]
        [2, 4]
    """
    if most < 2:
        raise ValueError(f"a textbook program has at least 2 operations, got {most}")
    degrees = range(1, most // 2 + 1)
    pairs: list[tuple[int, ...]] = [(total - total // 2, total // 2) for total in range(2, most // 2 + 1)]
    orders = [k for k in range(1, most) if len(continued_fraction(k).instructions) <= most]
    return {
        "Taylor": [taylor(target, d) for d in degrees],
        "Padé": list(_those_that_exist(pade, target, pairs)),
        "minimax polynomial": [minimax_polynomial(target, d) for d in degrees],
        "minimax rational": list(_those_that_exist(minimax_rational, target, pairs)),
        "minimax continued fraction": list(_those_that_exist(_fraction, target, [(k,) for k in orders])),
    }


def _those_that_exist(kind: Any, target: Target, degrees: list[tuple[int, ...]]) -> Iterator[Program]:
    for pair in degrees:
        with contextlib.suppress(NoSuchFunctionError):
            yield kind(target, *pair)


def _fraction(target: Target, order: int) -> Program:
    """Return the minimax rational of equal degrees as a continued fraction."""
    best = minimax_rational(target, order, order)
    if len(best.constants) != 2 * order + 1:
        raise NoSuchFunctionError(f"the best rational function of degree {order} for {target.name} has a lower one")
    with mpmath.workdps(_DIGITS):
        exact = [mpmath.mpf(hi) + mpmath.mpf(lo) for hi, lo in best.constants]
        p, q = exact[: order + 1], [*exact[order + 1 :], mpmath.mpf(1)]
        constants = [p[-1]]
        rest = [a - p[-1] * b for a, b in zip(p, q, strict=True)][:-1]
        for _ in range(order):
            # rest / q = lead / (x + shift + left / monic)
            lead = rest[-1]
            monic = [c / lead for c in rest]
            shift = q[-2] - (monic[-2] if len(monic) > 1 else 0)
            constants += [lead, shift]
            left = [a - b for a, b in zip(q, [0, *monic], strict=True)][:-1]
            rest = [a - shift * b for a, b in zip(left, monic, strict=True)][:-1]
            q = monic
        return Program(continued_fraction(order).instructions, _pairs(constants[::-1]))


def _middle(target: Target) -> Any:
    return mpmath.mpf(sum(target.ends)) / 2


def _series(target: Target, degree: int) -> list[Any]:
    assert target.function is not None
    return mpmath.taylor(target.function, _middle(target), degree)


def _shifted(coefficients: list[Any], middle: Any) -> list[Any]:
    """Return the coefficients in x of a polynomial in x - middle."""
    result = [mpmath.mpf(0)] * len(coefficients)
    for k, c in enumerate(coefficients):
        for j in range(k + 1):
            result[j] += c * mpmath.binomial(k, j) * (-middle) ** (k - j)
    return result


def _pairs(values: Any) -> tuple[tuple[float, float], ...]:
    return tuple((float(v), float(mpmath.mpf(v) - mpmath.mpf(float(v)))) for v in values)
