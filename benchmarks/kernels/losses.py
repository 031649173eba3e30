# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy and linear cross-entropy against torch: medians in one process, and peak extra memory.

python benchmarks/kernels/losses.py --threads 2 --save benchmarks/results
"""

import argparse
import ctypes
import datetime
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import torch
import torch.nn.functional as F

from steepest.functional import cross_entropy, linear_cross_entropy
from steepest.kernels import release_memory

Run = Callable[[], Any]
#: Rows and classes of classifiers.
FEW = [(8192, 10), (4096, 32), (1024, 100), (256, 1000)]


def times(runs: dict[str, Run], repeats: int) -> dict[str, dict[str, float]]:
    """Return median and spread of each, in milliseconds; the runs take turns, so that all see the same machine."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):  # the first round warms up
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            found[name].append(1e3 * (time.perf_counter() - start))
    return {
        name: {"median_ms": statistics.median(t[1:]), "min_ms": min(t[1:]), "max_ms": max(t[1:])}
        for name, t in found.items()
    }


def _resident_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def peak_mib(run: Run) -> float:
    """Return how far above its start the resident memory went during a call; Linux only."""
    gc.collect()
    release_memory()  # or what waits for the next output would not count
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident_kb("VmRSS")
    kept = run()
    peak = _resident_kb("VmHWM")
    del kept
    return (peak - before) / 1024


def _step(function: Callable[..., torch.Tensor], leaves: list[torch.Tensor], *rest: Any, **options: Any) -> Run:
    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        function(*leaves, *rest, **options).backward()
        for leaf in leaves:
            leaf.grad = None

    return run


def _in_place(x: torch.Tensor, target: torch.Tensor) -> Run:
    leaf = x.detach().requires_grad_()

    def run() -> None:
        leaf.grad = None
        # A view made without autograd's leaf check: the logits of a model are no leaf.
        cross_entropy(leaf.view_as(leaf), target, inplace_backward=True).backward()
        leaf.grad = None

    return run


def logits_case(rows: int, classes: int, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Return forward, forward + backward and memory for given logits."""
    g = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(rows, classes, generator=g)).to(dtype)
    target = torch.randint(classes, (rows,), generator=g)
    leaf = x.clone().requires_grad_()
    forward = times(
        {"steepest": lambda: cross_entropy(x, target), "torch": lambda: F.cross_entropy(x, target)}, repeats
    )
    runs: dict[str, Run] = {
        "steepest": _step(cross_entropy, [leaf], target),
        "torch": _step(F.cross_entropy, [leaf], target),
        "steepest in place": _in_place(x.clone(), target),
    }
    return {
        "case": f"cross_entropy {rows} x {classes} {dtype}",
        "forward": forward,
        "forward_backward": times(runs, repeats),
        "peak_extra_mib": {name: peak_mib(run) for name, run in runs.items()},
    }


def _plain(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight), target)


def linear_case(rows: int, width: int, classes: int, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Return forward + backward and memory for hidden states and a classifier."""
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=g).to(dtype).requires_grad_()
    weight = (torch.randn(classes, width, generator=g) / width**0.5).to(dtype).requires_grad_()
    target = torch.randint(classes, (rows,), generator=g)
    runs = {
        "steepest": _step(linear_cross_entropy, [hidden, weight], target),
        "torch plain": _step(_plain, [hidden, weight], target),
    }
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions()
        runs["torch chunked"] = _step(F.linear_cross_entropy, [hidden, weight], target, options=options)
    return {
        "case": f"linear_cross_entropy {rows} x {width} x {classes} {dtype}",
        "forward_backward": times(runs, repeats),
        "peak_extra_mib": {name: peak_mib(run) for name, run in runs.items()},
    }


def small_case() -> dict[str, Any]:
    """Return the time of calls whose work is nothing, times 200."""
    x, target = torch.randn(8, 10, requires_grad=True), torch.arange(8)

    def many(function: Callable[..., torch.Tensor], backward: bool) -> Run:
        def run() -> None:
            for _ in range(200):
                loss = function(x, target)
                if backward:
                    loss.backward()

        return run

    return {
        "case": "cross_entropy 8 x 10 float32, 200 calls",
        "forward": times({"steepest": many(cross_entropy, False), "torch": many(F.cross_entropy, False)}, 7),
        "forward_backward": times({"steepest": many(cross_entropy, True), "torch": many(F.cross_entropy, True)}, 7),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", choices=["logits", "few", "linear", "small"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        if arguments.only in (None, "logits"):
            results.append(logits_case(1024, 50257, dtype, arguments.repeats))
            print(json.dumps(results[-1], indent=1), flush=True)
        if arguments.only in (None, "linear"):
            results.append(linear_case(1024, 256, 32000, dtype, min(3, arguments.repeats)))
            print(json.dumps(results[-1], indent=1), flush=True)
    if arguments.only in (None, "few"):
        for rows, classes in FEW:
            results.append(logits_case(rows, classes, torch.float32, 20 * arguments.repeats))
            print(json.dumps(results[-1], indent=1), flush=True)
    if arguments.only in (None, "small"):
        results.append(small_case())
        print(json.dumps(results[-1], indent=1), flush=True)
    record = {
        "hardware": _processor(),
        "threads": arguments.threads,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"torch": torch.__version__, "numba": numba.__version__, "python": platform.python_version()},
        "results": results,
    }
    if arguments.save:
        hardware = "".join(c if c.isalnum() else "-" for c in record["hardware"].lower()).strip("-")
        suffix = f"_{arguments.only}" if arguments.only else ""
        arguments.save.mkdir(parents=True, exist_ok=True)
        path = arguments.save / f"kernels_losses{suffix}_{hardware}_{record['date']}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
