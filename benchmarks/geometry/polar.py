# SPDX-License-Identifier: Apache-2.0
"""Time the automatic polar factor beside each fixed choice and the Newton-Schulz of torch.optim.Muon.

    python benchmarks/geometry/polar.py errors --out errors.json
    python benchmarks/geometry/polar.py time --threads 1 --shapes 256x256 768x3072 --out one.json
    python benchmarks/geometry/polar.py merge errors.json one.json ... --out benchmarks/results/NAME.json

In `time` the candidates alternate in one process, in a new order each round, on one matrix of each shape; a sample is
the mean of the calls that fit into `SHORTEST` seconds. The baselines are the iteration of torch.optim.Muon, which
computes in bfloat16, and the same five lines of torch in float32; where the processor has no bfloat16 instructions the
first is run up to `LARGEST_EMULATED` multiplications only. `errors` measures the relative distance to the exact factor
for three spectra: that of a Gaussian matrix, log-uniform in [1e-3, 1], and one value a thousand times all others.
"""

import argparse
import functools
import importlib
import json
import pathlib
import platform
import random
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from steepest.geometry.polar import _candidates, choose_method, polar_factor
from steepest.geometry.polar_iteration import PolarIteration
from steepest.geometry.polar_rates import fast_dtype

SHAPES = ("256x256", "512x512", "768x768", "256x1024", "256x2048", "768x3072", "1024x1024", "2048x2048", "3072x3072")
#: Above this many rows only the tolerances of optimizers, and no factorization or Gram form: they take half a minute.
LARGE = 1024
LONGEST = 8.0
SHORTEST = 0.03
LARGEST_EMULATED = 512**3
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def torch_muon(x: Tensor) -> Tensor:
    """Run the Newton-Schulz iteration of torch.optim.Muon with its defaults."""
    run = importlib.import_module("torch.optim._muon")._zeropower_via_newtonschulz
    return run(x, COEFFICIENTS, 5, 1e-7)


def muon_float32(x: Tensor) -> Tensor:
    """Run the same iteration in float32, product for product."""
    a, b, c = COEFFICIENTS
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def label(method: str | PolarIteration) -> str:
    """Name a method for the table."""
    if isinstance(method, str):
        return method
    precision = "bfloat16" if method.dtype == torch.bfloat16 else "float32"
    return f"{method.name}, {precision}, restart {method.restart}"


def candidates(m: int, n: int) -> dict[float | None, list[str | PolarIteration]]:
    """Return the methods that the automatic choice compares, by tolerance."""
    large = min(m, n) > LARGE

    native = fast_dtype() == torch.bfloat16

    def kept(method: str | PolarIteration) -> bool:
        if isinstance(method, PolarIteration) and method.dtype == torch.bfloat16 and not native:
            return False
        return not large or (isinstance(method, PolarIteration) and method.restart == 1)

    tols = (0.25, 0.33, 0.41) if large else (None, 0.065, 0.25, 0.33, 0.41)
    return {tol: [method for method in _candidates(torch.float32, tol) if kept(method)] for tol in tols}


def seconds(run: Callable[[Tensor], object], x: Tensor, calls: int = 1) -> float:
    """Time one call, as the mean of several."""
    start = time.perf_counter()
    for _ in range(calls):
        run(x)
    return (time.perf_counter() - start) / calls


def time_shape(shape: str, rounds: int) -> dict:
    """Time every candidate of every tolerance, in a new order each round, and say what the automatic choice took."""
    m, n = map(int, shape.split("x"))
    x = torch.randn(m, n, generator=torch.Generator().manual_seed(0))
    runs: dict[str, Callable[[Tensor], object]] = {"Muon, float32": muon_float32}
    if fast_dtype() == torch.bfloat16 or m * m * n <= LARGEST_EMULATED:
        runs["torch.optim.Muon"] = torch_muon
    groups: dict[str, list[str]] = {}
    for tol, members in candidates(m, n).items():
        groups[str(tol)] = [label(method) for method in members]
        runs |= {label(method): functools.partial(polar_factor, method=method) for method in members}
        chosen = label(choose_method(m, n, tol=tol))
        runs[f"auto tol={tol} ({chosen})"] = functools.partial(polar_factor, tol=tol)
    spans: dict[str, list[float]] = {name: [seconds(run, x)] for name, run in runs.items()}  # warm-up, and its length
    for name in [name for name, first in spans.items() if first[0] > LONGEST]:
        del runs[name]
    limit = {name: first[0] for name, first in spans.items()}
    for name in runs:
        spans[name] = []
    order, shuffle = list(runs.items()), random.Random(0).shuffle
    for number in range(rounds):
        shuffle(order)
        for name, run in order:
            if number < 3 or limit[name] < 0.5:
                spans[name].append(seconds(run, x, max(1, int(SHORTEST / limit[name]))))
    return {"groups": groups, "milliseconds": {name: summary(times) for name, times in spans.items()}}


def summary(times: list[float]) -> dict:
    """Return the least, median, quartiles and count in milliseconds."""
    ms = sorted(1e3 * t for t in times)
    return {
        "least": ms[0],
        "median": statistics.median(ms),
        "low": ms[len(ms) // 4],
        "high": ms[-1 - len(ms) // 4],
        "count": len(ms),
    }


def spectrum(kind: str, m: int, n: int) -> Tensor:
    """Return m singular values, ascending, largest 1."""
    if kind == "log-uniform":
        return torch.logspace(-3, 0, m, dtype=torch.float64)
    if kind == "nearly rank one":
        return torch.cat([torch.full((m - 1,), 1e-3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)])
    generator = torch.Generator().manual_seed(1)
    rows = min(m, 256)
    small = torch.randn(rows, rows * n // m, generator=generator, dtype=torch.float64)
    values = torch.linalg.svdvals(small).flip(0)
    at = torch.linspace(0, rows - 1, m, dtype=torch.float64)
    left = at.floor().long().clamp_max(rows - 2)
    values = values[left] + (at - left) * (values[left + 1] - values[left])
    return values / values.max()


def errors(shape: str) -> dict:
    """Return the relative error of each candidate on both spectra."""
    m, n = map(int, shape.split("x"))
    generator = torch.Generator().manual_seed(2)
    u = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=torch.float64)).Q
    v = torch.linalg.qr(torch.randn(n, m, generator=generator, dtype=torch.float64)).Q
    exact, out = u @ v.T, {}
    for kind in ("gaussian", "log-uniform", "nearly rank one"):
        x = ((u * spectrum(kind, m, n)) @ v.T).float()
        runs: dict[str, Callable[[Tensor], Tensor]] = {"Muon, float32": muon_float32}
        if m * m * n <= LARGEST_EMULATED or fast_dtype() == torch.bfloat16:
            runs["torch.optim.Muon"] = torch_muon
        for members in candidates(m, n).values():
            runs |= {label(method): functools.partial(polar_factor, method=method) for method in members}
        out[kind] = {name: float((run(x).double() - exact).norm() / m**0.5) for name, run in runs.items()}
    return out


def main() -> None:
    """Read the arguments, run one part and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("errors", "time", "merge"))
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.part == "merge":
        record = {
            "theme": "polar",
            "date": time.strftime("%Y-%m-%d"),
            "hardware": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
        }
        for path in arguments.files:
            for key, value in json.loads(path.read_text()).items():
                record.setdefault(key, {}).update(value)
    elif arguments.part == "errors":
        record = {"errors": {shape: errors(shape) for shape in arguments.shapes}}
    else:
        timed = {shape: time_shape(shape, arguments.rounds) for shape in arguments.shapes}
        record = {f"time, {arguments.threads} threads": timed}
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
