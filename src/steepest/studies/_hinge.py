# SPDX-License-Identifier: Apache-2.0
"""The subgradient method on a convex problem with real data, under any schedule, for many seeds and rates at once."""

import dataclasses
from typing import cast, final

import numpy as np
import numpy.typing as npt

from steepest.lab.theory import factors_of
from steepest.optim import Schedule
from steepest.optim.schedules import Kind

#: Best first, as the bounds have it.
ORDER = ("linear", "cosine", "wsd", "1/sqrt", "constant")
#: A factor of two apart. `1/sqrt` starts to fall at once, so its rates are larger.
RATES = {"1/sqrt": (0.5, 1.0, 2.0, 4.0)}
USUAL = (2.0**-8, 2.0**-7, 2.0**-6, 2.0**-5, 2.0**-4, 2.0**-3, 2.0**-2)


@final
@dataclasses.dataclass(frozen=True)
class Found:
    """Losses of a schedule at its best rate, by seed.

    Attributes:
        lr: The rate.
        losses: Hinge loss of the last iterate over all examples, by seed.
        at_edge: Whether the rate is the smallest or largest tried.
    """

    lr: float
    losses: npt.NDArray[np.float64]
    at_edge: bool


def factors(kind: str, steps: int) -> npt.NDArray[np.float64]:
    """Return the factors of a schedule's steps."""
    t = np.arange(steps)
    if kind == "1/sqrt":
        return 1 / np.sqrt(t + 1)
    if kind == "1-sqrt over the whole run":
        return 1 - np.sqrt(t / steps)
    return factors_of(Schedule(kind=cast("Kind", kind), steps=steps), steps)


def last_losses(kind: str, *, steps: int, seeds: int) -> Found:
    """Run a schedule at all of its rates and seeds side by side.

    Hinge loss of a linear classifier with an intercept on the digits, even against odd, one example a step from zero.
    All schedules see the same examples in the same order.
    """
    from sklearn.datasets import load_digits

    x, label = load_digits(return_X_y=True)
    x = np.hstack([x / 16, np.ones((len(x), 1))])
    y = np.where(label % 2 == 0, 1.0, -1.0)
    order = np.stack([np.random.default_rng(seed).integers(len(x), size=steps) for seed in range(seeds)])
    rates = np.array(RATES.get(kind, USUAL))[:, None]
    w = np.zeros((len(rates), seeds, x.shape[1]))
    for t, factor in enumerate(factors(kind, steps)):
        some, sign = x[order[:, t]], y[order[:, t]]
        inside = sign * np.einsum("rsd,sd->rs", w, some) < 1
        w += (rates * factor * inside * sign)[..., None] * some
    losses = np.maximum(0, 1 - y * (w @ x.T)).mean(-1)
    best = int(losses.mean(1).argmin())
    return Found(float(rates[best, 0]), losses[best], best in (0, len(rates) - 1))


def ordered(first: Found, second: Found) -> tuple[float, float]:
    """Return by how much the second loses to the first, mean over the seeds, and the standard error of that."""
    difference = second.losses - first.losses
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)
