# SPDX-License-Identifier: Apache-2.0
"""A process that does one trial of a comparison: `python -m steepest.lab.worker FOLDER TRIAL [STORAGE]`."""

import sys
from pathlib import Path

from steepest.lab.comparison import read
from steepest.lab.results import losses_of
from steepest.lab.runner import do
from steepest.lab.search import due
from steepest.lab.study import open_record


def main(root: Path, name: str, storage: str = "") -> None:
    """Do one trial, unless another process has it or has done it.

    Args:
        root: Folder of the comparison.
        name: Of the trial.
        storage: See `steepest.lab.study.open_record`.

    Raises:
        ValueError: If the comparison has no such trial now.
    """
    comparison = read(root)
    trials = {trial.name: trial for trial in due(comparison, losses_of(root, comparison))}
    if name not in trials:
        raise ValueError(f"{root} has no trial {name!r} now; there are {', '.join(trials)}")
    do(root, comparison, trials[name], open_record(root, comparison, storage))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
