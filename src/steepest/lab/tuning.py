# SPDX-License-Identifier: Apache-2.0
"""A learning rate for a method, a model and data: a range test, a short search, seeds, and a larger width."""

import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from steepest.lab.comparison import FILE, Comparison, Method, Range, read, write
from steepest.lab.optimum import Optimum, optimum
from steepest.lab.range_test import around, range_test, stepper
from steepest.lab.results import losses_of
from steepest.lab.runner import run_all
from steepest.lab.search import due
from steepest.lab.transfer import Transfer, transferred
from steepest.train import files
from steepest.train.config import RunConfig

RECOMMENDATION = "recommendation.json"
#: How far below and above the usual rate of a method the range test goes, and in how many steps.
_BELOW, _ABOVE, _STEPS = 32.0, 256.0, 60


@final
@dataclasses.dataclass(frozen=True)
class Budget:
    """What a tuning may spend.

    Args:
        trials: Runs of the search, at least 3.
        extra_trials: Further runs if the best lies at the edge of the range.
        seeds: Runs of the best rate with fresh seeds, at least 2: their spread says how sure the answer is.
        workers: Processes at a time; 0 does the runs in this process.
        storage: See `steepest.lab.run_all`.

    Raises:
        ValueError: If there are fewer than three trials or two seeds.
    """

    trials: int = 7
    extra_trials: int = 2
    seeds: int = 3
    workers: int = 1
    storage: str = ""

    def __post_init__(self) -> None:
        if self.trials < 3 or self.seeds < 2:
            raise ValueError(f"expected at least 3 trials and 2 seeds, got {self.trials} and {self.seeds}")


@final
@dataclasses.dataclass(frozen=True)
class Recommendation:
    """What a tuning says.

    Args:
        method: Name of the method.
        optimum: The learning rate and how sure it is.
        adam_lr: Rate of the parameters that a method for matrices leaves to AdamW.
        turning: Rate at which the loss of the range test turned.
        loss: Mean final loss over the seeds at the best rate that was run; None if a run failed.
        transfer: What the rate becomes at the larger width, if one was asked for.
    """

    method: str
    optimum: Optimum
    adam_lr: float
    turning: float
    loss: float | None
    transfer: Transfer | None


def tune(
    folder: Path,
    method: Method,
    run: RunConfig,
    *,
    task: str = "text",
    budget: Budget | None = None,
    width: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Recommendation:
    """Find a learning rate; interrupted, call it again.

    A short run with a rising rate says where to look. A search over a 64th of the turning rate up to it, with the rules
    of `steepest compare`, finds the best; fresh seeds of that give the spread of the losses.

    Args:
        folder: Of the runs; made, or continued.
        method: From `steepest.lab.method_of`; its range of rates is replaced by that of the range test.
        run: The whole run to tune for, from `steepest.lab.base_config` and, for text, `with_data`.
        task: See `steepest.lab.tasks`.
        budget: None takes the default.
        width: Larger width of the text model to carry the rate to; None for none.
        tell: Gets a line for each run that ends.

    Returns:
        The recommendation; it is written to `recommendation.json`, too.

    Raises:
        ValueError: If the folder holds a tuning of another method or run, fewer than three rates gave a finite loss,
            or the model cannot be carried to the width.

    Example:
        >>> from steepest.lab import base_config, method_of, with_data
        >>> run, _ = with_data(base_config("nano", 100))  # doctest: +SKIP
        >>> tune(Path("tuned"), method_of("muon"), run, width=256).optimum.lr  # doctest: +SKIP
        0.021
    """
    budget = budget or Budget()
    usual = method.space["lr"]
    scale = (
        None if width is None else transferred(run, method, math.sqrt(usual.low * usual.high), width)
    )  # refuse before work
    turning, space = _range(folder, method, run, task)
    tuned = dataclasses.replace(method, space={**method.space, "lr": space})
    seeds = tuple(range(run.train.seed + 1, run.train.seed + budget.seeds + 1))
    rules = Comparison(
        task=task, run=run, methods=(tuned,), trials=budget.trials, extra_trials=budget.extra_trials,
        search_seed=run.train.seed, seeds=seeds, baseline=method.name,
    )  # fmt: skip
    write(rules, folder)
    run_all(folder, rules, workers=budget.workers, storage=budget.storage, tell=tell)
    best, loss = _read(folder, rules)
    if width is not None:
        scale = transferred(run, method, best.lr, width)
    adam_lr = float(f"{best.lr * method.adam_lr_ratio:.3g}")
    found = Recommendation(method.name, best, adam_lr, turning, loss, scale)
    files.write_json(folder / RECOMMENDATION, to_json(found))
    return found


def to_json(found: Recommendation) -> dict[str, Any]:
    """Return a recommendation as plain values, with its verdict in words."""
    return {**dataclasses.asdict(found), "verdict": found.optimum.verdict, "explained": found.optimum.explained}


def _range(folder: Path, method: Method, run: RunConfig, task: str) -> tuple[float, Range]:
    """The turning rate and the range to search; of a tuning that goes on, those it began with."""
    path = folder / "range_test.json"
    if not path.is_file():
        if (folder / FILE).is_file():
            raise ValueError(f"{folder} holds a comparison, {read(folder).methods[0].name} first; choose another --out")
        usual = math.sqrt(method.space["lr"].low * method.space["lr"].high)
        adam_lr = usual * method.adam_lr_ratio
        optim = dataclasses.replace(run.optim, name=method.spec, lr=usual, adam_lr=adam_lr)
        found = range_test(
            stepper(dataclasses.replace(run, optim=optim), task),
            low=usual / _BELOW,
            high=usual * _ABOVE,
            steps=_STEPS,
        )
        folder.mkdir(parents=True, exist_ok=True)
        values = {**dataclasses.asdict(found), "turning": found.turning, "range": around(found)}
        files.write_json(path, values)
    values = files.read_json(path)
    return values["turning"], Range(*values["range"])


def _read(folder: Path, rules: Comparison) -> tuple[Optimum, float | None]:
    losses = losses_of(folder, rules)
    trials = due(rules, losses)
    finals = [losses[trial.name] for trial in trials if trial.stage == "final"]
    whole = len(finals) > 1 and all(map(math.isfinite, finals))
    points = [(trial.values["lr"], losses[trial.name]) for trial in trials if trial.stage != "final"]
    noise = statistics.stdev(finals) if whole else 0.0
    return optimum(points, noise), statistics.mean(finals) if whole else None
