# SPDX-License-Identifier: Apache-2.0
"""What a call costs when there is nothing to compute: 8 x 10 elements, forward, with a graph, and with backward.

Run `python -m benchmarks.kernels.small` from the repository's root, on an idle machine.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.kernels.timing import Record
from steepest import functional

ELEMENTARY = ("exp", "exp2", "expm1", "log", "log1p", "sigmoid", "tanh", "erf", "softplus", "silu", "gelu")
TARGET = torch.arange(8)
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    **{name: (getattr(functional, name), getattr(torch, name, None) or getattr(F, name)) for name in ELEMENTARY},
    "softmax": (functional.softmax, lambda x: torch.softmax(x, -1)),
    "log_softmax": (functional.log_softmax, lambda x: torch.log_softmax(x, -1)),
    "logsumexp": (functional.logsumexp, lambda x: torch.logsumexp(x, -1)),
    "cross_entropy": (lambda x: functional.cross_entropy(x, TARGET), lambda x: F.cross_entropy(x, TARGET)),
}


def main() -> None:
    """Measure and save."""
    record = Record("small")
    x = torch.rand(8, 10) + 0.1
    leaf = x.clone().requires_grad_()
    for name, pair in PAIRS.items():
        for what, argument in (("forward", x), ("forward with graph", leaf), ("forward + backward", leaf)):
            calls: dict[str, Callable[[], Any]] = {}
            for who, function in zip(("steepest", "torch"), pair, strict=True):
                grad = torch.ones_like(function(x))
                if what == "forward + backward":
                    calls[who] = lambda f=function, g=grad: torch.autograd.grad(f(leaf), leaf, g)
                else:
                    calls[who] = lambda f=function, a=argument: f(a)
            record.compare({"function": name, "what": what}, calls, elements=80, bytes_moved=640, seconds=0.2)
    print(record.save())


if __name__ == "__main__":
    main()
