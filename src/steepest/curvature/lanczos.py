# SPDX-License-Identifier: Apache-2.0
"""Extreme eigenvalues of an operator by the Lanczos method."""

from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from steepest.curvature.operator import Operator

Which = Literal["largest", "smallest", "both"]


class Eigenvalues(NamedTuple):
    r"""Eigenvalues of a symmetric operator.

    Args:
        values: float64, rising; shape `(count,)`, or `(2 count,)` for both ends.
        residuals: $|A v - \theta v|$ for each, with |v| = 1: an eigenvalue of $A$ lies within it of the value.
        converged: Whether every residual is within the tolerance.
        steps: Lanczos steps, one product each.
        vectors: One column for each value, of the operator's dtype.
    """

    values: np.ndarray
    residuals: np.ndarray
    converged: bool
    steps: int
    vectors: Float[Tensor, "size count"]


def extreme_eigenvalues(
    operator: Operator,
    *,
    count: int = 1,
    which: Which = "both",
    tol: float | None = None,
    max_steps: int = 200,
    seed: int = 0,
) -> Eigenvalues:
    r"""Return the largest and smallest eigenvalues of a symmetric operator.

    Lanczos builds an orthonormal basis $V$ of the Krylov space of a random vector, in which the operator is a
    tridiagonal matrix $T$; the extreme eigenvalues of $T$ converge to those of the operator from inside. Every new
    vector is made orthogonal to all before it, twice, so that no eigenvalue is found more often than it is there.

    Args:
        operator: From `hessian`, `ggn`, or any `Operator`.
        count: Eigenvalues at each end, at least 1.
        which: "largest", "smallest" or "both".
        tol: Residuals are to be at most this times the largest $|\theta|$; None takes $\epsilon^{2/3}$ of the dtype,
            4e-11 in float64 and 2e-5 in float32.
        max_steps: At most so many products and kept vectors; the size of the operator is a limit by itself.
        seed: Of the first vector.

    Returns:
        Values, residuals, whether they converged, steps, eigenvectors.

    Raises:
        ValueError: If a number is out of range, a product is not finite, or the operator has fewer eigenvalues.

    Numerics:
        Vectors are of the operator's dtype, the tridiagonal matrix is float64. Residuals are measured by one more
        product each. The distance to the eigenvalue is at most the residual, and of the order of its square over the
        gap to the next. An eigenvalue of multiplicity above 1 counts once, unless the whole space is used up: then the
        method goes on with a new vector and finds all. Where it did not converge, the extremes are still bounds:
        the largest value is at most the largest eigenvalue (up to rounding).

    Example:
        >>> curvatures = torch.linspace(1.0, 100.0, 500, dtype=torch.float64)
        >>> found = extreme_eigenvalues(Operator(500, lambda v: curvatures * v, torch.float64))
        >>> found.values.round(6).tolist(), found.converged
        ([1.0, 100.0], True)

    References:
        Lanczos (1950), An iteration method for the solution of the eigenvalue problem. Parlett (1998), The symmetric
        eigenvalue problem, chapter 13.
    """
    wanted = count * (2 if which == "both" else 1)
    if which not in get_args(Which):
        raise ValueError(f"which: expected one of {', '.join(get_args(Which))}, got {which!r}")
    if count < 1 or max_steps < 1 or (tol is not None and not tol > 0):
        raise ValueError(f"expected count and max_steps of at least 1 and tol above 0, got {count}, {max_steps}, {tol}")
    if wanted > operator.size:
        raise ValueError(f"asked for {wanted} eigenvalues of an operator of size {operator.size}")
    relative = float(torch.finfo(operator.dtype).eps ** (2 / 3) if tol is None else tol)
    basis, diagonal, beside = _first_vector(operator, seed), [], []
    limit = min(max_steps, operator.size)
    while True:
        done = _lanczos_step(operator, basis, diagonal, beside, seed)
        steps = len(diagonal)
        if steps == limit or (steps >= wanted and (done or steps % 5 == 0) and steps < limit):
            values, small = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
            picked = _picked(steps, min(count, steps), which)
            estimates = np.abs(beside[-1] * small[-1, picked])
            if steps == limit or (estimates <= 0.3 * relative * np.abs(values).max()).all():
                break
    return _measured(operator, torch.stack(basis[:steps], 1), values[picked], small[:, picked], relative, wanted)


def _first_vector(operator: Operator, seed: int) -> list[Tensor]:
    return [_random(operator, seed)]


def _random(operator: Operator, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(operator.size, generator=generator, dtype=torch.float64)
    return (v / v.norm()).to(operator.device, operator.dtype)


def _lanczos_step(
    operator: Operator, basis: list[Tensor], diagonal: list[float], beside: list[float], seed: int
) -> bool:
    """Add a row to the tridiagonal matrix and a vector to the basis; return whether the space was used up."""
    last = basis[-1]
    product = operator @ last
    if not product.isfinite().all():
        raise ValueError("a product of the operator is not finite; look at the model's loss and gradients first")
    diagonal.append(float(torch.dot(product.double(), last.double())))
    new = _orthogonal(product, basis)
    length = float(new.double().norm())
    scale = max(map(abs, [*diagonal, *beside]), default=0.0)
    used_up = length <= 10 * torch.finfo(operator.dtype).eps * scale
    if used_up and len(basis) < operator.size:
        # The space is invariant: the rest of the spectrum is in its complement.
        new = _orthogonal(_random(operator, seed + len(basis)), basis)
    beside.append(0.0 if used_up else length)
    basis.append(new / new.norm().clamp_min(torch.finfo(new.dtype).tiny))
    return used_up


def _orthogonal(v: Tensor, basis: list[Tensor]) -> Tensor:
    """The part of a vector that is orthogonal to the basis; twice is enough (Kahan)."""
    V = torch.stack(basis)
    for _ in range(2):
        v = v - V.T @ (V @ v)
    return v


def _picked(size: int, count: int, which: Which) -> np.ndarray:
    low, high = np.arange(count), np.arange(size - count, size)
    return low if which == "smallest" else high if which == "largest" else np.unique(np.concatenate([low, high]))


def _measured(
    operator: Operator, basis: Tensor, values: np.ndarray, small: np.ndarray, tol: float, wanted: int
) -> Eigenvalues:
    vectors = basis @ torch.from_numpy(small).to(basis)
    vectors = vectors / vectors.norm(dim=0)
    products = torch.stack([operator @ v for v in vectors.T], 1)
    residuals = (products.double() - vectors.double() * torch.from_numpy(values).to(vectors.device)).norm(dim=0)
    found = residuals.cpu().numpy()
    converged = len(values) == wanted and bool((found <= tol * np.abs(values).max()).all())
    return Eigenvalues(values, found, converged, basis.shape[1], vectors)
