# SPDX-License-Identifier: Apache-2.0
"""Greedy composition of minimax odd polynomials (Polar Express), for any odd degree."""

import math
from collections.abc import Sequence

import numpy as np

from steepest.geometry.certify import Coefficients

#: Lower ends below this share of the upper one are lifted before the solve, as in the reference list of Polar Express.
CUSHION = 0.02407327424182761
#: From here on the interval is so short that the minimax polynomial and the Taylor one agree to rounding.
_SHORT = 1 - 5e-6
_EXCHANGES = 100


def minimax_polynomial(low: float, high: float, degree: int = 5) -> tuple[np.ndarray, float]:
    r"""Return the odd polynomial nearest to 1 on an interval, by the exchange algorithm of Remez.

    Args:
        low: Lower end $l$, above zero.
        high: Upper end $u$, above $l$.
        degree: Odd degree, 3 or more.

    Returns:
        The coefficients of $x, x^3, ...$ and the error $\max_{[l,u]} |1 - p(x)|$.

    Raises:
        RuntimeError: When the exchange does not settle in 100 rounds.

    Numerics:
        float64. The exchange has settled when the levelled error moves by less than 1e-14. For $l/u$ above 1 - 5e-6 the
        Taylor polynomial at the centre is returned (error 0 to rounding), for the linear system is singular there.

    Example:
        >>> row, error = minimax_polynomial(0.5, 1.5)
        >>> round(error, 4)
        0.0855
    """
    terms = (degree + 1) // 2
    if low / high >= _SHORT:
        centre = (low + high) / 2
        return taylor_polynomial(degree) / centre ** (2 * np.arange(terms) + 1), 0.0
    nodes = (low + high) / 2 - (high - low) / 2 * np.cos(np.pi * np.arange(terms + 1) / terms)
    powers = 2 * np.arange(terms) + 1
    error = math.inf
    for _ in range(_EXCHANGES):
        system = np.column_stack([nodes[:, None] ** powers, (-1.0) ** np.arange(terms + 1)])
        solution = np.linalg.solve(system, np.ones(terms + 1))
        row, levelled = solution[:-1], abs(float(solution[-1]))
        if abs(levelled - error) <= 1e-14:
            return row, levelled
        error = levelled
        squares = np.polynomial.polynomial.polyroots(powers * row)
        nodes[1:-1] = np.sort(np.sqrt(squares.real.clip(low**2, high**2)))
    raise RuntimeError(f"the exchange algorithm did not settle on [{low:g}, {high:g}] at degree {degree}")


def taylor_polynomial(degree: int) -> np.ndarray:
    r"""Return the Newton-Schulz polynomial of a degree: $x \sum_k \binom{2k}{k} 4^{-k} (1 - x^2)^k$.

    Args:
        degree: Odd degree.

    Returns:
        The coefficients of $x, x^3, ...$; (1.5, -0.5) for 3 and (15, -10, 3) / 8 for 5.
    """
    total, factor = np.zeros((degree + 1) // 2), np.array([1.0])
    for k in range(total.size):
        total[: k + 1] += math.comb(2 * k, k) / 4**k * factor
        factor = np.convolve(factor, [1.0, -1.0])
    return total


def minimax_composition(
    interval: tuple[float, float], degrees: Sequence[int], cushion: float = CUSHION
) -> Coefficients:
    r"""Compose minimax polynomials, each on the interval that the previous one leaves.

    The greedy composition is the best of all compositions of those degrees (Amsel et al., theorem 3.1). After each
    solve the polynomial is scaled by $2/(p(l) + \max p)$, so that the next interval is centred at 1.

    Args:
        interval: Singular values $[l, u]$ that come in.
        degrees: Odd degree of each polynomial.
        cushion: Lower ends below this share of the upper end are lifted to it before the solve, for a steep polynomial
            amplifies rounding. 0 gives the exact minimax composition.

    Returns:
        One row of coefficients for each step.

    References:
        Amsel, Persson, Musco and Gower (2025), The Polar Express, arXiv:2505.16932.
    """
    low, high = interval
    rows = []
    for degree in degrees:
        row, error = minimax_polynomial(max(low, cushion * high), high, degree)
        at_low = float(low * np.polynomial.polynomial.polyval(low * low, row))
        scale = 2 / (at_low + 1 + error)
        rows.append(tuple((scale * row).tolist()))
        low = scale * at_low
        high = 2 - low
    return tuple(rows)
