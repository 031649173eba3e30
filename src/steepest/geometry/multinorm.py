# SPDX-License-Identifier: Apache-2.0
"""Multi-normalization: alternate the normalizations of several norms towards a common fixed point."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ._inputs import check_budget, compute_tensor, l2_length, one_where_zero, trailing
from .norm import Norm


class Normalized(NamedTuple):
    """What an iterative normalization returns: the result, and how far it got.

    Args:
        x: The normalized tensor, shape and dtype of the input.
        residual: Distance from the fixed point, one number for each element of the batch; each function says which.
        steps: Passes that were made.
        converged: `residual <= tol` for each element; all False when no `tol` was given and none was tested.
    """

    x: Tensor
    residual: Float[Tensor, "*batch"]
    steps: int
    converged: Bool[Tensor, "*batch"]


def alternate(
    norms: Sequence[Norm], x: Float[Tensor, "*shape"], steps: int = 5, tol: float | None = None
) -> Normalized:
    r"""Normalize `x` under each norm in turn, `steps` times over (multi-normalized gradient descent).

    One pass applies $P_k(x) = -\mathrm{lmo}_k(x)$ for each norm in order: the point of norm $k$'s unit sphere that is
    best aligned with `x`. Examples:

    - `[RowNorm(rms=True), ColumnNorm(rms=True)]` is SinkGD: rows of length $\sqrt n$, columns of length $\sqrt m$;
    - `[RowNorm(rms=True), Spectral()]` with `steps=1` is SWAN up to its scale.

    Args:
        norms: At least one, all on the same number of dimensions.
        x: Any shape the norms take, batched.
        steps: The largest number of passes, at least 1.
        tol: Stop after the pass at which every element has `residual <= tol`; by default all passes are made.

    Returns:
        `Normalized(x, residual, steps, converged)`. The residual is that of the returned point,
        $\max_k \|P_k(x) - x\|_F / \|x\|_F$; it is zero for a zero element. A common fixed point need not exist
        (a matrix with zero rows has none under rows and columns), and then the residual says so.

    Raises:
        ValueError: No norms, norms on different numbers of dimensions, `steps < 1`, a negative `tol`.

    Numerics:
        Half precision is carried in float32 through all passes and rounded once at the end. NaN propagates and is
        never converged.

    Example:
        >>> import torch
        >>> from steepest.geometry import ColumnNorm, RowNorm
        >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> done = alternate([RowNorm(rms=True), ColumnNorm(rms=True)], x, steps=50, tol=1e-6)
        >>> bool(done.converged), done.steps < 20
        (True, True)

    References:
        Scetbon et al. (2025), Gradient multi-normalization for stateless and scalable LLM training, arXiv 2502.06742.
    """
    dims = _check_alternation(norms, steps, tol)
    current = compute_tensor(x, dims, "alternate")
    made = 0
    residual = None
    while made < steps:
        for norm in norms:
            current = -norm.lmo(current)
        made += 1
        if tol is not None:
            residual = _residual(norms, current, dims)
            if bool((residual <= tol).all()):
                break
    residual = _residual(norms, current, dims) if residual is None else residual
    converged = residual <= tol if tol is not None else torch.zeros_like(residual, dtype=torch.bool)
    return Normalized(current.to(x.dtype), residual, made, converged)


def _check_alternation(norms: Sequence[Norm], steps: int, tol: float | None) -> int:
    sizes = {norm.element_dims for norm in norms}
    if len(sizes) != 1:
        raise ValueError(f"alternate needs at least one norm, all on the same number of dimensions; got {list(norms)}")
    check_budget(steps, tol)
    return sizes.pop()


def _residual(norms: Sequence[Norm], x: Tensor, dims: int) -> Tensor:
    """Return the largest relative move that one more normalization would make."""
    size = one_where_zero(l2_length(x, trailing(dims)))
    moves = [l2_length((norm.lmo(x) + x) / size, trailing(dims)) for norm in norms]
    return torch.stack(moves).amax(0).flatten(x.ndim - dims).squeeze(-1)
