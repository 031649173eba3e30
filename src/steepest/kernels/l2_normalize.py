# SPDX-License-Identifier: Apache-2.0
"""Division by the l2 norm along any dimension."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from steepest.kernels._fused import Fused
from steepest.kernels._memory import empty_rows
from steepest.kernels._normalize import NANOSECONDS, ROWS_PER_BLOCK, row_kernel
from steepest.kernels._normalize_columns import GRADIENT, SCRATCH, VALUE
from steepest.kernels._op import check_floating
from steepest.kernels._pool import spread
from steepest.kernels._rows import as_rows
from steepest.kernels._vector import WIDTH

__all__ = ["l2_normalize"]


def _run(x: Tensor, dim: int, eps: float) -> Tensor:
    y = empty_rows(x)
    if dim == x.dim() - 1:
        x, distance = as_rows(x)
        width, address = x.shape[-1], x.data_ptr()
        addresses = (address, address, address, address, address, y.data_ptr())
        run = row_kernel("l2_normalize", False, (x.dtype,) * 3, False).run
        rows = x.numel() // max(width, 1)
        spread(run, rows, NANOSECONDS * width, addresses, (distance,) * 3, width, eps)
    else:
        _columns(VALUE[x.dtype].run, dim, eps, x.contiguous(), y)
    return y


def _run_gradient(grad: Tensor, x: Tensor, dim: int, eps: float) -> Tensor:
    out, grad = empty_rows(x), grad.contiguous()
    if dim == x.dim() - 1:
        x, distance = as_rows(x)
        width, address = x.shape[-1], x.data_ptr()
        rows = x.numel() // max(width, 1)
        addresses = (grad.data_ptr(), address, address, address, out.data_ptr(), address)
        run = row_kernel("l2_normalize", True, (x.dtype,) * 3, False).run
        cost = 2 * NANOSECONDS * width * ROWS_PER_BLOCK
        spread(run, -(-rows // ROWS_PER_BLOCK), cost, addresses, distance, width, rows, eps)
    else:
        _columns(GRADIENT[x.dtype].run, dim, eps, grad, x.contiguous(), out)
    return out


def _columns(run: Callable[..., None], dim: int, eps: float, *tensors: Tensor) -> None:
    x = tensors[-1]
    if not x.numel():
        return
    n, inner = x.shape[dim], math.prod(x.shape[dim + 1 :])
    pieces = x.numel() // (n * inner) * -(-inner // WIDTH)
    # Each call of the kernel uses the part that belongs to its first piece; the rest is never touched.
    scratch = torch.empty(pieces * SCRATCH, dtype=torch.uint8, device="cpu")
    addresses = (t.data_ptr() for t in (*tensors, scratch))
    spread(run, pieces, len(tensors) * NANOSECONDS * n * WIDTH, *addresses, n, inner, eps)


def _plain(x: Tensor, dim: int, eps: float) -> Tensor:
    wide = x.double()
    norm = torch.linalg.vector_norm(wide, dim=dim, keepdim=True).clamp_min(eps)
    return (wide / norm).to(x.dtype).contiguous()


_L2_NORMALIZE = Fused(
    "l2_normalize",
    tensors=("x",),
    constants=("int dim", "float eps"),
    run=_run,
    run_gradient=_run_gradient,
    plain=_plain,
    fake=lambda x, dim, eps: x.new_empty(x.shape),
    fake_gradient=lambda grad, x, dim, eps: x.new_empty(x.shape),
)


def l2_normalize(x: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    r"""Return $x / \max(\lVert x \rVert_2, \epsilon)$ with norms along one dimension.

    Args:
        x: Floating-point tensor of at least one dimension.
        dim: The dimension whose vectors are normalized; negative ones count from the last.
        eps: Least divisor, positive. Below it the derivative of the norm counts as 0.

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If x is not a floating-point tensor.
        ValueError: If x has no dimensions or eps is not positive.
        IndexError: If x has no such dimension.

    Numerics:
        Squares are added in float32 over runs of 4096 (256 for a dimension other than the last) and in float64 across
        them. A vector whose mean square is outside (2^-90, 2^110) is multiplied by a power of two first, so no finite
        vector overflows or vanishes. One rounding to the output dtype. A vector with inf or NaN gives what the formula
        gives.

    Example:
        >>> import torch
        >>> from steepest.functional import l2_normalize
        >>> l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    check_floating(x, "l2_normalize")
    if x.dim() == 0:
        raise ValueError("l2_normalize normalizes a dimension, got a tensor without dimensions; reshape it")
    if not eps > 0:
        raise ValueError(f"l2_normalize expects eps > 0, got {eps}")
    if not -x.dim() <= dim < x.dim():
        raise IndexError(f"l2_normalize expects dim in [{-x.dim()}, {x.dim() - 1}], got {dim}")
    return _L2_NORMALIZE(x, dim % x.dim(), float(eps))
