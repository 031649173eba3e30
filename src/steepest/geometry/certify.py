# SPDX-License-Identifier: Apache-2.0
"""What a polar iteration can do to a singular value, proven from its coefficients alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final, get_args

import numpy as np

Coefficients = tuple[tuple[float, ...], ...]
Normalization = Literal["frobenius", "schatten4", "schatten8", "spectral-bound", "aol"]
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)

#: Above this an iteration is called divergent: the error is above 1, and another step of most lists runs away.
LARGEST_OUTPUT = 2.0
#: Default limit on the error. It keeps Muon's own list (0.53 on [1e-3, 1]) and refuses a direction that is dropped.
LARGEST_ERROR = 0.6
#: Ranges are widened by this factor, for the rounding of float64 in our own evaluation.
_OUTWARD = 1e-12
#: Beyond this nothing is worth following.
_HOPELESS = 1e6
_POINTS = 4096


@final
@dataclass(frozen=True)
class Certificate:
    """The exact range of a composition of odd polynomials on an interval of singular values.

    Attributes:
        steps: How many polynomials are composed.
        normalization: The scaling that brings the largest singular value to `interval[1]` or below.
        interval: Singular values, after the normalization, for which `min_out`, `max_out`, `error` and `rms` hold.
        slope: Derivative of the composition at zero: how much a tiny singular value grows.
        min_out: Smallest singular value that comes out, over the interval.
        max_out: Largest that comes out over (0, `interval[1]`], that is, below the interval too.
        error: Bound on |1 - out| over the interval.
        rms: Root mean square of 1 - out for singular values log-uniform in the interval (4096 points; not a bound).
        eps: Relative rounding error of a step that `min_out`, `max_out` and `error` allow for; 0 is exact arithmetic.
        reasons: Why the list is refused; empty when it is accepted.
    """

    steps: int
    normalization: str
    interval: tuple[float, float]
    slope: float
    min_out: float
    max_out: float
    error: float
    rms: float
    eps: float
    reasons: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against the list on this interval."""
        return not self.reasons

    def require(self) -> "Certificate":
        """Return the certificate itself.

        Returns:
            This object, when the list is accepted.

        Raises:
            ValueError: With every reason, when it is refused.
        """
        if self.reasons:
            low, high = self.interval
            raise ValueError(
                f"polar iteration of {self.steps} steps after {self.normalization} normalization refused on "
                f"[{low:g}, {high:g}]: {'; '.join(self.reasons)}. Use the number of steps the list was made for, "
                "a smaller interval, or make a list with design_iteration"
            )
        return self


def certify(
    coefficients: Sequence[Sequence[float]],
    *,
    normalization: str = "frobenius",
    interval: tuple[float, float] = (1e-3, 1.0),
    eps: float = 0.0,
    tol: float = LARGEST_ERROR,
) -> Certificate:
    r"""Bound every singular value that a composition of odd polynomials can return.

    The image of an interval under a continuous function is an interval, so its two ends can be carried through the
    steps one at a time: $I_{t+1} = [\min p_t(I_t), \max p_t(I_t)]$. Each extremum is at an end or at a real root of
    $p_t'$. The result is the exact range of the whole composition, not an over-estimate. No sign can flip on
    $(0, u]$ if and only if no $p_t$ has a zero in the image of $(0, u]$ at step $t$; that is tested by the real roots.

    Args:
        coefficients: One row a step, $(a, b, c, ...)$ of $p(x) = a x + b x^3 + c x^5 + ...$.
        normalization: The scaling in front, one of `NORMALIZATIONS`; each guarantees $\sigma \le u$ and can reach it.
        interval: $[l, u]$, singular values after that scaling, $0 < l < u$.
        eps: Relative error of each step, for example 2**-8 for bfloat16. See Numerics.
        tol: Refuse when the error is larger, in (0, 1).

    Returns:
        The certificate; it is not raised but lists the reasons when the list can flip a sign, diverge or drop a
        direction. Call `require()` on it to raise.

    Raises:
        ValueError: When the coefficients are not finite numbers in equal or unequal rows, the interval is empty, the
            normalization is unknown, or tol or eps is out of range.

    Numerics:
        float64, ranges widened by 1e-12. With `eps` > 0 each step's range is widened by the first-order error of
        computing A = X X^T, B = b A + c A^2 + ... or a I + B, and X' = a X + B X with every result rounded. That is the
        worst case of a matrix whose rounding errors all point the same way (of rank one, say); others stay well
        inside. Then the extrema are taken over the real roots and 4096 points. Singular values below about `eps` times
        the largest are covered only in size: in a matrix of that precision their directions are rounding noise.

    Example:
        >>> certify([(1.5, -0.5)] * 10, interval=(0.05, 1.0)).accepted
        True
        >>> certify([(4.0098, -7.0585, 2.4635)]).reasons[0][:24]
        'a sign can flip: step 1 '
    """
    rows = check_coefficients(coefficients)
    _check_arguments(normalization, interval, eps, tol)
    low, high = interval
    low, high = low * (1 - 2 * eps), high * (1 + 2 * eps)  # the cast of the matrix, and its scaling
    top, reasons = high, []
    for number, row in enumerate(rows, 1):
        scaled = number == 1 and normalization != "frobenius"
        zero = _first_zero(row, top, eps, scaled)
        if zero is not None and not reasons:
            reasons.append(
                f"a sign can flip: step {number} is zero or negative at {zero:.4g} and the values that reach it go "
                f"up to {top:.4g}"
            )
        low, high = _range(row, low, high, eps, scaled)
        top = max(_range(row, 0.0, top, eps, scaled)[1], high)
        if top > _HOPELESS:
            low, high, top = -math.inf, math.inf, math.inf
            break
    error = max(1 - low, high - 1)
    if top > LARGEST_OUTPUT:
        reasons.append(f"it diverges: a singular value can grow to {top:.4g}")
    elif not reasons and error > tol:
        reasons.append(f"singular values end in [{low:.4g}, {high:.4g}]: the error {error:.3g} is above {tol:g}")
    slope = math.prod(row[0] for row in rows)
    rms = _rms(rows, interval)
    return Certificate(len(rows), normalization, interval, slope, low, top, error, rms, eps, tuple(reasons))


def check_coefficients(coefficients: Sequence[Sequence[float]]) -> Coefficients:
    """Return the rows as tuples of floats.

    Args:
        coefficients: One row of at least one number for each step.

    Returns:
        The same numbers, immutable.

    Raises:
        ValueError: When there is no row, an empty row, or a number that is not finite.
    """
    rows = tuple(tuple(float(value) for value in row) for row in coefficients)
    if not rows or not all(rows) or not all(np.isfinite(row).all() for row in rows):
        raise ValueError(f"expected rows (a, b, c, ...) of finite numbers, one for each step, got {coefficients!r}")
    return rows


def compose(coefficients: Sequence[Sequence[float]], x: np.ndarray) -> np.ndarray:
    """Evaluate the composition of odd polynomials.

    Args:
        coefficients: One row (a, b, c, ...) for each step.
        x: Singular values, any shape, float64.

    Returns:
        What comes out, of the shape of `x`.
    """
    y = np.asarray(x, dtype=np.float64)
    for row in coefficients:
        y = y * np.polynomial.polynomial.polyval(y * y, row)
    return y


def _check_arguments(normalization: str, interval: tuple[float, float], eps: float, tol: float) -> None:
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}")
    if not 0 < interval[0] < interval[1] < np.inf:
        raise ValueError(f"interval must be (l, u) with 0 < l < u, got {interval}")
    if not 0 <= eps < 0.1 or not 0 < tol < 1:
        raise ValueError(f"expected 0 <= eps < 0.1 and 0 < tol < 1, got eps={eps}, tol={tol}")


def _real_roots(polynomial: np.ndarray, top: float) -> np.ndarray:
    """Return the x in (0, top) where the polynomial in x**2 vanishes, ascending."""
    roots = np.polynomial.polynomial.polyroots(np.trim_zeros(polynomial, "b"))
    real = roots.real[np.abs(roots.imag) <= 1e-7 * (1 + np.abs(roots))]
    x = np.sqrt(real[real > 0])
    return np.sort(x[x < top])


def _range(row: Sequence[float], low: float, high: float, eps: float, scaled: bool) -> tuple[float, float]:
    """Return the range of p on [low, high] (either may be negative), widened by the rounding of one step."""
    derivative = np.array([(2 * k + 1) * value for k, value in enumerate(row)])
    turns = _real_roots(derivative, max(abs(low), abs(high)))
    turns = np.concatenate([-turns, turns])
    points = np.concatenate([[low, high], turns[(turns > low) & (turns < high)]])
    if eps:
        points = np.concatenate([points, np.linspace(low, high, _POINTS)])
    values = compose([row], points)
    slack = _OUTWARD * np.abs(values).max() + eps * _rounding(row, points, scaled)
    return float((values - slack).min()), float((values + slack).max())


def _rounding(row: Sequence[float], x: np.ndarray, scaled: bool) -> np.ndarray:
    """Return the first-order error of one step, in units of the relative rounding error.

    What rounds: A = x x^T, A^2, B = b A + c A^2 or a I + B, x' = a x + B x; for degrees above 5 also d A + e A^2 and
    the sum. A first step that is `scaled` from its own products may also round the scaled x, and A and A^2 for degrees
    above 5.
    """
    a, b, c, d, e = (*row, *(0.0,) * (5 - len(row)))
    t = x * x
    low, high = b * t + c * t**2, d * t + e * t**2
    inner = np.abs(b * t + 2 * c * t**2 + 3 * d * t**3 + 4 * e * t**4) * (2 if scaled and (d or e) else 1)
    inner += np.maximum(np.abs(low + t**2 * high), np.abs(a + low + t**2 * high))
    inner += np.abs(c * t**2 + t**2 * high + e * t**4) * (2 if scaled and (d or e) else 1)
    if d or e:
        inner += np.abs(low) + t**2 * np.abs(high)
    return np.abs(compose([row], x)) * (2 if scaled else 1) + np.abs(x) * inner


def _first_zero(row: Sequence[float], top: float, eps: float, scaled: bool) -> float | None:
    if row[0] <= 0:
        return 0.0
    zeros = _real_roots(np.asarray(row, dtype=np.float64), top * (1 + _OUTWARD))
    if zeros.size:
        return float(zeros[0])
    if eps:
        x = np.linspace(0.0, top, _POINTS)[1:]
        unsafe = x[compose([row], x) <= eps * _rounding(row, x, scaled)]
        return float(unsafe[0]) if unsafe.size else None
    return None


def _rms(rows: Coefficients, interval: tuple[float, float]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        y = compose(rows, np.geomspace(*interval, _POINTS))
        value = float(np.sqrt(np.mean((1 - y) ** 2)))
    return value if np.isfinite(value) else math.inf
