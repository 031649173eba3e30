# SPDX-License-Identifier: Apache-2.0
"""Quintics chosen by their fixed points 0, +-(1 - l), +-(1 + r)."""

import itertools

import numpy as np

from steepest.geometry.certify import Coefficients, compose

_BISECTIONS = 80
_RADII = np.round(np.arange(0.02, 0.62, 0.04), 2)


def quintic_from_fixed_points(gamma: float, inner: float, outer: float) -> tuple[float, float, float]:
    r"""Return $(a, b, c)$ of $p(x) = x + \gamma x (x^2 - (1-l)^2)(x^2 - (1+r)^2)$.

    Args:
        gamma: Strength, above 0.
        inner: $l$ in [0, 1): the fixed point below 1 is 1 - l.
        outer: $r \ge 0$: the fixed point above 1 is 1 + r.

    Returns:
        The three coefficients.
    """
    low, high = (1 - inner) ** 2, (1 + outer) ** 2
    return 1 + gamma * low * high, -gamma * (low + high), gamma


def fixed_points(row: tuple[float, ...]) -> tuple[float, float, float]:
    """Return (gamma, l, r) of a quintic, the inverse of `quintic_from_fixed_points`.

    Args:
        row: Coefficients (a, b, c) with c above 0.

    Returns:
        The strength and the inner and outer radius. `l` is negative when both fixed points lie above 1, `r` when both
        lie below.

    Raises:
        ValueError: When the quintic has no two positive fixed points.
    """
    a, b, c = row
    discriminant = b * b - 4 * (a - 1) * c
    if c <= 0 or b >= 0 or a <= 1 or discriminant < 0:
        raise ValueError(f"expected a quintic with two positive fixed points, got {row}")
    high = (-b + np.sqrt(discriminant)) / (2 * c)
    return c, float(1 - np.sqrt((a - 1) / c / high)), float(np.sqrt(high) - 1)


def fixed_point_quintic(inner: float, outer: float) -> tuple[float, float, float]:
    r"""Return the steepest quintic with given fixed points that maps (0, 1 + r] into itself.

    The largest $\gamma$ for which the peak in (0, 1 - l) is at most 1 + r and the trough in (1 - l, 1 + r) is above 0,
    by binary search; both get worse as $\gamma$ grows.

    Args:
        inner: $l$ in (0, 1).
        outer: $r$ above 0.

    Returns:
        The coefficients (a, b, c).

    Raises:
        ValueError: When a radius is out of range.

    Example:
        >>> a, b, c = fixed_point_quintic(0.13, 0.26)
        >>> round(a, 2)
        3.66
    """
    if not (0 < inner < 1 and 0 < outer < 10):
        raise ValueError(f"expected radii 0 < l < 1 and 0 < r < 10, got l={inner}, r={outer}")
    low, high = 0.0, 1.0
    while _maps_into_itself(high, inner, outer):
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _maps_into_itself(middle, inner, outer) else (low, middle)
    return quintic_from_fixed_points(low, inner, outer)


def _maps_into_itself(gamma: float, inner: float, outer: float) -> bool:
    row = quintic_from_fixed_points(gamma, inner, outer)
    squares = np.polynomial.polynomial.polyroots([row[0], 3 * row[1], 5 * row[2]])
    if np.iscomplex(squares).any():
        return True  # monotone: neither a peak nor a trough
    peak, trough = compose([row], np.sqrt(np.sort(squares.real)))
    return bool(peak <= 1 + outer and trough > 0)


def fixed_point_composition(
    steps: int, interval: tuple[float, float], radii: tuple[float, float] | None = None
) -> Coefficients:
    """Repeat the quintic with the given radii, or with those whose composition is nearest to 1.

    Args:
        steps: Number of steps; each is the same quintic, for each maps (0, 1 + r] into itself.
        interval: Singular values that come in, for the search.
        radii: (l, r), or None for the pair of a 15 x 15 grid over [0.02, 0.58] with the least root mean square error
            for log-uniform singular values in the interval.

    Returns:
        One row of coefficients for each step.
    """
    if radii is not None:
        return (fixed_point_quintic(*radii),) * steps
    x = np.geomspace(*interval, 512)
    rows = (fixed_point_quintic(float(inner), float(outer)) for inner, outer in itertools.product(_RADII, _RADII))
    best = min(rows, key=lambda row: float(np.mean((1 - compose([row] * steps, x)) ** 2)))
    return (best,) * steps
