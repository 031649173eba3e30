# SPDX-License-Identifier: Apache-2.0
"""The softmax algorithms at every row length from 2^4 to 2^26, in cache and out of it, beside torch and onnxruntime.

Run `python -m benchmarks.kernels.softmax --threads 1` from the repository's root, on an idle machine.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.kernels.timing import Record
from steepest.bench import peers
from steepest.functional import softmax
from steepest.kernels._softmax_op import ALGORITHMS

IN_CACHE, OUT_OF_CACHE = 1 << 17, 1 << 24


def shapes(threads: int) -> list[tuple[int, int]]:
    """Return (elements, row length) of each case: one row of a thread for the longest ones."""
    found = [(IN_CACHE, 1 << power) for power in range(4, 18)]
    found += [(OUT_OF_CACHE, 1 << power) for power in range(6, 24, 5)]
    return [*found, *((threads * n, n) for n in (1 << 20, 1 << 22, 1 << 24, 1 << 26 >> (threads - 1)))]


def calls(elements: int, n: int) -> dict[str, Callable[[], Any]]:
    """Return every algorithm, torch, a copy (to old and new memory) and, where installed, onnxruntime on rows of n."""
    x = torch.randn(elements // n, n, generator=torch.Generator().manual_seed(0)) * 2
    y = torch.empty_like(x)
    names: list[Any] = list(ALGORITHMS)
    found: dict[str, Callable[[], Any]] = {a: lambda a=a: softmax(x, algorithm=a) for a in names}
    found |= {"torch": lambda: torch.softmax(x, -1), "copy_": lambda: y.copy_(x), "clone": x.clone}
    other = peers.onnx("Softmax", x, axis=-1)
    return found | ({"onnxruntime": other} if other else {})


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    record = Record(f"softmax_threads{threads}", threads=threads)
    worst, path = (0.0, ""), None
    with peers.processors(threads):
        for elements, n in shapes(threads):
            case, rounds = {"rows": elements // n, "length": n}, 5 if elements >= 1 << 22 else 100
            times = record.compare(
                case, calls(elements, n), elements=elements, bytes_moved=8 * elements, seconds=0.6, rounds=rounds
            )
            best = min(times[name].fastest for name in ALGORITHMS if name != "auto")
            worst = max(worst, (times["auto"].fastest / best, f"{case}"))
            record.about["auto_over_best_at_worst"] = worst
            path = record.save()  # a long run that is cut off keeps what it has
    print(worst, path)


if __name__ == "__main__":
    main()
