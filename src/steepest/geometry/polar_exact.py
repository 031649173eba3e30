# SPDX-License-Identifier: Apache-2.0
"""The polar factor by factorization: singular value decomposition, or eigenvalues of the small Gram matrix."""

from collections.abc import Callable

import torch
from torch import Tensor

from steepest.geometry.polar_steps import largest_entry, symmetric_product

#: A float32 Gram matrix serves when its smallest eigenvalue is above this share of the largest (condition 7).
_WELL_CONDITIONED = 0.02
#: It is only tried when the long side is this many times the short one: a square matrix is rarely so well conditioned.
_WIDE = 2


def by_svd(x: Tensor) -> Tensor:
    """Return U V^T from the singular value decomposition.

    Args:
        x: Real floating point matrices `(batch, m, n)`.

    Returns:
        Same shape, float32 or float64. Directions whose singular value is below max(m, n) eps of the largest are left
        out. Matrices with NaN or inf become NaN.
    """
    return _apart_from_nonfinite(x, _svd)


def by_eigh(x: Tensor) -> Tensor:
    """Return (X X^T)^(-1/2) X by the eigenvalues of the smaller Gram matrix.

    The Gram matrix is float64, so that its squared condition costs a float32 matrix nothing. Where the long side is
    at least twice the short one, a float32 Gram matrix is tried first and kept for the matrices of condition below 7.

    Args:
        x: Real floating point matrices `(batch, m, n)`.

    Returns:
        Same shape, float32 or float64; see `by_svd` for small singular values, NaN and inf. For float64 input the
        error is about 1e-16 times the condition squared.
    """
    return _apart_from_nonfinite(x, _wide_eigh)


def _apart_from_nonfinite(x: Tensor, method: Callable[[Tensor], Tensor]) -> Tensor:
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = largest_entry(x)
    finite = largest.isfinite()
    if finite.all():
        return method(x / torch.where(largest > 0, largest, 1.0))
    # LAPACK raises on NaN, for the whole batch.
    clean = torch.where(finite, x, 0.0) / torch.where(finite & (largest > 0), largest, 1.0)
    return torch.where(finite, method(clean), torch.nan)


def _cut_off(x: Tensor) -> float:
    return max(x.shape[-2:]) * torch.finfo(x.dtype).eps


def _svd(x: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    kept = s > _cut_off(x) * s[..., :1]
    return (u * kept[..., None, :]) @ vh


def _wide_eigh(x: Tensor) -> Tensor:
    if x.shape[-2] > x.shape[-1]:
        return _wide_eigh(x.mT).mT
    if x.dtype == torch.float64 or x.shape[-1] < _WIDE * x.shape[-2]:
        return _eigh(x, torch.float64)[0]
    out, condition = _eigh(x, torch.float32)
    poor = condition < _WELL_CONDITIONED
    if poor.any():
        out[poor] = _eigh(x[poor], torch.float64)[0]
    return out


def _eigh(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the polar factors and, for each matrix, the smallest over the largest eigenvalue."""
    work = x.to(dtype)
    values, vectors = torch.linalg.eigh(symmetric_product(work, work))
    largest = values[..., -1:]
    noise = x.shape[-2] * torch.finfo(dtype).eps
    kept = values > max(_cut_off(x) ** 2, noise) * largest
    roots = torch.where(kept, values, 1.0).rsqrt() * kept
    factor = (vectors * roots[..., None, :]) @ vectors.mT
    return (factor @ work).to(x.dtype), values[..., 0] / largest[..., 0].clamp_min(torch.finfo(dtype).tiny)
