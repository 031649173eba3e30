# SPDX-License-Identifier: Apache-2.0
"""Coefficients trained by gradient descent on the error over the spectrum."""

from collections.abc import Sequence

import numpy as np

from steepest.geometry.certify import Coefficients, certify
from steepest.geometry.design_minimax import minimax_composition

_POINTS = 384
#: Keep the troughs above this, far from a sign flip.
_FLOOR = 0.05
_PENALTY = 3.0
_LARGE = 1e6
#: Lower ends of the minimax compositions from which the descent starts, as multiples of the wanted lower end.
_STARTS = (1.0, 2.0, 4.0, 10.0)


def gradient_composition(interval: tuple[float, float], degrees: Sequence[int]) -> Coefficients:
    r"""Train every coefficient of a composition for the least root mean square error.

    Minimizes the mean of $(1 - P(x))^2$ over 384 log-uniform points of the interval, plus a penalty on values above
    one half that a step sends below 0.05 (a trough that is about to flip a sign), by Gauss-Newton in a trust region
    with exact derivatives. The descent starts from four minimax compositions; the best that is certified wins.

    Args:
        interval: Singular values $[l, u]$ that come in.
        degrees: Odd degree of each polynomial.

    Returns:
        One row of coefficients for each step.

    Raises:
        RuntimeError: When no start leads to a list that keeps the sign of every singular value.

    References:
        Cesista, You and Jordan (2025), Squeezing 1-2% efficiency gains out of Muon by optimizing the Newton-Schulz
        coefficients. Deviation: the points are log-uniform and the descent is second order; the coefficients are free
        instead of tied to two fixed points, and not rounded to four decimals.
    """
    from scipy.optimize import least_squares  # half a second that only a design should pay

    x = np.concatenate([np.geomspace(*interval, _POINTS), np.linspace(*interval, _POINTS)])
    weight = np.where(np.arange(x.size) < _POINTS, 1.0, 0.0)
    terms = [(degree + 1) // 2 for degree in degrees]
    best: tuple[float, Coefficients] | None = None
    for start in _STARTS:
        low = min(start * interval[0], 0.9 * interval[1])
        first = np.concatenate(minimax_composition((low, interval[1]), degrees))
        with np.errstate(all="ignore"):  # a trial point may overflow; its residual is then large and it is not taken
            found = least_squares(
                lambda flat: _residuals(_rows(flat, terms), x, weight)[0],
                first,
                jac=lambda flat: _residuals(_rows(flat, terms), x, weight)[1],  # pyright: ignore[reportArgumentType]
                max_nfev=200,
            )
        rows = tuple(tuple(row.tolist()) for row in _rows(found.x, terms))
        certificate = certify(rows, interval=interval, tol=0.999)
        if certificate.accepted and (best is None or certificate.rms < best[0]):
            best = certificate.rms, rows
    if best is None:
        raise RuntimeError(f"no start led to a composition of degrees {degrees} on {interval} that keeps every sign")
    return best[1]


def _rows(flat: np.ndarray, terms: Sequence[int]) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(terms)[:-1])


def _residuals(rows: Sequence[np.ndarray], x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the residuals of the error and of the penalties, and their derivatives."""
    y, derivative = x, np.zeros((x.size, 0))
    residuals, derivatives = [], []
    for row in rows:
        powers = 2 * np.arange(row.size) + 1
        square = y * y
        slope = np.polynomial.polynomial.polyval(square, powers * row)
        derivative = np.column_stack([derivative * slope[:, None], y[:, None] ** powers])
        before, y = y, y * np.polynomial.polynomial.polyval(square, row)
        short = (before > 0.5) & (y < _FLOOR)
        residuals.append(np.where(short, _PENALTY * (_FLOOR - y), 0.0))
        derivatives.append(np.where(short[:, None], -_PENALTY * derivative, 0.0))
    residuals.append(weight * (1 - y))
    derivatives.append(-weight[:, None] * derivative)
    width = derivative.shape[1]
    padded = [np.pad(block, ((0, 0), (0, width - block.shape[1]))) for block in derivatives]
    return _bounded(np.concatenate(residuals)), _bounded(np.concatenate(padded))


def _bounded(values: np.ndarray) -> np.ndarray:
    return np.nan_to_num(values, nan=_LARGE, posinf=_LARGE, neginf=-_LARGE).clip(-_LARGE, _LARGE)
