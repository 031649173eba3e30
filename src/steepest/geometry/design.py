# SPDX-License-Identifier: Apache-2.0
"""Design a polar iteration for an interval of singular values, and have it certified."""

from collections.abc import Sequence
from typing import Literal, get_args

from steepest.geometry.certify import NORMALIZATIONS, Coefficients, Normalization
from steepest.geometry.design_fixed_point import fixed_point_composition
from steepest.geometry.design_gradient import gradient_composition
from steepest.geometry.design_minimax import minimax_composition
from steepest.geometry.polar_iteration import PolarIteration

Method = Literal["minimax", "fixed-point", "gradient"]


def design_iteration(
    method: Method = "minimax",
    *,
    steps: int = 5,
    interval: tuple[float, float] = (1e-3, 1.0),
    safety: float = 1.0,
    degree: int | Sequence[int] = 5,
    normalization: Normalization = "frobenius",
    radii: tuple[float, float] | None = None,
) -> PolarIteration:
    r"""Return a polar iteration made for an interval of singular values.

    - `"minimax"`: the smallest largest error, by Remez and greedy composition (Polar Express).
    - `"fixed-point"`: one quintic repeated, $p(x) = x + \gamma x (x^2 - (1-l)^2)(x^2 - (1+r)^2)$ with the largest
      $\gamma$ that maps (0, 1 + r] into itself and flips no sign.
    - `"gradient"`: the smallest root mean square error for log-uniform singular values, by training.

    Args:
        method: One of the three above.
        steps: Number of polynomials, 1 to 20.
        interval: $[l, u]$, singular values after the normalization, $0 < l < u$; the normalization scales to $u$.
        safety: $s \ge 1$; every polynomial but the last is applied to $x / s$, so that rounding cannot push a value
            out of the interval that the next one expects. 1.02 is enough for bfloat16 in most lists; `certify` knows.
        degree: Odd degree, 3 to 9, of all polynomials or of each.
        normalization: What scales the matrix; see `PolarIteration`.
        radii: (l, r) of the fixed-point recipe; None searches for the best pair. Only for `"fixed-point"`.

    Returns:
        The iteration, certified on the interval with an error below 1.

    Raises:
        ValueError: When an argument is out of its range, or the result is refused by the certifier, with its reason.

    Example:
        >>> iteration = design_iteration("minimax", steps=6)
        >>> round(iteration.certificate.error, 4)
        0.0012

    References:
        Amsel et al. (2025), The Polar Express, arXiv:2505.16932; Cesista, You and Jordan (2025), Squeezing 1-2%
        efficiency gains out of Muon by optimizing the Newton-Schulz coefficients; Jordan (2024), Muon.
    """
    degrees = _check(method, steps, interval, safety, degree)
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    if radii is not None and method != "fixed-point":
        raise ValueError(f"radii belong to method 'fixed-point'; leave them out for {method!r}")
    if method == "fixed-point":
        if set(degrees) != {5}:
            raise ValueError(f"the fixed-point recipe makes quintics: use degree=5, got {degree}")
        rows = fixed_point_composition(steps, interval, radii)
    elif method == "minimax":
        rows = minimax_composition(interval, degrees)
    else:
        rows = gradient_composition(interval, degrees)
    return PolarIteration(
        with_safety(rows, safety), normalization=normalization, interval=interval, name=f"{method}-{steps}", tol=0.999
    )


def with_safety(coefficients: Coefficients, safety: float) -> Coefficients:
    """Return the list with every polynomial but the last applied to x / safety.

    Args:
        coefficients: One row for each step.
        safety: 1 or more.

    Returns:
        Rows (a / s, b / s^3, c / s^5, ...), the last one unchanged.
    """
    scaled = tuple(tuple(c / safety ** (2 * k + 1) for k, c in enumerate(row)) for row in coefficients[:-1])
    return (*scaled, tuple(coefficients[-1]))


def _check(
    method: str, steps: int, interval: tuple[float, float], safety: float, degree: int | Sequence[int]
) -> tuple[int, ...]:
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if not 1 <= steps <= 20:
        raise ValueError(f"steps must be 1 to 20, got {steps}")
    if not 0 < interval[0] < interval[1]:
        raise ValueError(f"interval must be (l, u) with 0 < l < u, got {interval}")
    if not 1 <= safety <= 2:
        raise ValueError(f"safety must be 1 to 2, got {safety}")
    degrees = (degree,) * steps if isinstance(degree, int) else tuple(degree)
    if len(degrees) != steps or any(d not in {3, 5, 7, 9} for d in degrees):
        raise ValueError(f"degree must be 3, 5, 7 or 9, or {steps} of them (one for each step), got {degree}")
    return degrees
