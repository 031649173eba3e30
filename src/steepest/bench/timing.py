# SPDX-License-Identifier: Apache-2.0
"""Times alternatives side by side: alternating, one process, medians with spread, beside the machine's copy bandwidth.

record = Record("elementwise", threads=1)
record.compare({"n": n}, {"steepest": lambda: f(x), "torch": lambda: g(x)}, elements=n, bytes_moved=8 * n)
record.save(Path("results"))
"""

import datetime
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: the median over rounds, the quartiles, and the fastest round.

    The fastest is what to look at where other programs used the machine: they only ever add.
    """

    median: float
    low: float
    high: float
    fastest: float = math.nan


def alternate(
    alternatives: Mapping[str, Callable[[], Any]], *, rounds: int = 15, seconds: float = 0.4
) -> dict[str, Timing]:
    """Return the time of one call of each alternative.

    Every round calls each of them, often enough to last `seconds / rounds / len(alternatives)`, so that a disturbance
    hits all alike; in another order each time, for what a call finds in the caches the one before it has left there.

    Args:
        alternatives: Name to a call without arguments; its result is dropped inside the timing.
        rounds: Samples of each.
        seconds: Total time to spend, about.

    Returns:
        Name to timing.
    """
    for call in alternatives.values():
        call()  # compiles
    share = seconds / rounds / len(alternatives)
    calls = {name: max(1, int(share / _fastest(call, share))) for name, call in alternatives.items()}
    samples: dict[str, list[float]] = {name: [] for name in alternatives}
    order, shuffle = list(alternatives.items()), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name, call in order:
            begun = time.perf_counter()
            for _ in range(calls[name]):
                call()
            samples[name].append((time.perf_counter() - begun) / calls[name])
    return {name: _timing(values) for name, values in samples.items()}


def _fastest(call: Callable[[], Any], enough: float) -> float:
    """Return the fastest of up to ten calls: one that is slow by chance would be called less often than the others."""
    spans: list[float] = []
    while len(spans) < 10 and sum(spans) < enough:
        begun = time.perf_counter()
        call()
        spans.append(max(time.perf_counter() - begun, 1e-7))
    return min(spans)


def _timing(values: list[float]) -> Timing:
    low, median, high = statistics.quantiles(values, n=4)
    return Timing(median, low, high, min(values))


def copy_bandwidth(size_bytes: int = 1 << 28) -> float:
    """Return bytes per second read plus written by `Tensor.copy_` of a block beyond the caches, with the threads set.

    Args:
        size_bytes: Size of the source.

    Returns:
        Bandwidth, counting each byte read and each written once.
    """
    source = torch.ones(size_bytes // 4)
    target = torch.empty_like(source)
    return 2 * size_bytes / alternate({"copy": lambda: target.copy_(source)}, rounds=9)["copy"].median


def machine() -> dict[str, Any]:
    """Return what a number needs beside it: processor, versions, threads, date.

    Returns:
        A JSON-ready mapping.
    """
    info = Path("/proc/cpuinfo")
    fields = {}
    if info.exists():
        fields = dict(line.split("\t: ", 1) for line in info.read_text().splitlines() if "\t: " in line)
        fields = {key.strip(): value for key, value in fields.items()}
    packages = ("torch", "numba", "llvmlite", "numpy", "scipy", "onnxruntime", "jax")
    installed = {dist.metadata["Name"] for dist in metadata.distributions()}
    return {
        "processor": fields.get("model name", platform.processor()),
        "family": fields.get("cpu family"),
        "model": fields.get("model"),
        "simd": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages if name in installed},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


@dataclass
class Record:
    """Rows of a benchmark, reported as they come and saved as JSON.

    Args:
        theme: Names the file.
        threads: torch's and the kernels' thread count.
        report: Called with a line of text for each row.
    """

    theme: str
    threads: int = 1
    report: Callable[[str], object] | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        torch.set_num_threads(self.threads)
        self.about = machine() | {"copy_bytes_per_second": copy_bandwidth()}

    def compare(
        self,
        case: Mapping[str, Any],
        alternatives: Mapping[str, Callable[[], Any]],
        *,
        elements: int,
        bytes_moved: int,
        seconds: float = 0.4,
        rounds: int = 15,
    ) -> dict[str, Timing]:
        """Time the alternatives on one case, report a line for each, and keep the rows.

        Args:
            case: What distinguishes this case: function, size, dtype.
            alternatives: Name to a call.
            elements: For ns/element.
            bytes_moved: The useful traffic, for the share of copy bandwidth.
            seconds: Time to spend.
            rounds: Samples of each; fewer where one call takes long.

        Returns:
            Name to timing.
        """
        timings = alternate(alternatives, rounds=rounds, seconds=seconds)
        for name, timing in timings.items():
            row = {
                **case,
                "name": name,
                "seconds": timing.median,
                "quartiles": [timing.low, timing.high],
                "fastest": timing.fastest,
                "ns_per_element": 1e9 * timing.median / elements,
                "gb_per_second": bytes_moved / timing.median / 1e9,
            }
            self.rows.append(row)
            what = " ".join(str(value) for value in case.values())
            if self.report is not None:
                self.report(
                    f"{what:34s} {name:12s} {row['ns_per_element']:9.3f} ns/element {row['gb_per_second']:7.1f} GB/s"
                    f"  [{1e6 * timing.low:.4g}, {1e6 * timing.high:.4g}] us"
                )
        return timings

    @property
    def stem(self) -> str:
        """Theme, processor and date, as its files are named."""
        processor = f"{self.about['simd'].lower()}-family{self.about['family']}-model{self.about['model']}"
        return f"{self.theme}_{processor}_{self.about['date']}"

    def save(self, folder: Path) -> Path:
        """Write `<theme>_<processor>_<date>.json` and return its path.

        Args:
            folder: Where; made if it is not there.

        Returns:
            The file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.stem}.json"
        path.write_text(json.dumps({"about": self.about, "rows": self.rows}, indent=1) + "\n")
        return path
