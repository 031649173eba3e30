# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of polar iterations on a batch of wide matrices, in place and with few passes over memory."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from steepest.geometry import polar_rates
from steepest.kernels import matrices

#: Symmetric products of this many multiplications are computed by blocks of the lower triangle; below, one call is
#: faster (AVX-512, float32 and bfloat16). Tiles (AMX) multiply bfloat16 so fast that blocks pay later.
_BLOCKED_FROM, _BLOCKED_FROM_ON_TILES = 60_000_000, 1_000_000_000
_BLOCKED_ROWS = 256
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
    if x.shape[0] > 1 and is_blocked(x.shape[1], x.shape[2], x.dtype):
        for matrix in x.split(1):
            matrix.copy_(iterate(matrix, rows, normalization, upper=upper, restart=restart))
        return x
    if x.dtype == torch.bfloat16 and restart == 1 and _fuses(rows, normalization) and matrices.has_kernel(x):
        return _fused_steps(x, rows, normalization, upper)
    if normalization == "frobenius":
        x.mul_(upper / _safe(_frobenius(x))).to(x.dtype)
    for first in range(0, len(rows), restart):
        scale_by = normalization if first == 0 and normalization != "frobenius" else None
        x = _chunk(x, rows[first : first + restart], scale_by, upper)
    return x


def _chunk(x: Tensor, rows: Sequence[Row], scale_by: str | None, upper: float) -> Tensor:
    gram = symmetric_product(x, x)
    if len(rows) == 1 and x.shape[0] == 1 and x.device.type == "cpu" and not torch.compiler.is_compiling():
        return _single_step(x, gram, rows[0], scale_by, upper)
    first = None if scale_by is None else _rescale_(x, gram, scale_by, upper, rows[0])
    if len(rows) == 1:
        even = _even_part(gram, rows[0]) if first is None else first
        return torch.baddbmm(x, even, x, beta=rows[0][0])
    total = None
    for number, row in enumerate(rows):
        factor = _even_part(gram, row) if first is None else first
        first = None
        factor.diagonal(dim1=-2, dim2=-1).add_(row[0])
        # All of these commute, so that each product is symmetric.
        total = factor if total is None else symmetric_product(factor, total)
        if number + 1 < len(rows):
            gram = symmetric_product(factor, symmetric_product(gram, factor))
    assert total is not None
    return torch.bmm(total, x)


def _fuses(rows: Sequence[Row], normalization: str) -> bool:
    """Say whether steps can do with the scaling by a length and with A and A^2."""
    scaling = {"frobenius": 2, "schatten4": 2, "schatten8": 3}.get(normalization)
    return scaling is not None and len(rows[0]) >= scaling and {*map(len, rows)} <= {2, 3}


def _fused_steps(x: Tensor, rows: Sequence[Row], scale_by: str, upper: float) -> Tensor:
    """Do steps in bfloat16 with one sweep over memory beside the products, and the scaling folded in.

    What multiplies x is rounded once, after the first coefficient has been added to its diagonal.
    """
    batch, m, n = x.shape
    if batch == 1 and not is_blocked(m, n, x.dtype):
        x = x[0]  # the function for one matrix takes up to a quarter less time
    multiply = torch.bmm if x.ndim == 3 else torch.mm
    symmetric = symmetric_product if is_blocked(m, n, x.dtype) else lambda left, right: multiply(left, right.mT)
    inner = symmetric if is_blocked(m, m, x.dtype) else multiply
    padded = [(*row, 0.0)[:3] for row in rows]
    for step, row in enumerate(rows):
        gram = symmetric(x, x)
        square = inner(gram, gram) if len(row) == 3 else None
        numbers = padded[step : step + 1] * batch
        if step == 0:
            of, root = {"frobenius": (x, 2), "schatten4": (gram, 4), "schatten8": (square, 8)}[scale_by]
            # A matrix product rounds; the bound must stay one.
            slack = 1.0 if of is x else 1 + torch.finfo(x.dtype).eps
            lengths = (norm ** (1 / root) * slack for norm in matrices.squared_norms(of).view(-1).tolist())
            factors = [upper / length if length else upper for length in lengths]
            numbers = [[value * f ** (2 * k + 1) for k, value in enumerate(padded[0])] for f in factors]
        numbers = torch.tensor(numbers, dtype=torch.float32, device="cpu")
        x = multiply(matrices.polynomial(gram, square, numbers), x)
    return x.view(batch, m, n)


def _single_step(x: Tensor, gram: Tensor, row: Row, scale_by: str | None, upper: float) -> Tensor:
    """Do one step on one matrix, with the scaling folded into the coefficients: no pass over memory of its own."""
    factor, square = 1.0, None
    if scale_by == "aol":
        _rescale_(x, gram, scale_by, upper, row)
    elif scale_by is not None:
        bound, square = _squared_bound(gram, scale_by)
        factor = upper / math.sqrt(float(bound)) if float(bound) != 0 else 1.0
    row = tuple(value * factor ** (2 * k + 1) for k, value in enumerate(row))
    if len(row) != 3 or not row[1]:
        return torch.baddbmm(x, _even_part(gram, row, square), x, beta=row[0])
    a, b, c = row
    if square is None and not is_blocked(gram.shape[1], gram.shape[2], gram.dtype):
        even = torch.baddbmm(gram, gram, gram, alpha=c / b)
    else:
        even = torch.add(gram, symmetric_product(gram, gram) if square is None else square, alpha=c / b)
    return torch.baddbmm(x, even, x, beta=a, alpha=b)


def _even_part(gram: Tensor, row: Row, square: Tensor | None = None) -> Tensor:
    """Return b A + c A^2 + d A^3 + e A^4 with two products at most, rounding as seldom as can be."""
    _, b, c, d, e = (*row, *(0.0,) * (5 - len(row)))
    if not (c or d or e):
        return gram * b
    if square is None and not (d or e):
        return symmetric_product(gram, gram, add=gram, beta=b, alpha=c)
    if square is None:
        square = symmetric_product(gram, gram)
    low = _combine(gram, b, square, c)
    if not (d or e):
        return low
    return symmetric_product(square, _combine(gram, d, square, e), add=low)


def _combine(gram: Tensor, first: float | Tensor, square: Tensor, second: float | Tensor) -> Tensor:
    """Return first A + second A^2, rounded once."""
    wide = torch.promote_types(gram.dtype, torch.float32)
    work = gram.to(wide, copy=True).mul_(first)
    if isinstance(second, Tensor):
        return work.addcmul_(square.to(wide), second.to(wide)).to(gram.dtype)
    return work.add_(square, alpha=second).to(gram.dtype)


def is_blocked(m: int, k: int, dtype: torch.dtype) -> bool:
    """Say whether the product of an m x k matrix with its transpose is computed by blocks.

    Args:
        m: Rows.
        k: Columns.
        dtype: Of the matrix.

    Returns:
        True from 256 rows and 6e7 multiplications on; 1e9 in bfloat16 on a processor with AMX.
    """
    least = _BLOCKED_FROM_ON_TILES if dtype == torch.bfloat16 and polar_rates.has_tiles() else _BLOCKED_FROM
    return m >= _BLOCKED_ROWS and m * m * k >= least


def symmetric_product(
    left: Tensor, right: Tensor, *, add: Tensor | None = None, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """Return beta add + alpha left @ right^T, a symmetric matrix: only blocks of the lower triangle are multiplied.

    Args:
        left: `(batch, m, k)`.
        right: `(batch, m, k)`; `left @ right.mT` is symmetric.
        add: `(batch, m, m)`, symmetric; nothing when None.
        beta: Factor of `add`.
        alpha: Factor of the product when there is an `add`.

    Returns:
        `(batch, m, m)`, exactly symmetric outside its diagonal blocks.
    """
    _, size, length = left.shape
    if not is_blocked(size, length, left.dtype) or left.shape[0] > 1 or left.device.type != "cpu":
        if add is None:
            return torch.bmm(left, right.mT)
        return torch.baddbmm(add, left, right.mT, beta=beta, alpha=alpha)
    out = left.new_empty(size, size)
    a, b = left[0], right[0]
    # Multiples of 32 keep the blocks on whole vector registers.
    edges = [min(size, -(-size * i // (32 * _BLOCKS)) * 32) for i in range(_BLOCKS)] + [size]
    for top, bottom in itertools.pairwise(edges):
        block = out[top:bottom, :bottom]
        if add is None:
            torch.mm(a[top:bottom], b[:bottom].T, out=block)
        else:
            torch.addmm(add[0, top:bottom, :bottom], a[top:bottom], b[:bottom].T, beta=beta, alpha=alpha, out=block)
    for top, bottom in itertools.pairwise(edges):
        out[top:bottom, bottom:] = out[bottom:, top:bottom].T
    return out[None]


def _rescale_(x: Tensor, gram: Tensor, scale_by: str, upper: float, row: Row) -> Tensor | None:
    """Scale x and its Gram matrix in place so that no singular value exceeds `upper`.

    Returns the even part of the first step when the scaling needed A^2 anyway.
    """
    if scale_by == "aol":
        rows = upper * _safe(_row_sums(gram)).rsqrt()[..., None]
        x.mul_(rows)
        gram.mul_(rows).mul_(rows.mT)
        return None
    bound, square = _squared_bound(gram, scale_by)
    factor = upper / _safe(bound).sqrt()
    x.mul_(factor)
    if square is not None and len(row) <= 3:
        even = _combine(gram, row[1] * factor**2, square, (*row, 0.0)[2] * factor**4)
        gram.mul_(factor**2)
        return even
    gram.mul_(factor**2)
    return None if square is None else _even_part(gram, row, square.mul_(factor**4))


def _squared_bound(gram: Tensor, scale_by: str) -> tuple[Tensor, Tensor | None]:
    """Return a bound on the largest eigenvalue of each Gram matrix, and A^2 when it was needed."""
    square = None
    if scale_by == "spectral-bound":
        bound = torch.minimum(_row_sums(gram).amax(-1)[:, None, None], _frobenius(gram))
    elif scale_by == "schatten4":
        bound = _frobenius(gram)
    else:
        square = symmetric_product(gram, gram)
        bound = _frobenius(square).sqrt()
    # A matrix product rounds; the bound must stay one.
    return bound * (1 + 2 * torch.finfo(gram.dtype).eps), square


def largest_entry(x: Tensor) -> Tensor:
    """Return max |x_ij| of each matrix, NaN where there is one.

    Args:
        x: `(batch, m, n)`.

    Returns:
        `(batch, 1, 1)`.
    """
    # Several times faster than vector_norm(x, inf) on a CPU.
    return torch.maximum(x.amax((-2, -1), keepdim=True), -x.amin((-2, -1), keepdim=True))


def _row_sums(gram: Tensor) -> Tensor:
    return gram.abs().sum(-1, dtype=torch.promote_types(gram.dtype, torch.float32))


def _frobenius(x: Tensor) -> Tensor:
    """Return the Frobenius norm of each matrix, `(batch, 1, 1)`, accumulated in float32 or better."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=dtype)


def _safe(divisor: Tensor) -> Tensor:
    """Return the divisor with 1 in the place of 0."""
    return torch.where(divisor == 0, 1.0, divisor)
