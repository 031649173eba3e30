# SPDX-License-Identifier: Apache-2.0
"""Runs the trials of a comparison in processes of this machine until none is left."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from steepest.lab.comparison import Comparison
from steepest.lab.results import losses_of
from steepest.lab.search import Trial, due
from steepest.lab.trial import claimed, result_of, run_trial

#: How often a process that dies without a result is started again before the comparison stops.
_TRIES = 3


def run_all(
    root: Path, comparison: Comparison, *, workers: int = 1, tell: Callable[[str], None] = lambda line: None
) -> None:
    """Do what is left of a comparison. Runs that are done stay; one that was killed continues.

    Several calls, on several machines that share the folder, help one another: each trial is claimed by one process.

    Args:
        root: Folder of the comparison, with its file.
        comparison: Its rules.
        workers: Processes at a time; 0 does the trials in this process.
        tell: Gets a line for each trial that ends.

    Raises:
        ValueError: If a run folder is another comparison's.
        RuntimeError: If the process of a trial dies again and again without a result.
    """
    going: dict[str, subprocess.Popen[bytes]] = {}
    failures: dict[str, int] = {}
    try:
        while True:
            losses = losses_of(root, comparison)
            trials = due(comparison, losses)
            for name in [name for name, process in going.items() if process.poll() is not None]:
                _end(root, name, going.pop(name).returncode, failures)
                losses = losses_of(root, comparison)
                if name in losses:
                    tell(f"{len(losses)} of {len(trials)}  {name}  {losses[name]:.4f}")
            left = [trial for trial in trials if trial.name not in losses]
            if not left and not due(comparison, losses)[len(trials) :]:
                return
            free = [trial for trial in left if trial.name not in going and _unclaimed(root, trial)]
            if workers == 0 and free:
                _here(root, comparison, free[0])
                continue
            for trial in free[: max(0, workers - len(going))]:
                going[trial.name] = _start(root, trial)
            if left:
                time.sleep(0.2)
    finally:
        for process in going.values():
            process.terminate()
        for process in going.values():
            process.wait()


def _start(root: Path, trial: Trial) -> subprocess.Popen[bytes]:
    log = _log(root, trial.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        command = [sys.executable, "-m", "steepest.lab.worker", str(root), trial.name]
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


def _here(root: Path, comparison: Comparison, trial: Trial) -> None:
    with claimed(root, trial) as ours:
        if ours and result_of(root, trial) is None:
            run_trial(root, comparison, trial)
