# SPDX-License-Identifier: Apache-2.0
"""Muon beside torch.optim.Muon: time of a step, and how far its directions are from the polar factor.

    python -m benchmarks.optim.muon --shapes llama --threads 2

Two sets of matrices: 16 of 256 x 256, and the hidden matrices of a Llama of 60 million parameters (8 layers of width
512, hidden width 1376; embedding and head are AdamW's). All take the same steps in turn, round after round, each with
parameters of its own; a new gradient for each step would be the larger part of the time, so it stays the same. The
error is the relative distance of a first step, without momentum, from the exact polar factor of its gradient, which
has the spectrum of a Gaussian matrix, or log-uniform singular values from 1e-3 to 1; the mean over the matrices.
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.kernels.timing import RESULTS, Record, alternate
from steepest.geometry import polar_factor, published_iteration
from steepest.geometry.polar_rates import fast_dtype
from steepest.optim import Muon

LAYER = [(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376)]
SHAPES = {"squares": [(256, 256)] * 16, "llama": LAYER * 8}
DTYPE = torch.bfloat16 if fast_dtype() == torch.bfloat16 else None
Make = Callable[..., torch.optim.Optimizer]


def ours(name: str) -> Make:
    """Return a constructor of Muon with a list of polar steps."""
    polar = published_iteration(name, dtype=DTYPE)
    return lambda params, **rest: Muon(params, polar=polar, **rest)


METHODS: dict[str, Make] = {
    "torch Muon": lambda params, **rest: torch.optim.Muon(params, **{"weight_decay": 0.0, **rest}),
    "Muon": Muon,
    "Muon, designed-4": ours("designed-4"),
    "Muon, designed-short": ours("designed-short"),
    "Muon, muon": ours("muon"),
}


def gradients(shapes: list[tuple[int, int]], *, log_uniform: bool) -> list[Tensor]:
    """Return a gradient for each shape."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    if log_uniform:
        for i, one in enumerate(made):
            u, s, v = torch.linalg.svd(one, full_matrices=False)
            made[i] = u * 10 ** (-3 * torch.rand(len(s), generator=generator, dtype=torch.float64)) @ v
    return [(one / one.norm()).float() for one in made]


def error(make: Make, grads: list[Tensor]) -> float:
    """Return the mean relative distance of first steps from the exact polar factors; any positive scale is allowed."""
    params = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = g.clone()
    make(params, lr=1.0, momentum=0.0, nesterov=False).step()
    found = []
    for p, g in zip(params, grads, strict=True):
        exact, step = polar_factor(g.double()), -p.detach().double()
        scale = max(1, g.shape[0] / g.shape[1]) ** 0.5  # of both, by default
        found.append(float((step / scale - exact).norm() / exact.norm()))
    return sum(found) / len(found)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="squares", choices=tuple(SHAPES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each method")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    shapes = SHAPES[arguments.shapes]
    record = Record(f"optim_muon_{arguments.shapes}_{arguments.threads}threads", threads=arguments.threads)
    few = shapes[:7] if arguments.shapes == "llama" else shapes[:4]
    made = {}
    for name, make in METHODS.items():
        params = [nn.Parameter(torch.zeros_like(g)) for g in gradients(shapes, log_uniform=False)]
        for p, g in zip(params, gradients(shapes, log_uniform=False), strict=True):
            p.grad = g
        made[name] = make(params)
    steps = {name: one.step for name, one in made.items()}
    timings = alternate(steps, rounds=arguments.rounds, seconds=arguments.seconds * len(made))
    for name, timing in timings.items():
        row = {
            "shapes": arguments.shapes,
            "name": name,
            "seconds": timing.median,
            "quartiles": [timing.low, timing.high],
            "fastest": timing.fastest,
            "error_gaussian": error(METHODS[name], gradients(few, log_uniform=False)),
            "error_log_uniform": error(METHODS[name], gradients(few, log_uniform=True)),
        }
        record.rows.append(row)
        errors = f"{row['error_gaussian']:.3f}, {row['error_log_uniform']:.3f}"
        print(f"{name:22s} {1e3 * timing.median:8.1f} ms (fastest {1e3 * timing.fastest:.1f}), error {errors}")
    print(record.save(RESULTS))


if __name__ == "__main__":
    main()
