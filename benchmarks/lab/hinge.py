# SPDX-License-Identifier: Apache-2.0
"""The last iterate of the subgradient method under each schedule, on a convex problem: digits, even against odd.

Hinge loss of a linear classifier with an intercept, one example a step, 20 000 steps from zero. Every schedule is tried
at rates a factor of two apart; that of the lowest mean over the seeds counts. Schedules see the same examples in the
same order, and are compared seed by seed. The study `last_iterate` decides by the same runs.

python -m benchmarks.lab.hinge
"""

import json
from pathlib import Path

from benchmarks.kernels.timing import machine
from steepest.lab.theory import last_iterate_bound
from steepest.studies._hinge import ORDER, factors, last_losses, ordered

RESULTS = Path(__file__).parents[1] / "results"
STEPS, SEEDS = 20_000, 40


def main() -> None:
    """Run all, print and write the record."""
    rows = []
    linear = last_losses("linear", steps=STEPS, seeds=SEEDS)
    for kind in (*ORDER, "1-sqrt over the whole run"):
        found = last_losses(kind, steps=STEPS, seeds=SEEDS)
        behind, error = ordered(linear, found)
        row = {
            "schedule": kind,
            "lr": found.lr,
            "at_edge": found.at_edge,
            "mean": found.losses.mean(),
            "sd": found.losses.std(ddof=1),
            "behind_linear": behind,
            "standard_error": error,
            "bound": last_iterate_bound(factors(kind, STEPS)).lowest * STEPS**0.5,
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    about = machine()
    record = {"about": about, "steps": STEPS, "seeds": SEEDS, "rows": rows}
    (RESULTS / f"schedules_hinge_{about['date']}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
