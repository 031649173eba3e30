# SPDX-License-Identifier: Apache-2.0
"""What the studies that train language models share: one small recipe on the shipped text, and equal grids."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn

from steepest.studies._study import Run


@final
@dataclass(frozen=True)
class Recipe:
    """How a model is trained on the shipped text, cut into bytes.

    Attributes:
        steps: Of the optimizer.
        context: Bytes of a window.
        batch: Windows of a step.
        warmup: Part of the steps in which the learning rate rises.
        kind: Of the schedule that follows.
        clip: Largest norm of the gradient.
        eval_bytes: Of the validation split, from its start.
    """

    steps: int
    context: int = 64
    batch: int = 16
    warmup: float = 0.1
    kind: str = "linear"
    clip: float = 1.0
    eval_bytes: int = 65536


def train(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], recipe: Recipe, seed: int
) -> dict[str, float | None]:
    """Train a decoder over bytes.

    Args:
        model: Called as `model(ids, targets=targets)`, gives nats.
        optimizers: Their learning rates are the largest ones.
        recipe: How long, on what.
        seed: Of the order of the text.

    Returns:
        `loss` in nats a byte on the validation text, None if it is not finite; `parameters`.
    """
    from steepest.optim.schedules import Schedule
    from steepest.train.data import Batches, DataConfig, eval_windows, prepare

    data = prepare(DataConfig(tokenizer="bytes"), progress=False)
    batches = Batches(data.train, context=recipe.context, batch=recipe.batch, seed=seed)
    schedule = Schedule(kind=recipe.kind, steps=recipe.steps, warmup=round(recipe.warmup * recipe.steps))  # pyright: ignore[reportArgumentType]  # checked by the class
    optimizers = list(optimizers)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    for step in range(recipe.steps):
        ids, targets = batches.batch(step)
        model(ids, targets=targets).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * schedule(step)
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
    ids, targets = eval_windows(data.val, recipe.context, recipe.eval_bytes)
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(ids), 64):
            chosen = slice(first, first + 64)
            total += model(ids[chosen], targets=targets[chosen]).double().sum().item()
    loss = total / targets.numel()
    return {"loss": loss if math.isfinite(loss) else None, "parameters": sum(p.numel() for p in model.parameters())}


@final
@dataclass(frozen=True)
class Tuned:
    """The outcome of a grid of learning rates and more seeds at the best one.

    Attributes:
        lr: The best of the grid with the first seed.
        losses: At that rate, by seed.
        grid: Learning rate -> loss with the first seed; infinity where it diverged.
    """

    lr: float
    losses: tuple[float, ...]
    grid: Mapping[float, float]

    @property
    def mean(self) -> float:
        """Of the losses over the seeds."""
        return statistics.mean(self.losses)

    @property
    def error(self) -> float:
        """Standard error of the mean; 0 with one seed."""
        many = len(self.losses)
        return statistics.stdev(self.losses) / math.sqrt(many) if many > 1 else 0.0

    @property
    def at_edge(self) -> bool:
        """Whether the best rate may lie outside of the grid."""
        return self.lr in (min(self.grid), max(self.grid))

    def numbers(self) -> dict[str, Any]:
        """Return all of it as JSON holds it."""
        return {
            "lr": self.lr,
            "at_edge": self.at_edge,
            "mean": self.mean,
            "error": self.error,
            "losses": list(self.losses),
            "rates": sorted(self.grid),
            "by_rate": [self.grid[lr] for lr in sorted(self.grid)],
        }


def tune(
    run: Run,
    name: str,
    once: Callable[[float, int], dict[str, float | None]],
    rates: Iterable[float],
    seeds: int,
    *,
    beyond: int = 2,
) -> Tuned:
    """Try each learning rate with the run's seed, then the best with further seeds.

    Args:
        run: Keeps every training that has ended.
        name: Of the method, unique in the study.
        once: Takes learning rate and seed, returns a dictionary with `loss`.
        rates: The grid, in factors of two; every method of a study gets the same number.
        seeds: How many in all.
        beyond: Rates added at most, by factors of two, while the best lies at an edge of the grid.

    Returns:
        What came out.
    """

    def loss(lr: float, seed: int) -> float:
        found = run.once(f"{name}-lr{lr:.3g}-seed{seed}", lambda: once(lr, seed))["loss"]
        return math.inf if found is None else found

    grid = {lr: loss(lr, run.seed) for lr in rates}
    for _ in range(beyond if len(grid) > 1 else 0):
        best = min(grid, key=lambda lr: grid[lr])
        if min(grid) < best < max(grid):
            break
        further = 2 * best if best == max(grid) else best / 2
        grid[further] = loss(further, run.seed)
    best = min(grid, key=lambda lr: grid[lr])
    return Tuned(best, (grid[best], *(loss(best, run.seed + more) for more in range(1, seeds))), grid)
