# SPDX-License-Identifier: Apache-2.0
"""Where the best learning rate lies, and how sure a handful of runs make of it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
#: Neighbours of the best rate on either side that the parabola is fitted to.
_SIDE = 2
_DRAWS, _LEVEL = 400, 0.9


@final
@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best learning rate of a search.

    Args:
        lr: Lowest point of the parabola through the losses around the best rate, else the best rate itself.
        loss: Of the parabola there, else of the best rate.
        tried: The best rate that was run.
        curvature: Second derivative of the loss by the base-2 logarithm of the rate; None if the losses do not curve.
        noise: Standard deviation of the loss over seeds.
        interval: Where the optimum lies in 90 % of redraws of all losses with that noise; None if nothing curves.
        flat: Rates whose loss on the parabola is within the noise of the lowest; None likewise.
        at_edge: Whether the best rate is the smallest or largest that was tried.
    """

    lr: float
    loss: float
    tried: float
    curvature: float | None
    noise: float
    interval: tuple[float, float] | None
    flat: tuple[float, float] | None
    at_edge: bool

    @property
    def factor(self) -> float:
        """The rate is known up to this factor either way; infinity if nothing is known."""
        return math.inf if self.interval is None or self.at_edge else math.sqrt(self.interval[1] / self.interval[0])

    @property
    def verdict(self) -> str:
        """`"sure"`, `"fairly sure"` or `"not sure"`: a factor of at most 1.5, at most 2.5, more."""
        return "sure" if self.factor <= 1.5 else "fairly sure" if self.factor <= 2.5 else "not sure"

    @property
    def explained(self) -> str:
        """One sentence that says how sure and why."""
        if self.at_edge:
            return f"Not sure: the best rate, {self.tried:.3g}, is the smallest or largest tried; search further there."
        if self.interval is None:
            return "Not sure: the losses around the best rate do not curve; try more rates or longer runs."
        low, high = self.interval
        return (
            f"{self.verdict.capitalize()}: with the seeds' spread of {self.noise:.2g} the optimum lies between "
            f"{low:.3g} and {high:.3g} in {_LEVEL:.0%} of redraws, a factor of {self.factor:.2g} either way."
        )


def optimum(points: Sequence[tuple[float, float]], noise: float, *, seed: int = 0) -> Optimum:
    """Return the best learning rate of a search and how sure its losses make of it.

    A parabola in the logarithm of the rate is fitted to the best rate and up to two neighbours on either side. All
    losses are drawn again with the noise of the seeds, and each time the best is found anew: the spread of the optima
    counts both the noise and the curvature.

    Args:
        points: (learning rate, loss), at least three rates with finite losses; an infinite loss diverged.
        noise: Standard deviation of a loss over seeds, at least 0.
        seed: Of the redraws.

    Returns:
        The optimum.

    Raises:
        ValueError: If fewer than three rates have a finite loss, a rate comes twice, or the noise is negative.

    Example:
        >>> found = optimum([(2.0**k, 1 + 0.1 * (k - 0.5) ** 2) for k in range(-3, 4)], noise=0.01)
        >>> round(found.lr, 3), round(found.curvature, 3), found.verdict
        (1.414, 0.2, 'sure')
    """
    finite = sorted((lr, loss) for lr, loss in points if math.isfinite(loss))
    if len(finite) < 3 or len({lr for lr, _ in finite}) < len(finite):
        raise ValueError(f"expected at least three different learning rates with finite losses, got {list(points)}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise: expected a finite number of at least 0, got {noise}")
    x, y = np.log2([lr for lr, _ in finite]), np.array([loss for _, loss in finite])
    best = int(y.argmin())
    # A larger rate that diverged is a neighbour: then the largest finite one is no edge.
    beyond = max(lr for lr, _ in points) > finite[-1][0]
    at_edge = best == 0 or (best == len(x) - 1 and not beyond)
    place, value, bend = _lowest(x, y)
    interval = flat = None
    if bend is not None:
        rng = np.random.default_rng(seed)
        drawn = [_lowest(x, y + noise * rng.standard_normal(len(y)))[0] for _ in range(_DRAWS)]
        low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        interval = float(2**low), float(2**high)
        reach = math.sqrt(2 * noise / bend)
        flat = float(2 ** (place - reach)), float(2 ** (place + reach))
    return Optimum(2**place, value, finite[best][0], bend, noise, interval, flat, at_edge)


def _lowest(x: Array, y: Array) -> tuple[float, float, float | None]:
    """Place, value and second derivative of the parabola's lowest point; of the best point alone if it has none."""
    best = int(y.argmin())
    near = slice(max(0, best - _SIDE), best + _SIDE + 1)
    left, right = x[max(0, best - 1)], x[min(len(x) - 1, best + 1)]
    if len(x[near]) < 3 or best in (0, len(x) - 1):
        return float(x[best]), float(y[best]), None
    a, b, c = np.polyfit(x[near] - x[best], y[near], 2)
    if a <= 0:
        return float(x[best]), float(y[best]), None
    shift = float(np.clip(-b / (2 * a), left - x[best], right - x[best]))
    return float(x[best] + shift), float(a * shift**2 + b * shift + c), float(2 * a)
