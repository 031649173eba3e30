# SPDX-License-Identifier: Apache-2.0
"""What every function of this package asks of a tensor, and the lengths that neither overflow nor underflow."""

import torch
from torch import Tensor

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALF_DTYPES = (torch.float16, torch.bfloat16)


def check_input(x: Tensor, dims: int, name: str) -> None:
    """Refuse what no norm is defined for: other dtypes, too few dimensions, an empty element."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} needs a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in FLOAT_DTYPES:
        hint = "use torch.view_as_real first" if x.dtype.is_complex else "convert it with .float()"
        raise TypeError(f"{name} is defined for float16, bfloat16, float32 and float64, got {x.dtype}; {hint}")
    if x.ndim < dims:
        raise ValueError(f"{name} works on the last {dims} dimension(s), got a tensor of shape {tuple(x.shape)}")
    if 0 in x.shape[x.ndim - dims :]:
        raise ValueError(f"{name} is not defined for an empty element, got shape {tuple(x.shape)}")


def compute_tensor(x: Tensor, dims: int, name: str) -> Tensor:
    """Return `x` in the dtype the arithmetic runs in: float32 for half precision, its own otherwise."""
    check_input(x, dims, name)
    return x.float() if x.dtype in HALF_DTYPES else x


def one_where_zero(x: Tensor) -> Tensor:
    """Return a divisor that leaves zero vectors zero and lets NaN through."""
    return torch.where(x == 0, torch.ones_like(x), x)


def l2_length(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Return the l2 norm along `dim`, kept as dimensions of size one, safe from overflow and underflow of squares."""
    peak = torch.linalg.vector_norm(x, float("inf"), dim=dim, keepdim=True)
    unit = torch.where((peak > 0) & peak.isfinite(), peak, torch.ones_like(peak))
    return torch.linalg.vector_norm(x / unit, dim=dim, keepdim=True) * unit


def trailing(dims: int) -> tuple[int, ...]:
    """Return the indices of the last `dims` dimensions."""
    return tuple(range(-dims, 0))


def project_l1_ball(x: Tensor) -> Tensor:
    """Return the Euclidean projection of each last-dimension vector onto the unit l1 ball (by sorting)."""
    size = x.abs()
    ordered = size.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    kept = (ordered * count > excess).sum(-1, keepdim=True).clamp(min=1)
    threshold = excess.gather(-1, kept - 1) / kept
    shrunk = x.sign() * (size - threshold).clamp(min=0)
    total = size.sum(-1, keepdim=True)
    return torch.where(total > 1, shrunk, x + 0 * total)


def check_budget(steps: int, tol: float | None = None) -> None:
    """Refuse a number of steps or a tolerance that makes no sense."""
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an int >= 1, got {steps!r}")
    if tol is not None and not tol >= 0:
        raise ValueError(f"tol must be at least 0, or None for a fixed number of steps, got {tol}")
