"""Parameters of every kind of shape, and gradients that are the same in every run."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

#: Tall, wide, square, one row, one column, one entry.
MATRICES = ((12, 5), (5, 12), (8, 8), (1, 7), (7, 1), (1, 1))
VECTORS = ((6,), ())


def parameters(
    shapes: Sequence[tuple[int, ...]], dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def gradient(shape: tuple[int, ...], step: int, index: int, kind: str = "full") -> torch.Tensor:
    """A float64 gradient: `full`, `rank one`, or `zero`."""
    generator = torch.Generator().manual_seed(1000 * step + index)
    full = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "zero":
        return torch.zeros_like(full)
    if kind == "rank one" and full.ndim == 2:
        return torch.outer(full[:, 0], full[0])
    return full


def give_gradients(params: Sequence[nn.Parameter], step: int, kind: str = "full") -> list[np.ndarray]:
    """Give each parameter its gradient of a step and return them in float64."""
    for index, p in enumerate(params):
        p.grad = gradient(tuple(p.shape), step, index, kind).to(p.dtype)
    return [p.grad.double().numpy().copy() for p in params if p.grad is not None]


def run(optimizer: torch.optim.Optimizer, params: Sequence[nn.Parameter], steps: range, kind: str = "full") -> None:
    for step in steps:
        give_gradients(params, step, kind)
        optimizer.step()


def assert_follows(optimizer, params, reference, *, steps: int = 20, kind: str = "full", rtol: float = 1e-9) -> None:
    """Step the optimizer beside a reference for one parameter: `reference(w, gradients) -> w after all of them`."""
    start = [p.detach().double().numpy().copy() for p in params]
    gradients = []
    for step in range(steps):
        gradients.append(give_gradients(params, step, kind))
        optimizer.step()
    for i, p in enumerate(params):
        expected = reference(start[i], [g[i] for g in gradients])
        np.testing.assert_allclose(
            p.detach().double().numpy(), expected, rtol=rtol, atol=rtol * 0.1, err_msg=str(p.shape)
        )
