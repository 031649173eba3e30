# SPDX-License-Identifier: Apache-2.0
"""A process that does the trials of a comparison, one after the other: `python -m steepest.lab.worker FOLDER TRIAL`."""

import sys
from pathlib import Path

from steepest.lab.comparison import read
from steepest.lab.results import losses_of
from steepest.lab.search import due
from steepest.lab.trial import claimed, result_of, run_trial


def main(root: Path, name: str) -> None:
    """Do one trial, unless another process has it or has done it.

    Args:
        root: Folder of the comparison.
        name: Of the trial.

    Raises:
        ValueError: If the comparison has no such trial now.
    """
    comparison = read(root)
    trials = {trial.name: trial for trial in due(comparison, losses_of(root, comparison))}
    if name not in trials:
        raise ValueError(f"{root} has no trial {name!r} now; there are {', '.join(trials)}")
    with claimed(root, trials[name]) as ours:
        if ours and result_of(root, trials[name]) is None:
            run_trial(root, comparison, trials[name])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
