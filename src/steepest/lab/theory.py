# SPDX-License-Identifier: Apache-2.0
"""What theory says about a schedule: the bound on its last iterate, the best rate for it, a schedule from a run."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import numpy as np
import numpy.typing as npt

from steepest.train.report.metrics import read_metrics

Array = npt.NDArray[np.float64]


@final
@dataclasses.dataclass(frozen=True)
class Bound:
    r"""The bound at a learning rate $\gamma$: $d/\gamma + g\gamma$.

    Args:
        distance: $d$, of the part that falls with the rate.
        gradients: $g$, of the part that grows.
    """

    distance: float
    gradients: float

    def at(self, lr: float) -> float:
        """Return the bound at a learning rate above 0."""
        if not lr > 0:
            raise ValueError(f"lr: expected a number above 0, got {lr}")
        return self.distance / lr + self.gradients * lr

    @property
    def lr(self) -> float:
        """The rate at which it is lowest."""
        return math.sqrt(self.distance / self.gradients)

    @property
    def lowest(self) -> float:
        """Its value there."""
        return 2 * math.sqrt(self.distance * self.gradients)


def last_iterate_bound(
    factors: Sequence[float] | Array, *, distance: float = 1.0, gradient_norms: float | Sequence[float] | Array = 1.0
) -> Bound:
    r"""Return the bound on the last iterate of the subgradient method under any schedule, for a convex loss.

    With steps $\eta_t = \gamma f_t$, gradient norms at most $G_t$, and $D$ the distance from the start to a minimizer,

    $$ f(x_T) - f^* \le \frac{D^2 + \sum_t \eta_t^2 G_t^2}{2 \sum_t \eta_t} + \frac12 \sum_{k<T}
       \frac{\eta_k}{\sum_{t>k} \eta_t} \, \frac{\sum_{t \ge k} \eta_t^2 G_t^2}{\sum_{t \ge k} \eta_t}. $$

    It is taken in O(T) by sums from the end.

    Args:
        factors: $f_t$ of each step, at least 0, the last ones too: steps of size 0 at the end are left out.
        distance: $D$, above 0.
        gradient_norms: $G$, or $G_t$ of each step, at least 0.

    Returns:
        The bound as a function of $\gamma$.

    Raises:
        ValueError: If no factor is above 0 or a value is out of its range.

    Numerics:
        float64. All sums have non-negative terms and none is a difference, so nothing cancels.

    Example:
        >>> steps = 60
        >>> bound = last_iterate_bound([1 - t / steps for t in range(steps)])
        >>> round(bound.lowest * steps**0.5, 3)
        2.051

    References:
        Defazio et al. (2023), arXiv 2310.07831, Theorem 10. It is an upper bound: for linear decay twice the worst
        case.
    """
    f = np.trim_zeros(np.asarray(factors, dtype=np.float64), "b")
    g = np.broadcast_to(np.asarray(gradient_norms, dtype=np.float64), (len(np.atleast_1d(factors)),))[: len(f)]
    if not len(f) or (f < 0).any() or not np.isfinite(f).all():
        raise ValueError("factors: expected finite numbers of at least 0, and one above 0")
    if (g < 0).any() or not np.isfinite(g).all() or not (g * f).any() or not distance > 0:
        raise ValueError("expected finite gradient norms of at least 0, not all 0, and a distance above 0")
    squares = (f * g) ** 2
    rest = np.cumsum(f[::-1])[::-1]
    rest_squares = np.cumsum(squares[::-1])[::-1]
    tail = float(np.sum(f[:-1] / rest[1:] * rest_squares[:-1] / rest[:-1]))
    return Bound(distance**2 / (2 * rest[0]), float(rest_squares[0] / (2 * rest[0])) + 0.5 * tail)


def factors_of(schedule: Callable[[int], float], steps: int) -> Array:
    """Return the factor of each step.

    Args:
        schedule: Called with the step from 0, such as `steepest.optim.Schedule`.
        steps: How many.
    """
    return np.array([schedule(step) for step in range(steps)], dtype=np.float64)


def optimal_lr_for(
    schedule: Callable[[int], float] | Sequence[float],
    steps: int | None = None,
    *,
    distance: float = 1.0,
    gradient_norms: float | Sequence[float] | Array = 1.0,
) -> float:
    """Return the largest learning rate that makes the bound on the last iterate lowest.

    The ratio of two schedules' rates is what carries over: it needs neither distance nor gradient norms, if both are
    the same. A rate tuned under one schedule, times that ratio, is the rate to try under the other.

    Args:
        schedule: A schedule, or its factors.
        steps: Of a schedule; None for factors.
        distance: From the start to a minimizer.
        gradient_norms: One for all steps or one a step.

    Returns:
        The rate.

    Raises:
        ValueError: If a schedule comes without steps.

    Example:
        >>> from steepest.optim import Schedule
        >>> linear, constant = (Schedule(kind=kind, steps=400) for kind in ("linear", "constant"))
        >>> round(optimal_lr_for(linear, 400) / optimal_lr_for(constant, 400), 1)
        2.7
    """
    if callable(schedule):
        if steps is None:
            raise ValueError("expected the number of steps with a schedule")
        factors: Sequence[float] | Array = factors_of(schedule, steps)
    else:
        factors = schedule
    return last_iterate_bound(factors, distance=distance, gradient_norms=gradient_norms).lr


def refined(gradient_norms: Sequence[float] | Array, *, window: int | None = None) -> Array:
    r"""Return the schedule that the gradient norms of a run ask for.

    With $w_t$ the inverse square of the median-filtered norm, $\eta_t = w_t \sum_{s>t} w_s$, scaled to a largest value
    of 1. Norms that fall at first give a warm-up; the sum gives the decay to 0.

    Args:
        gradient_norms: Before clipping, one for each step or at even distances, above 0.
        window: Width of the median filter, odd; None takes a twentieth of the run. Ends are extended by their values.

    Returns:
        As many factors in [0, 1]; the last is 0. Equal norms give linear decay.

    Raises:
        ValueError: If there are fewer than two norms or one is not above 0 and finite.

    Example:
        >>> refined([2.0, 2.0, 2.0, 2.0, 2.0], window=1).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0]

    References:
        Defazio et al. (2023), arXiv 2310.07831, Algorithm 1.
    """
    norms = np.asarray(gradient_norms, dtype=np.float64)
    if norms.ndim != 1 or len(norms) < 2 or not np.isfinite(norms).all() or (norms <= 0).any():
        raise ValueError("gradient_norms: expected at least two finite numbers above 0")
    if window is None:
        window = len(norms) // 40 * 2 + 1
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window: expected an odd number of at least 1, got {window}")
    padded = np.pad(norms, window // 2, mode="edge")
    filtered = np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=-1)
    weights = (filtered.min() / filtered) ** 2
    after = np.concatenate([np.cumsum(weights[:0:-1])[::-1], [0.0]])
    factors = weights * after
    return factors / factors.max()


@final
@dataclasses.dataclass(frozen=True)
class Refined:
    """A schedule from a run, to call with the step like `steepest.optim.Schedule`.

    Args:
        places: Steps at which the factors stand, rising.
        factors: In [0, 1].
        steps: Of the run.
    """

    places: tuple[float, ...]
    factors: tuple[float, ...]
    steps: int

    def __call__(self, step: int) -> float:
        """Return the factor of a step from 0, linearly between places."""
        return float(np.interp(step, self.places, self.factors))


def refine_schedule(run: str | Path, *, window: int | None = None) -> Refined:
    """Return the schedule that a run's logged gradient norms ask for.

    Args:
        run: A run folder.
        window: See `refined`.

    Returns:
        The schedule, as long as the run.

    Raises:
        FileNotFoundError: If the folder holds no metrics.
        ValueError: If the run logged fewer than two gradient norms.

    Example:
        >>> refine_schedule("runs/first")(0) > 0  # doctest: +SKIP
        True
    """
    train = read_metrics(run).train
    norms = train.get("grad_norm", np.empty(0))
    keep = np.isfinite(norms) & (norms > 0)
    if keep.sum() < 2:
        raise ValueError(f"{run} logged fewer than two gradient norms; train longer or lower train.log_every")
    steps = int(train["step"][-1])
    places = train["step"][keep] - 1
    return Refined(tuple(places.tolist()), tuple(refined(norms[keep], window=window).tolist()), steps)
