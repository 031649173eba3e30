# SPDX-License-Identifier: Apache-2.0
"""What stands between the products of a polar iteration in bfloat16, one sweep over memory each.

Where the processor multiplies bfloat16 matrices at a TFLOP/s or so, these sweeps in torch took as long as the products.
"""

import torch
from torch import Tensor

from steepest.kernels import _matrices
from steepest.kernels._memory import empty
from steepest.kernels._op import KERNEL, route
from steepest.kernels._pool import spread

#: Nanoseconds an entry takes, for the decision on threads.
_READ, _CONVERT, _TURN = 0.1, 0.3, 0.6


def has_kernel(x: Tensor) -> bool:
    """Say whether the functions here can take a tensor.

    Args:
        x: Matrices in float32 or bfloat16.

    Returns:
        True for ordinary tensors on a CPU that no transform, compiler or mode looks at.
    """
    return x.dtype in (torch.float32, torch.bfloat16) and route(x) is KERNEL


def normalized(x: Tensor, *, transpose: bool) -> Tensor:
    r"""Return each matrix divided by its largest entry, in bfloat16.

    Args:
        x: `(batch, m, n)`, float32; see `has_kernel`.
        transpose: Whether to return the transposes.

    Returns:
        `(batch, m, n)` or `(batch, n, m)`, contiguous. A matrix of zeros stays; NaN gives NaN everywhere, infinity
        gives NaN in its place and 0 or NaN elsewhere.
    """
    x = x.contiguous()
    batch, m, n = x.shape
    tops = torch.empty(batch, m, dtype=torch.float32, device="cpu")
    spread(_matrices.largest_of_rows.run, batch * m, _READ * n, x.data_ptr(), tops.data_ptr(), n)
    tops = tops.amax(-1)
    tops = torch.where(tops == 0, 1.0, tops)
    y = empty((batch, n, m) if transpose else (batch, m, n), torch.bfloat16)
    addresses = x.data_ptr(), tops.data_ptr(), y.data_ptr(), m, n
    if transpose:
        tiles = -(-n // _matrices.COLUMNS)
        spread(_matrices.narrow_columns.run, batch * tiles, _TURN * m * _matrices.COLUMNS, *addresses)
    else:
        spread(_matrices.narrow_rows.run, batch * m, _CONVERT * n, *addresses)
    return y


def squared_norms(x: Tensor) -> Tensor:
    """Return the squared Frobenius norm of each matrix.

    Args:
        x: `(*batch, m, n)`, bfloat16, contiguous.

    Returns:
        `(*batch,)`, float64.
    """
    rows = torch.empty(x.shape[:-1], dtype=torch.float64, device="cpu")
    n = x.shape[-1]
    spread(_matrices.squared_rows.run, rows.numel(), _READ * n, x.data_ptr(), rows.data_ptr(), n)
    return rows.sum(-1)


def polynomial(gram: Tensor, square: Tensor | None, numbers: Tensor) -> Tensor:
    """Return a I + b A + c A^2, computed in float32 and rounded once.

    Args:
        gram: A, `(*batch, m, m)`, bfloat16, contiguous.
        square: A^2, likewise; overwritten by the result. None where every c is 0.
        numbers: a, b and c of each matrix, in their order, float32, contiguous.

    Returns:
        Shape of `gram`.
    """
    m = gram.shape[-1]
    out, other = (torch.empty_like(gram), gram) if square is None else (square, square)
    addresses = gram.data_ptr(), other.data_ptr(), numbers.data_ptr(), out.data_ptr(), m
    spread(_matrices.polynomial_rows.run, gram.numel() // m, _CONVERT * m, *addresses)
    return out
