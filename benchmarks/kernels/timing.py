# SPDX-License-Identifier: Apache-2.0
"""The package's timing, with results that go to `benchmarks/results` and lines that are printed.

record = Record("elementwise", threads=1)
record.compare({"n": n}, {"steepest": lambda: f(x), "torch": lambda: g(x)}, elements=n, bytes_moved=8 * n)
record.save()
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from steepest.bench import timing
from steepest.bench.timing import Timing, alternate, copy_bandwidth, machine

__all__ = ["RESULTS", "Record", "Timing", "alternate", "copy_bandwidth", "machine"]

RESULTS = Path(__file__).parents[1] / "results"


@dataclass
class Record(timing.Record):
    """Rows of a benchmark, printed as they come and saved in `benchmarks/results`."""

    report: Callable[[str], object] | None = print

    def save(self, folder: Path = RESULTS) -> Path:
        return super().save(folder)
