# SPDX-License-Identifier: Apache-2.0
"""Time row and column scaling and its fused update beside the memory sweeps that bound them.

    python benchmarks/geometry/sinkhorn.py --threads 1 --out one.json
    python benchmarks/geometry/sinkhorn.py --merge one.json two.json --out benchmarks/results/NAME.json

The floor of one pass is two reads of the matrix (`Tensor.sum`), that of the result one copy (`Tensor.copy_`), and that
of the fused update one plain SGD step (`Tensor.add_`). All run in turn, in one process. `alternation` is the same map
by the plain definition: rows, then columns, divided by their root mean square in torch.
"""

import argparse
import json
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

import numba
import torch
from torch import Tensor

from steepest.geometry import sinkhorn, sinkhorn_step_

SHAPES = ("2048x8192", "768x3072", "768x768", "16x256x256")
PASSES = 5


def alternation(x: Tensor) -> Tensor:
    """Scale by the definition, five times."""
    for _ in range(PASSES):
        x = x / x.square().mean(-1, keepdim=True).sqrt()
        x = x / x.square().mean(-2, keepdim=True).sqrt()
    return x


def measure(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> dict:
    """Return milliseconds of each candidate and the ratios to the floors."""
    generator = torch.Generator().manual_seed(0)
    grad, weight = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(grad)
    runs: dict[str, Callable[[], object]] = {
        "read": grad.sum,
        "copy": lambda: out.copy_(grad),
        "sgd": lambda: weight.add_(grad, alpha=-1e-3),
        "sinkhorn": lambda: sinkhorn(grad, out=out),
        "sinkhorn_step_": lambda: sinkhorn_step_(weight, grad, alpha=-1e-3),
        "alternation": lambda: alternation(grad),
    }
    spans: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if number:
                spans[name].append(1e3 * (time.perf_counter() - start))
    ms = {name: statistics.median(times) for name, times in spans.items()}
    least = {name: min(times) for name, times in spans.items()}
    floor = 2 * PASSES * ms["read"] + ms["copy"]
    return {
        "median ms": ms,
        "least ms": least,
        "floor ms": floor,
        "sinkhorn over floor": ms["sinkhorn"] / floor,
        "step over sgd": ms["sinkhorn_step_"] / ms["sgd"],
        "rounds": rounds,
    }


def main() -> None:
    """Read the arguments, measure or merge, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="*", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--merge", nargs="*", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    record: dict = {}
    if arguments.merge:
        record = {
            "theme": "sinkhorn",
            "date": time.strftime("%Y-%m-%d"),
            "hardware": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 2 cores",
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numba": numba.__version__},
            "passes": PASSES,
        }
        for path in arguments.merge:
            record |= json.loads(path.read_text())
    else:
        torch.set_num_threads(arguments.threads)
        for shape in arguments.shapes:
            sizes = tuple(map(int, shape.split("x")))
            for dtype in (torch.float32, torch.bfloat16):
                name = f"{shape}, {str(dtype)[6:]}, {arguments.threads} threads"
                record[name] = measure(sizes, dtype, arguments.rounds)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
