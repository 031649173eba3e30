# SPDX-License-Identifier: Apache-2.0
"""Tasks other than text: images and tables that packages hold, and a user's own, trained by one small loop.

A task is a function of a seed that returns a `Problem`. The run leaves the same folder as `steepest train`.
"""

import contextlib
import dataclasses
import importlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from steepest.optim.diagnostics import diagnosed
from steepest.optim.engine import Engine
from steepest.train import files, machine
from steepest.train.config import RunConfig, to_dict
from steepest.train.health import NonFiniteError
from steepest.train.optimizers import build_optimizers
from steepest.train.run_folder import FORMAT, MetricsLog
from steepest.train.schedule import schedule_of
from steepest.train.trainer import Watch, layers_of

_PARTS = ("forward", "backward", "optimizer", "diagnosis")


@final
@dataclasses.dataclass(frozen=True)
class Problem:
    """A model, data and a loss.

    Args:
        model: Initialized.
        train: Tensors of the training examples, all of one first dimension.
        val: The same of the validation examples.
        loss: Called with the model and a batch of each tensor; returns the mean loss, a scalar.
    """

    model: nn.Module
    train: tuple[Tensor, ...]
    val: tuple[Tensor, ...]
    loss: Callable[..., Tensor]


def digits(seed: int) -> Problem:
    """Handwritten digits of 8 x 8 pixels, 1797 of them, and a small convolutional network."""
    x, y = _scikit("load_digits")
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 32, 3, stride=2), nn.GELU(), nn.Flatten(),
        nn.Linear(288, 64), nn.GELU(), nn.Linear(64, 10),
    )  # fmt: skip
    del seed  # of the weights: set before this is called
    return _classification(model, (x / 16).reshape(-1, 1, 8, 8), y)


def tabular(seed: int) -> Problem:
    """Breast cancer, Wisconsin: 569 cases of 30 numbers, and a perceptron of two hidden layers."""
    x, y = _scikit("load_breast_cancer")
    model = nn.Sequential(nn.Linear(30, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 2))
    del seed
    return _classification(model, (x - x.mean(0)) / x.std(0), y)


TASKS: dict[str, Callable[[int], Problem]] = {"digits": digits, "tabular": tabular}


def _scikit(name: str) -> tuple[Tensor, Tensor]:
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the data of this task comes with scikit-learn: pip install 'steepest[tasks]'", name="sklearn"
        ) from None
    x, y = getattr(datasets, name)(return_X_y=True)
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y, dtype=torch.long)


def _classification(model: nn.Module, x: Tensor, y: Tensor) -> Problem:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))  # one split for all seeds
    cut = len(x) * 4 // 5
    train, val = order[:cut], order[cut:]
    return Problem(model, (x[train], y[train]), (x[val], y[val]), _cross_entropy)


def _cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


def problem_of(task: str, seed: int) -> Problem:
    """Return the problem of a task, with weights drawn from a seed.

    Args:
        task: `"digits"`, `"tabular"`, or `module:function`, a function of the seed that returns a `Problem` or
            `(model, (train, val), loss)`.
        seed: Of the weights.

    Returns:
        The problem.

    Raises:
        ValueError: If there is no such task, or it returns something else.
    """
    if task in TASKS:
        function: Any = TASKS[task]
    else:
        module, colon, name = task.partition(":")
        if not colon or not module or not name:
            raise ValueError(f"no task {task!r}; there are text, {', '.join(TASKS)} and module:function")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError) as error:
            raise ValueError(f"task {task!r}: {error}; run it where Python finds the module") from None
    torch.manual_seed(seed)
    made = function(seed)
    if isinstance(made, tuple) and len(made) == 3:
        model, (train, val), loss = made
        made = Problem(model, tuple(train), tuple(val), loss)
    if not isinstance(made, Problem):
        raise ValueError(f"task {task!r}: expected a Problem or (model, (train, val), loss), got {type(made).__name__}")
    return made


def task_of(task: str) -> Callable[[RunConfig, Path, Watch | None], bool]:
    """Return the function that trains a task into a folder and returns whether its watch stopped it.

    Args:
        task: See `problem_of`.
    """

    def run(config: RunConfig, folder: Path, watch: Watch | None = None) -> bool:
        torch.set_num_threads(config.train.threads or 1)
        return _Loop(config, problem_of(task, config.train.seed), folder).run(task, watch)

    return run


@final
class _Loop:
    """Batches in a seeded order, the run's schedule, clipping and records."""

    def __init__(self, config: RunConfig, problem: Problem, folder: Path) -> None:
        self.config, self.problem, self.folder = config, problem, folder
        self.optimizers = build_optimizers(problem.model, config.optim)
        self.schedule = schedule_of(config.train)
        self.generator = torch.Generator().manual_seed(config.train.seed)
        self.order = torch.empty(0, dtype=torch.long)
        self.split = dict.fromkeys(_PARTS, 0.0)

    def run(self, task: str, watch: Watch | None) -> bool:
        """Train; return whether `watch` ended it before the last step."""
        train, folder = self.config.train, self.folder
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / "environment.json", {"run_format": FORMAT, "task": task, **machine.describe()})
        files.write_json(folder / "config.json", to_dict(self.config))
        log, began, loss, step = MetricsLog(folder / "metrics.jsonl"), time.perf_counter(), math.nan, 0
        try:
            for step in range(1, train.steps + 1):
                value, norm, layers = self._step(step)
                common = {"step": step, "tokens": step * train.batch, "seconds": time.perf_counter() - began}
                common["bits_per_byte"] = None
                if layers:
                    log.write({"kind": "layers", "step": step, "layers": layers})
                if step % train.log_every == 0 or step == train.steps:
                    lr = self.optimizers[0].param_groups[0]["lr"]
                    log.write({"kind": "train", **common, "loss": value, "lr": lr, "grad_norm": norm})
                if step == train.steps or (train.eval_every and step % train.eval_every == 0):
                    loss = self._evaluate()
                    log.write({"kind": "eval", **common, "loss": loss})
                    if watch and step < train.steps and watch(step, loss):
                        break
        finally:
            log.close()
        seconds = time.perf_counter() - began
        files.write_json(folder / "summary.json", self._summary(step, loss, seconds))
        return step < train.steps

    def _step(self, step: int) -> tuple[float, float, dict[str, Any]]:
        """Take a step; return loss, gradient norm, and what it did to each layer where that is due."""
        model, train = self.problem.model, self.config.train
        batch = self._draw(train.batch)
        started = time.perf_counter()
        loss = self.problem.loss(model, *(tensor[batch] for tensor in self.problem.train))
        forward = time.perf_counter()
        loss.backward()
        backward = time.perf_counter()
        parameters = [p for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, train.clip or math.inf).item()
        if not math.isfinite(loss.item()) or not math.isfinite(norm):
            raise NonFiniteError(f"the loss or its gradient is not finite at step {step}")
        due = train.diagnose_every > 0 and step % train.diagnose_every == 0
        layers: dict[str, Any] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * self.schedule(step - 1)
            observed = diagnosed(optimizer) if due and isinstance(optimizer, Engine) else contextlib.nullcontext(())
            with observed as rows:
                optimizer.step()
            layers |= layers_of(rows)
            optimizer.zero_grad(set_to_none=True)
        ended = time.perf_counter()
        for part, spent in zip(_PARTS[:3], (forward - started, backward - forward, ended - backward), strict=True):
            self.split["diagnosis" if due and part == "optimizer" else part] += spent
        return loss.item(), norm, layers

    def _draw(self, count: int) -> Tensor:
        """The next examples of an endless sequence of shuffled epochs."""
        while len(self.order) < count:
            more = torch.randperm(len(self.problem.train[0]), generator=self.generator)
            self.order = torch.cat([self.order, more])
        batch, self.order = self.order[:count], self.order[count:]
        return batch

    @torch.no_grad()
    def _evaluate(self) -> float:
        model = self.problem.model
        model.eval()
        loss = self.problem.loss(model, *self.problem.val).item()
        model.train()
        return loss

    def _summary(self, step: int, loss: float, seconds: float) -> dict[str, Any]:
        tokens = step * self.config.train.batch
        return {
            "status": "finished" if step == self.config.train.steps else "stopped",
            "steps": step,
            "tokens": tokens,
            "seconds": seconds,
            "parameters": sum(p.numel() for p in self.problem.model.parameters()),
            "loss": loss if math.isfinite(loss) else None,
            "tokens_per_second": tokens / seconds,
            "peak_rss_bytes": machine.peak_rss(),
            "time_split": self.split,
        }
