# SPDX-License-Identifier: Apache-2.0
"""One short run whose learning rate rises until the loss does: where a search for the rate should look."""

import dataclasses
import math
from collections.abc import Callable
from typing import final

import torch

from steepest.train.config import RunConfig
from steepest.train.optimizers import build_optimizers

#: A run is past its largest useful rate when the smoothed loss exceeds the lowest by this part.
_WORSE = 0.2


@final
@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What the run saw.

    Args:
        lrs: Learning rate of each step, rising by one ratio.
        losses: Training loss before each step.
        smoothed: Moving average of the last losses.
        stopped: Whether the loss rose clearly, or stopped being finite, before the last step.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    stopped: bool

    @property
    def turning(self) -> float:
        """The rate at which the smoothed loss was lowest: a rate held there is already too large."""
        return self.lrs[min(range(len(self.smoothed)), key=lambda i: self.smoothed[i])]


def range_test(
    step: Callable[[float], float], *, low: float, high: float, steps: int = 60, memory: float = 0.8
) -> RangeTest:
    """Take steps at rising learning rates until the loss rises clearly.

    Args:
        step: Called with a learning rate: takes one step and returns the training loss before it.
        low: First rate, above 0.
        high: Rate of the last step.
        steps: At least 2.
        memory: Weight of the past in the moving average of the losses, in [0, 1); its start is corrected.

    Returns:
        The rates and losses.

    Raises:
        ValueError: If a number is out of its range or the first loss is not finite.

    Example:
        >>> w = [1.0]
        >>> def step(lr):
        ...     loss, w[0] = w[0] ** 2, (1 - 2 * lr) * w[0]
        ...     return loss
        >>> 0.5 < range_test(step, low=1e-3, high=100.0, steps=80).turning < 5
        True

    References:
        Smith (2017), Cyclical learning rates for training neural networks, arXiv 1506.01186, section 3.3.
    """
    if not 0 < low < high < math.inf or steps < 2 or not 0 <= memory < 1:
        raise ValueError(f"expected 0 < low < high, 2 steps and a memory in [0, 1), got {low, high, steps, memory}")
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    for index in range(steps):
        lr = low * (high / low) ** (index / (steps - 1))
        loss = step(lr)
        if not math.isfinite(loss):
            if not losses:
                raise ValueError("the loss is not finite before the first step")
            return RangeTest(tuple(lrs), tuple(losses), tuple(smoothed), True)
        average = memory * average + (1 - memory) * loss
        lrs.append(lr)
        losses.append(loss)
        smoothed.append(average / (1 - memory ** (index + 1)))
        if smoothed[-1] > (1 + _WORSE) * min(smoothed) and index >= 5:
            return RangeTest(tuple(lrs), tuple(losses), tuple(smoothed), True)
    return RangeTest(tuple(lrs), tuple(losses), tuple(smoothed), False)


def stepper(config: RunConfig, task: str = "text") -> Callable[[float], float]:
    """Return a function that takes one step of a run at a learning rate, for `range_test`.

    The rate of the parameters that a method for matrices leaves to AdamW rises along, in the ratio of the
    configuration.

    Args:
        config: The run; nothing is written.
        task: See `steepest.lab.tasks`.

    Returns:
        Learning rate -> training loss before the step.
    """
    torch.set_num_threads(config.train.threads or 1)
    model, batch_loss = (_text if task == "text" else _other(task))(config)
    (optimizer,) = build_optimizers(model, config.optim)
    ratios = [group["peak_lr"] / optimizer.param_groups[0]["peak_lr"] for group in optimizer.param_groups]
    main = next((i for i, group in enumerate(optimizer.param_groups) if group["peak_lr"] == config.optim.lr), 0)
    count = iter(range(10**9))

    def step(lr: float) -> float:
        loss = batch_loss(next(count))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip or math.inf)
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = lr * ratio / ratios[main]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


_Made = tuple[torch.nn.Module, Callable[[int], torch.Tensor]]


def _text(config: RunConfig) -> _Made:
    from steepest.train.data import prepare
    from steepest.train.data.batches import Batches

    data, train = prepare(config.data, progress=False), config.train
    model = config.model.build(torch.Generator().manual_seed(train.seed))
    batches = Batches(data.train, context=config.model.context, batch=train.batch, seed=train.seed)

    def loss(step: int) -> torch.Tensor:
        ids, targets = batches.batch(step)
        return model(ids, targets=targets).mean()

    return model, loss


def _other(task: str) -> Callable[[RunConfig], _Made]:
    from steepest.lab.tasks import problem_of

    def made(config: RunConfig) -> _Made:
        problem = problem_of(task, config.train.seed)
        generator = torch.Generator().manual_seed(config.train.seed)

        def loss(step: int) -> torch.Tensor:
            del step
            some = torch.randint(len(problem.train[0]), (config.train.batch,), generator=generator)
            return problem.loss(problem.model, *(tensor[some] for tensor in problem.train))

        return problem.model, loss

    return made


def around(found: RangeTest) -> tuple[float, float]:
    """Return the range that a search should cover: from a 64th of the turning rate to the turning rate.

    The best rate of a whole run is below the one at which the loss turns, by a factor that the short run does not tell.

    Args:
        found: From `range_test`.
    """
    return float(f"{found.turning / 64:.3g}"), float(f"{found.turning:.3g}")
