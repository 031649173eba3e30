# SPDX-License-Identifier: Apache-2.0
"""One trial: an ordinary training run in a run folder, and what came of it."""

import contextlib
import dataclasses
import fcntl
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steepest.lab.comparison import Comparison
from steepest.lab.measures import state_bytes_per_parameter
from steepest.lab.pruning import judge_of, read_curve
from steepest.lab.search import Trial, values_of
from steepest.train import files
from steepest.train.config import RunConfig
from steepest.train.health import NonFiniteError
from steepest.train.report.run import METRICS_FILE
from steepest.train.trainer import Watch

RESULT = "result.json"
RUNS = "runs"


def config_of(comparison: Comparison, trial: Trial) -> RunConfig:
    """Return the configuration of a trial's run.

    Args:
        comparison: The rules.
        trial: Values and seed.

    Returns:
        The shared configuration with the method, its values, its share of the steps and the seed put in.
    """
    method = comparison.method(trial.method)
    own = {key: value for key, value in trial.values.items() if key not in ("lr", "adam_lr")}
    spec = " ".join([method.spec, *(f"{key}={value:g}" for key, value in own.items())])
    lr = trial.values["lr"]
    adam_lr = trial.values.get("adam_lr", float(f"{lr * method.adam_lr_ratio:.6g}"))
    steps = comparison.steps(method)
    train = comparison.run.train
    share = steps / train.steps
    return dataclasses.replace(
        comparison.run,
        optim=dataclasses.replace(comparison.run.optim, name=spec, lr=lr, adam_lr=adam_lr),
        train=dataclasses.replace(train, steps=steps, warmup=round(train.warmup * share), seed=trial.seed),
    )


def folder_of(root: Path, trial: Trial) -> Path:
    """Return the run folder of a trial."""
    return root / RUNS / trial.name


def result_of(root: Path, trial: Trial) -> dict[str, Any] | None:
    """Return what a finished trial wrote, or None."""
    path = folder_of(root, trial) / RESULT
    return files.read_json(path) if path.is_file() else None


@contextlib.contextmanager
def claimed(root: Path, trial: Trial) -> Iterator[bool]:
    """Claim a trial for this process; the system frees the claim of a killed one.

    Args:
        root: Folder of the comparison.
        trial: Which.

    Yields:
        Whether it is ours now.
    """
    folder = root / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / trial.name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def run_trial(root: Path, comparison: Comparison, trial: Trial) -> dict[str, Any]:
    """Do a trial, or continue one that was killed, and write its result.

    A run whose loss stops being finite is a result: it diverged. So is one that the rules stop.

    Args:
        root: Folder of the comparison.
        comparison: The rules.
        trial: Which.

    Returns:
        What `result.json` holds: status, loss, trial, digest of the rules, measures that the run does not record; with
        pruning also the curve.

    Raises:
        ValueError: If the run folder is another's.
        OSError: If something cannot be written.
    """
    folder = folder_of(root, trial)
    config = config_of(comparison, trial)
    result: dict[str, Any] = {"digest": comparison.digest, "trial": values_of(trial), "status": "finished"}
    try:
        if _train(comparison, config, folder, _watch(root, comparison, trial)):
            result |= {"status": "pruned", "loss": None}
        else:
            result["loss"] = final_loss(folder, comparison.task)
        if comparison.task == "text":
            result["state_bytes_per_parameter"] = state_bytes_per_parameter(config)
    except NonFiniteError as error:
        result |= {"status": "diverged", "loss": None, "why": str(error)}
    except (RuntimeError, ArithmeticError) as error:  # a singular matrix, no memory: a failure of this method
        result |= {"status": "failed", "loss": None, "why": f"{type(error).__name__}: {error}"}
    if result["loss"] is not None and not math.isfinite(result["loss"]):
        result |= {"status": "diverged", "loss": None}
    if comparison.pruning and (folder / METRICS_FILE).is_file():
        result["curve"] = read_curve(folder)
    files.write_json(folder / RESULT, result)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return result


def _watch(root: Path, comparison: Comparison, trial: Trial) -> Watch | None:
    """What ends the run of a trial early, if anything may."""
    from steepest.lab.results import results_of

    judge = judge_of(comparison, trial, results_of(root, comparison)) if comparison.pruning else None
    return judge and (lambda step, loss: judge.stops(dict(read_curve(folder_of(root, trial)))))


def _train(comparison: Comparison, config: RunConfig, folder: Path, watch: Watch | None) -> bool:
    """Train to the end, or until `watch` says so: then return true."""
    from steepest.lab.tasks import task_of
    from steepest.train import session

    if comparison.task != "text":
        shutil.rmtree(folder, ignore_errors=True)
        return task_of(comparison.task)(config, folder, watch)
    if any((folder / "checkpoints").glob("step_*")):
        outcome = session.resume(folder, quiet=True, pages=False, watch=watch)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        outcome = session.start(config, out=folder, quiet=True, pages=False, watch=watch)
    if outcome.status == "interrupted":
        raise SystemExit(outcome.exit_status)
    return outcome.status == "stopped"


def final_loss(folder: Path, task: str) -> float:
    """Return the last evaluation of a run: bits per byte of text, else the loss."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [row for row in rows if row["kind"] == "eval"][-1]
    return last["bits_per_byte"] if task == "text" else last["loss"]
