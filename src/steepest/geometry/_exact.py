# SPDX-License-Identifier: Apache-2.0
"""Exact matrix functions by LAPACK: the definitions that every faster iteration is measured against."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._inputs import check_input, one_where_zero
from .polar_exact import by_svd


def exact_polar(x: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
    r"""Return $U V^\top$ for each matrix $X = U \Sigma V^\top$ of a batch, by its singular value decomposition.

    Singular directions whose value is at most `eps * max(m, n)` times the largest one (NumPy's rank rule) map to zero,
    so the result is the partial isometry of a rank-deficient matrix and zero for a zero matrix. The default of the
    spectral norms; the same as `polar_factor(x, method="svd")`, which also has the faster ways.

    Args:
        x: Matrices, shape `(*batch, m, n)`, float16, bfloat16, float32 or float64.

    Returns:
        Same shape and dtype.

    Raises:
        TypeError: The dtype is not a real floating one.
        ValueError: Fewer than two dimensions, or an empty matrix.

    Numerics:
        Half precision is computed in float32. A matrix with NaN or infinite entries gives NaN, the others of the batch
        are unaffected.

    Example:
        >>> import torch
        >>> exact_polar(torch.tensor([[3.0, 0.0], [0.0, -0.1]]))
        tensor([[ 1.,  0.],
                [ 0., -1.]])
    """
    check_input(x, 2, "exact_polar")
    return by_svd(x.reshape(-1, *x.shape[-2:])).to(x.dtype).reshape(x.shape)


def kept_directions(s: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """Return 1.0 for singular values that count as nonzero (NumPy's `matrix_rank` rule), 0.0 for the rest."""
    floor = torch.finfo(s.dtype).eps * max(shape) * s[..., :1]
    return (s > floor).to(s.dtype)


def singular_values(x: Tensor) -> Tensor:
    """Return the singular values, descending; NaN or inf for a matrix that holds NaN or inf."""
    scaled, finite, unit = _scaled_finite(x)
    values = torch.linalg.svdvals(scaled) * unit[..., 0]
    return torch.where(finite[..., 0], values, _peak(x)[..., 0])


def largest_singular_value(x: Tensor) -> Tensor:
    """Return the largest singular value from the Gram matrix of the short side.

    Squaring costs the small singular values their accuracy, not the largest: its relative error stays of the order
    of the dtype's epsilon times the square root of the long side.
    """
    scaled, finite, unit = _scaled_finite(x)
    wide = scaled if x.shape[-2] <= x.shape[-1] else scaled.mT
    top = torch.linalg.eigvalsh(wide @ wide.mT)[..., -1].clamp(min=0).sqrt()
    return torch.where(finite[..., 0, 0], top * unit[..., 0, 0], _peak(x)[..., 0, 0])


def leading_pair(x: Tensor) -> Tensor:
    """Return $u_1 v_1^T$ of the largest singular value; zero for a zero matrix, NaN for one that is not finite."""
    scaled, finite, _ = _scaled_finite(x)
    tall = x.shape[-2] > x.shape[-1]
    wide = scaled.mT if tall else scaled
    left = torch.linalg.eigh(wide @ wide.mT).eigenvectors[..., -1:]
    right = left.mT @ wide
    length = torch.linalg.vector_norm(right, dim=-1, keepdim=True)
    pair = left @ (right / one_where_zero(length))
    return torch.where(finite, pair.mT if tall else pair, torch.nan)


def map_singular_values(x: Tensor, function) -> Tensor:
    """Return $U f(s) V^T$; `function` receives the singular values in units of each matrix's largest entry and it."""
    scaled, finite, unit = _scaled_finite(x)
    u, s, vh = torch.linalg.svd(scaled, full_matrices=False)
    return torch.where(finite, (u * function(s, unit[..., 0]).unsqueeze(-2)) @ vh, torch.nan)


def _peak(x: Tensor) -> Tensor:
    return x.abs().amax(dim=(-2, -1), keepdim=True)


def _scaled_finite(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices divided by their largest entry (zero where not finite), the finite mask and the divisor."""
    peak = _peak(x)
    finite = peak.isfinite()
    unit = torch.where(finite & (peak > 0), peak, torch.ones_like(peak))
    return torch.where(finite, x / unit, torch.zeros_like(x)), finite, unit
