# SPDX-License-Identifier: Apache-2.0
"""RMSNorm, LayerNorm, l2 normalization, PolyNorm and PolyReLU against torch eager and torch.compile.

Run `python -m benchmarks.kernels.normalization` from the repository's root, on an idle machine, or name functions to
run a part of it; torch.compile needs a C++ compiler. The smaller size is in cache, the larger far outside.
"""

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.kernels.gates import DTYPES, SHAPES, both_ways, save
from benchmarks.kernels.timing import Record
from steepest import functional

COEFFICIENTS = (0.0, 1 / 3, 1 / 3, 1 / 3)


def polynorm(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Return PolyNorm of order three as its authors write it in torch."""
    powers = (x, x * x, x * x * x)
    return sum(
        (a[i] * p * torch.rsqrt(p.square().mean(-1, keepdim=True) + 1e-6) for i, p in enumerate(powers, 1)), a[0]
    )


def polyrelu(x: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Return PolyReLU of order three in torch."""
    p = torch.relu(x)
    return a[0] + p * (a[1] + p * (a[2] + p * a[3]))


#: Name -> ours, torch's, and the vectors that go with x for a width and dtype.
CASES: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], Callable[..., list[torch.Tensor]]]] = {
    "rms_norm": (
        lambda x, w: functional.rms_norm(x, w, 1e-6),
        lambda x, w: F.rms_norm(x, x.shape[-1:], w, 1e-6),
        lambda width, dtype: [torch.rand(width) + 0.5],
    ),
    "layer_norm": (
        lambda x, w, b: functional.layer_norm(x, w, b, 1e-5),
        lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b, 1e-5),
        lambda width, dtype: [torch.rand(width) + 0.5, torch.randn(width)],
    ),
    "l2_normalize": (functional.l2_normalize, lambda x: F.normalize(x, dim=-1), lambda width, dtype: []),
    "l2_normalize dim 0": (
        lambda x: functional.l2_normalize(x, 0),
        lambda x: F.normalize(x, dim=0),
        lambda width, dtype: [],
    ),
    "polynorm": (functional.polynorm, polynorm, lambda width, dtype: [torch.tensor(COEFFICIENTS)]),
    "polyrelu": (functional.polyrelu, polyrelu, lambda width, dtype: [torch.tensor(COEFFICIENTS)]),
}


def main() -> None:
    """Measure and save."""
    record = Record("normalization")
    for name in sys.argv[1:] or CASES:
        ours, eager, vectors = CASES[name]
        for dtype in DTYPES:
            for shape in SHAPES:
                torch._dynamo.reset()
                torch.manual_seed(0)
                inputs = [t.to(dtype).requires_grad_() for t in (torch.randn(shape), *vectors(shape[-1], dtype))]
                functions = {"steepest": ours, "torch": eager, "torch.compile": torch.compile(eager, dynamic=False)}
                case = {"function": name, "shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
                both_ways(record, case, functions, inputs)
                save(record)


if __name__ == "__main__":
    main()
