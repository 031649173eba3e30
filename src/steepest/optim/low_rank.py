# SPDX-License-Identifier: Apache-2.0
"""What methods in a subspace of the short side of a matrix share."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def short_last(x: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch long short"]:
    """Return a view whose last dimension is the short side: the columns of a square matrix."""
    return x if x.shape[-2] >= x.shape[-1] else x.mT


def lift(
    coefficients: Float[Tensor, "batch long r"], basis: Float[Tensor, "batch short r"], *, wide: bool
) -> Float[Tensor, "batch m n"]:
    r"""Return $S B^\top$, transposed where the matrix is wide: contiguous in its own layout.

    Args:
        coefficients: $S$.
        basis: $B$.
        wide: Whether the matrix has fewer rows than columns.
    """
    return basis @ coefficients.mT if wide else coefficients @ basis.mT


def take_off_(
    x: Float[Tensor, "batch m n"],
    coefficients: Float[Tensor, "batch long r"],
    basis: Float[Tensor, "batch short r"],
    factor: float = 1.0,
) -> None:
    r"""Subtract a multiple of the lifted coefficients in place, without another matrix.

    Args:
        x: Changed.
        coefficients: $S$ of `short_last(x)`.
        basis: $B$.
        factor: Of what is taken off.
    """
    if x.shape[-2] < x.shape[-1]:
        x.baddbmm_(basis, coefficients.mT, alpha=-factor)
    else:
        x.baddbmm_(coefficients, basis.mT, alpha=-factor)


def kept_columns(
    before: Int[Tensor, "batch r"], now: Int[Tensor, "batch r"]
) -> tuple[Int[Tensor, "batch r"], Bool[Tensor, "batch r"]]:
    """Return where each column was among those of before, and whether it was there.

    Args:
        before: Indices, ascending.
        now: Indices, ascending.

    Example:
        >>> place, kept = kept_columns(torch.tensor([[1, 4]]), torch.tensor([[4, 5]]))
        >>> int(place[0, 0]), kept.tolist()
        (1, [[True, False]])
    """
    place = torch.searchsorted(before, now).clamp_(max=before.shape[-1] - 1)
    return place, before.gather(-1, place) == now


def move_columns_(
    moment: Float[Tensor, "batch long r"], place: Int[Tensor, "batch r"], kept: Bool[Tensor, "batch r"]
) -> None:
    r"""Carry a moment into another choice of columns of one orthogonal basis, in place.

    The change of basis between two choices is a partial permutation, so this equals
    `moment @ change_of_basis(before, now)` without a rounding error, and the absolute value that a general rotation of
    second moments needs does nothing.

    Args:
        moment: Changed.
        place: From `kept_columns`.
        kept: From `kept_columns`; the other columns become zero.
    """
    carried = moment.gather(-1, place.unsqueeze(-2).expand_as(moment))
    moment.copy_(carried.masked_fill_(~kept.unsqueeze(-2), 0.0))
