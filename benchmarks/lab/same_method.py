# SPDX-License-Identifier: Apache-2.0
"""How often a method is called different from itself, and the tests beside scipy's and statsmodels'.

Losses by method and seed are a part that the seed gives to all methods and a part of a run's own. For each of several
numbers of methods and seeds, comparisons of equal methods are simulated and tested as `steepest compare` tests them
(paired t-test against the baseline, Holm's correction, the default level). Those that call any method different count.

python -m benchmarks.lab.same_method    (statsmodels has to be there)
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.kernels.timing import machine
from steepest.lab import Comparison, holm, paired_p

RESULTS = Path(__file__).parents[1] / "results"
DESIGNS = ((2, 3), (2, 5), (3, 3), (6, 3))
FEW, MANY = 200, 5000


def calls(rng: np.random.Generator, methods: int, seeds: int, alpha: float) -> bool:
    """Return whether a comparison of equal methods calls one of them different from the first."""
    losses = 1.8 + 0.02 * rng.normal(size=seeds) + 0.01 * rng.normal(size=(methods, seeds))
    p = holm({str(i): paired_p(losses[i], losses[0]) for i in range(1, methods)})
    return min(p.values()) <= alpha


def beside_others(rng: np.random.Generator) -> dict[str, float]:
    """Return the largest differences from scipy's paired test and statsmodels' correction."""
    from statsmodels.stats.multitest import multipletests  # pyright: ignore[reportMissingImports]

    tests, corrections = [], []
    for _ in range(200):
        a, b = rng.normal(size=(2, int(rng.integers(2, 12))))
        tests.append(abs(paired_p(a, b) - stats.ttest_rel(a, b).pvalue))
        p = rng.random(int(rng.integers(1, 12))) ** 3
        mine = list(holm({str(i): float(x) for i, x in enumerate(p)}).values())
        corrections.append(np.abs(mine - multipletests(p, method="holm")[1]).max())
    return {"paired_test_scipy": float(max(tests)), "holm_statsmodels": float(max(corrections))}


def main() -> None:
    """Count, print and write the record."""
    rows = []
    for methods, seeds in DESIGNS:
        rng = np.random.default_rng(2026)
        row = {"methods": methods, "seeds": seeds, "alpha": Comparison.alpha, "of": FEW}
        row["called_different"] = sum(calls(rng, methods, seeds, Comparison.alpha) for _ in range(FEW))
        row["rate_of_many"] = sum(calls(rng, methods, seeds, Comparison.alpha) for _ in range(MANY)) / MANY
        rows.append(row)
        print(json.dumps(row), flush=True)
    largest = beside_others(np.random.default_rng(1))
    print(json.dumps(largest))
    about = machine()
    record = {"about": about, "many": MANY, "rows": rows, "largest_difference_from": largest}
    path = RESULTS / f"lab_same_method_{about['date']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
