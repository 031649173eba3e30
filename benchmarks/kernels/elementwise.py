# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions against torch: call overhead, in cache, out of cache, forward and backward.

Run `python -m benchmarks.kernels.elementwise` from the repository's root, on an idle machine.
"""

import torch

from benchmarks.kernels.timing import Record
from steepest import functional
from steepest.kernels import elementary

SIZES = (64, 1 << 14, 1 << 20, 1 << 24)
TORCH = {name: getattr(torch, name, None) or torch.nn.functional.softplus for name in elementary.__all__}


def main() -> None:
    """Measure and save."""
    record = Record("elementwise")
    for name in elementary.__all__:
        ours, theirs = getattr(functional, name), TORCH[name]
        for size in SIZES:
            x = torch.rand(size) * 3 + 0.1
            case = {"function": name, "elements": size, "dtype": "float32"}
            alternatives = {"steepest": lambda f=ours, x=x: f(x), "torch": lambda f=theirs, x=x: f(x)}
            record.compare(case, alternatives, elements=size, bytes_moved=8 * size, seconds=0.3)
        x = (torch.rand(1 << 20) + 0.1).requires_grad_()
        alternatives = {
            "steepest": lambda f=ours, x=x: torch.autograd.grad(f(x), x, torch.ones_like(x)),
            "torch": lambda f=theirs, x=x: torch.autograd.grad(f(x), x, torch.ones_like(x)),
        }
        case = {"function": f"{name} + backward", "elements": 1 << 20, "dtype": "float32"}
        record.compare(case, alternatives, elements=1 << 20, bytes_moved=20 << 20, seconds=0.3)
        x = (torch.rand(1 << 20) + 0.1).bfloat16()
        alternatives = {"steepest": lambda f=ours, x=x: f(x), "torch": lambda f=theirs, x=x: f(x)}
        case = {"function": name, "elements": 1 << 20, "dtype": "bfloat16"}
        record.compare(case, alternatives, elements=1 << 20, bytes_moved=4 << 20, seconds=0.3)
    print(record.save())


if __name__ == "__main__":
    main()
