# SPDX-License-Identifier: Apache-2.0
"""What it costs to share a kernel: one thread, torch's own team, a pool of Python threads; the same memory each time.

Run `python -m benchmarks.kernels.team` from the repository's root, on an idle machine with two cores or more. The first
case is a kernel with nothing to do. The last one is a step of AdamW on 16 matrices of 4 x 4: what Python takes.
"""

from collections.abc import Callable

import torch

from benchmarks.kernels.timing import Record
from steepest import functional
from steepest.bench import peers
from steepest.kernels import _pool
from steepest.kernels._registry import kernels
from steepest.optim import AdamW

THREADS, PIECES = 2, 8


def ways(elements: int) -> dict[str, Callable[[], object]]:
    """Return exp of so many numbers, by three ways."""
    x = torch.randn(max(elements, 1))
    y = torch.empty_like(x)
    kernel = kernels()["exp_f32"]
    args = x.data_ptr(), y.data_ptr()
    size = max(1, -(-elements // PIECES))
    pieces = [(start, min(start + size, elements)) for start in range(0, elements, size)] or [(0, 0)] * PIECES
    return {
        "one thread": lambda: (kernel.run(*args, 0, elements), x, y),
        "team": lambda: kernel.team_entry.run(args, (elements, size, len(pieces)), THREADS, THREADS),
        "Python threads": lambda: _pool._share(kernel.run, args, pieces, THREADS),
    }


def main() -> None:
    """Measure and save."""
    functional.exp(torch.ones(1 << 16))  # compiled
    record = Record(f"team_threads{THREADS}", threads=THREADS)
    with peers.processors(THREADS):
        for elements in (0, 1 << 15, 1 << 17, 1 << 18, 1 << 20):
            found = ways(elements)
            record.compare(
                {"kernel": "exp", "elements": elements},
                found,
                elements=max(elements, 1),
                bytes_moved=8 * elements,
                seconds=1.0,
                rounds=200,
            )
        small = [torch.nn.Parameter(torch.randn(4, 4)) for _ in range(16)]
        for parameter in small:
            parameter.grad = torch.randn(4, 4)
        optimizer = AdamW(small, lr=1e-3)
        record.compare(
            {"kernel": "AdamW on 16 matrices of 4 x 4", "elements": 256},
            {"step": optimizer.step},
            elements=256,
            bytes_moved=256 * 28,
            seconds=1.0,
        )
    print(record.save())


if __name__ == "__main__":
    main()
