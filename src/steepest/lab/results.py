# SPDX-License-Identifier: Apache-2.0
"""What the trials of a comparison came to so far."""

import math
from pathlib import Path
from typing import Any

from steepest.lab.comparison import Comparison
from steepest.lab.trial import RESULT, RUNS
from steepest.train import files


def results_of(root: Path, comparison: Comparison) -> dict[str, dict[str, Any]]:
    """Return the results of the trials that are done.

    Args:
        root: Folder of the comparison.
        comparison: Its rules.

    Returns:
        Name of the trial -> what its `result.json` holds.

    Raises:
        ValueError: If a run was made under other rules.
    """
    found = {}
    for path in sorted((root / RUNS).glob(f"*/{RESULT}")):
        result = files.read_json(path)
        if result.get("digest") != comparison.digest:
            raise ValueError(
                f"{path.parent} was run under other rules than {root} has; runs of different rules are not compared: "
                "remove it"
            )
        found[path.parent.name] = result
    return found


def losses_of(root: Path, comparison: Comparison) -> dict[str, float]:
    """Return the final losses of the trials that are done, infinity for those without one."""
    results = results_of(root, comparison)
    return {name: math.inf if r["loss"] is None else float(r["loss"]) for name, r in results.items()}
