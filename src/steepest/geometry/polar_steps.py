# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of polar iterations on a batch of wide matrices, in place and with few passes over memory."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

#: Symmetric products are computed by blocks of the lower triangle from this size on; below, one call is faster.
_BLOCKED_FROM = 448
_BLOCKS = 4

Row = Sequence[float]


def iterate(x: Tensor, rows: Sequence[Row], normalization: str, *, upper: float, restart: int) -> Tensor:
    """Apply a composition of odd polynomials to the singular values of normalized matrices.

    Args:
        x: Matrices `(batch, m, n)` with m <= n, of magnitude around 1; overwritten.
        rows: Coefficients of each step.
        normalization: How the largest singular value is brought to at most `upper`.
        upper: See above.
        restart: The polynomials of this many steps are accumulated on the m x m Gram matrix before they touch `x`.

    Returns:
        `(batch, m, n)`; may share memory with `x`.
    """
    if x.shape[0] > 1 and x.shape[1] >= _BLOCKED_FROM:
        for matrix in x.split(1):
            matrix.copy_(iterate(matrix, rows, normalization, upper=upper, restart=restart))
        return x
    if normalization == "frobenius":
        x.mul_(upper / _safe(_frobenius(x))).to(x.dtype)
    for first in range(0, len(rows), restart):
        scale_by = normalization if first == 0 and normalization != "frobenius" else None
        x = _chunk(x, rows[first : first + restart], scale_by, upper)
    return x


def _chunk(x: Tensor, rows: Sequence[Row], scale_by: str | None, upper: float) -> Tensor:
    gram = symmetric_product(x, x)
    square = None if scale_by is None else _rescale_(x, gram, scale_by, upper)
    if len(rows) == 1:
        return torch.baddbmm(x, _even_part(gram, rows[0], square), x, beta=rows[0][0])
    total = None
    for number, row in enumerate(rows):
        factor = _even_part(gram, row, square)
        square = None
        factor.diagonal(dim1=-2, dim2=-1).add_(row[0])
        # All of these commute, so that each product is symmetric.
        total = factor if total is None else symmetric_product(factor, total)
        if number + 1 < len(rows):
            gram = symmetric_product(factor, symmetric_product(gram, factor))
    assert total is not None
    return torch.bmm(total, x)


def _even_part(gram: Tensor, row: Row, square: Tensor | None) -> Tensor:
    """Return b A + c A^2 + d A^3 + e A^4 with two products at most; `gram` and `square` are left alone."""
    row = (*row, *(0.0,) * (5 - len(row)))
    if not any(row[2:]):
        return gram * row[1]
    if square is None:
        square = symmetric_product(gram, gram)
    even = torch.add(gram * row[1], square, alpha=row[2])
    if any(row[3:]):
        high = torch.add(gram * row[3], square, alpha=row[4])
        even += symmetric_product(square, high)
    return even


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """Return left @ right^T, knowing that it is symmetric: only the blocks of the lower triangle are multiplied.

    Args:
        left: `(batch, m, k)`.
        right: `(batch, m, k)`; `left @ right.mT` is symmetric.

    Returns:
        `(batch, m, m)`, exactly symmetric outside its diagonal blocks.
    """
    size = left.shape[1]
    if size < _BLOCKED_FROM or left.shape[0] > 1 or left.device.type != "cpu":
        return torch.bmm(left, right.mT)
    out = left.new_empty(size, size)
    a, b = left[0], right[0]
    # Multiples of 32 keep the blocks on whole vector registers.
    edges = [min(size, -(-size * i // (32 * _BLOCKS)) * 32) for i in range(_BLOCKS)] + [size]
    for top, bottom in itertools.pairwise(edges):
        torch.mm(a[top:bottom], b[:bottom].T, out=out[top:bottom, :bottom])
    for top, bottom in itertools.pairwise(edges):
        out[top:bottom, bottom:] = out[bottom:, top:bottom].T
    return out[None]


def _rescale_(x: Tensor, gram: Tensor, scale_by: str, upper: float) -> Tensor | None:
    """Scale x and its Gram matrix in place so that no singular value exceeds `upper`; return A^2 if it was needed."""
    if scale_by == "aol":
        rows = upper * _safe(_row_sums(gram)).rsqrt()[..., None]
        x.mul_(rows)
        gram.mul_(rows).mul_(rows.mT)
        return None
    square = None
    if scale_by == "spectral-bound":
        bound = torch.minimum(_row_sums(gram).amax(-1)[:, None, None], _frobenius(gram))
    elif scale_by == "schatten4":
        bound = _frobenius(gram)
    else:
        square = symmetric_product(gram, gram)
        bound = _frobenius(square).sqrt()
    # A matrix product rounds; the bound must stay one.
    factor = upper / _safe(bound * (1 + 2 * torch.finfo(x.dtype).eps)).sqrt()
    x.mul_(factor)
    gram.mul_(factor**2)
    return None if square is None else square.mul_(factor**4)


def _row_sums(gram: Tensor) -> Tensor:
    return gram.abs().sum(-1, dtype=torch.promote_types(gram.dtype, torch.float32))


def _frobenius(x: Tensor) -> Tensor:
    """Return the Frobenius norm of each matrix, `(batch, 1, 1)`, accumulated in float32 or better."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=dtype)


def _safe(divisor: Tensor) -> Tensor:
    """Return the divisor with 1 in the place of 0."""
    return torch.where(divisor == 0, 1.0, divisor)
