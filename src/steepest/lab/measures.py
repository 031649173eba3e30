# SPDX-License-Identifier: Apache-2.0
"""What is read off the runs of a method: loss, tokens to a target, stability, memory, time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from steepest.train.config import RunConfig
from steepest.train.report.metrics import Column
from steepest.train.report.run import Run

#: A spike is a training loss this many robust standard deviations above the median of the points before it.
SPIKE = 6.0
_WINDOW = 20


def loss_column(run: Run, kind: str = "eval") -> Column:
    """Return a run's losses: bits per byte where it has them, else the loss.

    Args:
        run: A run.
        kind: `"eval"` or `"train"`.
    """
    columns = run.metrics.eval if kind == "eval" else run.metrics.train
    bits = columns["bits_per_byte"]
    return bits if np.isfinite(bits).any() or "loss" not in columns else columns["loss"]


def first_at(runs: Sequence[Run], target: float, unit: str) -> float | None:
    """Return where the mean evaluation of several runs first is at most a target, linearly between evaluations.

    Args:
        runs: Runs of different seeds, evaluated at the same steps.
        target: Loss.
        unit: `"tokens"`, `"step"` or `"seconds"`.

    Returns:
        The place, None if it was never reached or the runs were evaluated at different steps.
    """
    curves = [loss_column(run) for run in runs]
    if not curves or len({len(curve) for curve in curves}) > 1 or not len(curves[0]):
        return None
    losses = np.mean(curves, axis=0)
    places = np.mean([run.metrics.eval[unit] for run in runs], axis=0)
    hits = np.flatnonzero(losses <= target + 1e-9 * abs(target))
    if not len(hits):
        return None
    at = int(hits[0])
    if at == 0:
        return float(places[0])
    above, below = losses[at - 1], losses[at]
    part = min(1.0, (above - target) / (above - below)) if math.isfinite(above) else 1.0
    return float(places[at - 1] + part * (places[at] - places[at - 1]))


def spikes(losses: Column) -> int:
    """Return how often a training loss jumps out of the last points, `SPIKE` robust standard deviations or more.

    Args:
        losses: In order of steps. A jump counts once until the loss is back.

    Example:
        >>> import numpy as np
        >>> calm = 2 + 0.01 * np.sin(np.arange(60.0))
        >>> wild = calm.copy()
        >>> wild[40:42] = 3
        >>> spikes(calm), spikes(wild)
        (0, 1)
    """
    count, inside = 0, False
    for index in range(_WINDOW, len(losses)):
        before = losses[index - _WINDOW : index]
        middle = np.median(before)
        spread = 1.4826 * np.median(np.abs(before - middle))
        out = bool(losses[index] - middle > SPIKE * max(spread, 1e-3 * abs(middle)))
        count += out and not inside
        inside = out
    return count


def sensitivity(points: Sequence[tuple[float, float]]) -> float | None:
    """Return how much the loss rises within a decade around the best learning rate.

    Args:
        points: (learning rate, loss) of a search over the rate alone; an infinite loss diverged.

    Returns:
        The larger of the rises at the best rate over and times the root of 10, interpolated in the logarithm of the
        rate; infinity if that side diverged; None if the trials do not reach that far.

    Example:
        >>> points = [(10.0**k, float(abs(k))) for k in (-1, 0, 1)]
        >>> sensitivity(points)
        0.5
    """
    tried = sorted(points)
    if not tried or not math.isfinite(min(loss for _, loss in tried)):
        return None
    best_lr, best = min(tried, key=lambda point: point[1])
    logs, losses = np.log10([lr for lr, _ in tried]), np.array([loss for _, loss in tried])
    rises = []
    for side in (math.log10(best_lr) - 0.5, math.log10(best_lr) + 0.5):
        if not logs[0] - 1e-9 <= side <= logs[-1] + 1e-9:
            return None
        right = int(min(max(np.searchsorted(logs, side), 1), len(logs) - 1))
        ends = losses[right - 1 : right + 1]
        rises.append(float(np.interp(side, logs, losses)) if np.isfinite(ends).all() else math.inf)
    return max(rises) - best


def time_of_step(summaries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the median seconds that a step spends in each part.

    Args:
        summaries: Of finished runs.
    """
    parts = ("forward", "backward", "optimizer")
    rows = [s for s in summaries if s.get("time_split") and s.get("steps")]
    return (
        {p: float(np.median([s["time_split"].get(p, 0.0) / s["steps"] for s in rows])) for p in parts} if rows else {}
    )


def state_bytes_per_parameter(config: RunConfig) -> float:
    """Return the bytes that the optimizer of a run keeps for each parameter of its model.

    Args:
        config: With the vocabulary's size in it.
    """
    from steepest.optim.explain import explain
    from steepest.train.optimizers import build_optimizers

    model = config.model.build(torch.Generator().manual_seed(0))
    built = build_optimizers(model, config.optim)
    return sum(plan.state_bytes for one in built for plan in explain(one)) / model.parameter_count()  # pyright: ignore[reportArgumentType]
