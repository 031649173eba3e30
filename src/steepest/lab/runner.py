# SPDX-License-Identifier: Apache-2.0
"""Runs the trials of a comparison in processes of this machine until none is left."""

import contextlib
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steepest.lab.comparison import Comparison
from steepest.lab.pruning import check_installed
from steepest.lab.results import losses_of, results_of
from steepest.lab.search import Trial, due
from steepest.lab.study import Record, open_record
from steepest.lab.trial import claimed, result_of, run_trial

#: How often a process that dies without a result is started again before the comparison stops.
_TRIES = 3
#: Seconds between looks into the storage for what other machines have done.
_SYNC = 5.0


def run_all(
    root: Path,
    comparison: Comparison,
    *,
    workers: int = 1,
    storage: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Do what is left of a comparison. Runs that are done stay; one that was killed continues.

    Several calls, on several machines that share the folder or a storage, help one another: each trial is claimed by
    one process.

    Args:
        root: Folder of the comparison, with its file.
        comparison: Its rules.
        workers: Processes at a time; 0 does the trials in this process.
        storage: An Optuna storage; empty takes `search.db` in the folder if Optuna is installed.
        tell: Gets a line for each trial that ends.

    Raises:
        ValueError: If a run folder is another comparison's, or the number of workers is below 0.
        ModuleNotFoundError: If a storage is given, or the rules stop runs early, and Optuna is not installed.
        RuntimeError: If the process of a trial dies again and again without a result.
    """
    if workers < 0:
        raise ValueError(f"workers: expected a number of at least 0, got {workers}")
    check_installed(comparison)
    going: dict[str, subprocess.Popen[bytes]] = {}
    failures: dict[str, int] = {}
    record, synced = open_record(root, comparison, storage), -math.inf
    try:
        while True:
            if record and time.monotonic() - synced > _SYNC:
                record.sync()
                synced = time.monotonic()
            losses = losses_of(root, comparison)
            trials = due(comparison, losses)
            for name in [name for name, process in going.items() if process.poll() is not None]:
                _end(root, name, going.pop(name).returncode, failures)
                losses = losses_of(root, comparison)
                if name in losses:
                    tell(f"{len(losses)} of {len(trials)}  {name}  {_said(results_of(root, comparison)[name])}")
            left = [trial for trial in trials if trial.name not in losses]
            if not left and not due(comparison, losses)[len(trials) :]:
                if record:
                    record.sync()
                return
            free = [trial for trial in left if trial.name not in going and _unclaimed(root, trial)]
            if workers == 0 and free:
                do(root, comparison, free[0], record)
                synced = -math.inf
                continue
            for trial in free[: max(0, workers - len(going))]:
                going[trial.name] = _start(root, trial, storage)
            if left:
                time.sleep(0.2)
    finally:
        for process in going.values():
            process.terminate()
        for process in going.values():
            process.wait()


def _said(result: Mapping[str, Any]) -> str:
    return result["status"] if result["loss"] is None else f"{result['loss']:.4f}"


def _start(root: Path, trial: Trial, storage: str) -> subprocess.Popen[bytes]:
    log = _log(root, trial.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        command = [sys.executable, "-m", "steepest.lab.worker", str(root), trial.name, storage]
        return subprocess.Popen(command, stdout=file, stderr=file)


def _log(root: Path, name: str) -> Path:
    return root / "logs" / f"{name}.txt"


def _end(root: Path, name: str, status: int, failures: dict[str, int]) -> None:
    if status == 0:  # done, or another process has it
        return
    failures[name] = failures.get(name, 0) + 1
    if failures[name] >= _TRIES:
        raise RuntimeError(f"the process of {name} ended {_TRIES} times without a result; see {_log(root, name)}")


def _unclaimed(root: Path, trial: Trial) -> bool:
    with claimed(root, trial) as ours:
        return ours


def do(root: Path, comparison: Comparison, trial: Trial, record: Record | None) -> None:
    """Do a trial in this process, unless another one has it or has done it.

    Args:
        root: Folder of the comparison.
        comparison: Its rules.
        trial: Which.
        record: Where machines agree on who does it; None leaves that to the folder.
    """
    with claimed(root, trial) as ours:
        if not ours or result_of(root, trial) is not None:
            return
        with record.claimed(trial) if record else contextlib.nullcontext(True) as ours:
            if ours:
                run_trial(root, comparison, trial)
