# SPDX-License-Identifier: Apache-2.0
"""Kronecker factors: second moments of a matrix's rows and columns, their roots and their eigenvectors."""

import torch
from jaxtyping import Float
from torch import Tensor

LinAlgError = torch.linalg.LinAlgError  # pyright: ignore[reportPrivateImportUsage]
#: Above this size a Gram matrix is made of blocks, those above the diagonal being copies.
GRAM_BLOCK = 128


def add_gram_(
    factor: Float[Tensor, "batch m m"], rows: Float[Tensor, "batch m n"], *, decay: float, weight: float
) -> None:
    r"""Apply $L \leftarrow \text{decay} \cdot L + \text{weight} \cdot G G^\top$ in place.

    Only the blocks on and below the diagonal are multiplied: for large m half the arithmetic of a product.

    Args:
        factor: $L$, symmetric; changed.
        rows: $G$; not changed.
        decay: Of the earlier value.
        weight: Of the Gram matrix.
    """
    if factor.shape[-1] <= GRAM_BLOCK:
        factor.baddbmm_(rows, rows.mT, beta=decay, alpha=weight)
        return
    for one, own in zip(factor, rows, strict=True):
        _add_gram_blocks_(one, own, decay, weight)


def _add_gram_blocks_(factor: Tensor, rows: Tensor, decay: float, weight: float) -> None:
    size = len(factor)
    if size <= GRAM_BLOCK:
        factor.addmm_(rows, rows.mT, beta=decay, alpha=weight)
        return
    half = size // 2
    _add_gram_blocks_(factor[:half, :half], rows[:half], decay, weight)
    _add_gram_blocks_(factor[half:, half:], rows[half:], decay, weight)
    corner = factor[half:, :half]
    corner.addmm_(rows[half:], rows[:half].mT, beta=decay, alpha=weight)
    factor[:half, half:].copy_(corner.mT)


def eigh(factor: Float[Tensor, "batch n n"]) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n n"]]:
    """Return eigenvalues in falling order and eigenvectors of symmetric matrices, whatever they hold.

    Where the solver gives up, it tries again in float64, then with more and more on the diagonal; a matrix that is not
    finite has NaN for eigenvalues and the identity for eigenvectors.

    Args:
        factor: Symmetric; the lower triangle is read.
    """
    finite = factor.isfinite().all(-1).all(-1)
    whole = factor if bool(finite.all()) else torch.where(finite[:, None, None], factor, 0.0)
    values, vectors = _solve(whole)
    values, vectors = values.flip(-1).to(factor.dtype), vectors.flip(-1).to(factor.dtype)
    if whole is not factor:
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        values = torch.where(finite[:, None], values, torch.nan)
        vectors = torch.where(finite[:, None, None], vectors, eye)
    return values, vectors


def _solve(factor: Tensor) -> tuple[Tensor, Tensor]:
    try:
        return torch.linalg.eigh(factor)
    except LinAlgError:
        pass
    double = factor.double()
    size = double.diagonal(dim1=-2, dim2=-1).abs().amax(-1)[:, None, None]
    eye = torch.eye(factor.shape[-1], dtype=torch.float64, device=factor.device)
    for damping in (0.0, 1e-12, 1e-8):
        try:
            return torch.linalg.eigh(double + eye * (damping * size))
        except LinAlgError:
            continue
    return torch.linalg.eigh(torch.diag_embed(double.diagonal(dim1=-2, dim2=-1)))


def inverse_root_(
    root: Float[Tensor, "batch n n"], factor: Float[Tensor, "batch n n"], exponent: float, eps: float
) -> None:
    r"""Set the root to $V (\lambda + \epsilon \lambda_1)^{-p} V^\top$ for $L = V \lambda V^\top$.

    Args:
        root: Changed; it stays as it was where the factor is not finite.
        factor: $L$, symmetric, positive semi-definite up to rounding; zero has the identity for root.
        exponent: $p$ above 0.
        eps: $\epsilon$ at least 0, relative to the largest eigenvalue; no less than n units of rounding are taken.

    Numerics:
        Eigenvalues below zero count as zero, so that the root is never larger than $(\epsilon \lambda_1)^{-p}$.
    """
    values, vectors = eigh(factor)
    largest = values[:, :1].clamp_min(0)
    least = max(eps, values.shape[-1] * torch.finfo(values.dtype).eps)
    powers = (values.clamp_min(0) + least * largest).pow(-exponent)
    powers = torch.where(largest == 0, 1.0, powers)
    made = (vectors * powers[:, None, :]) @ vectors.mT
    usable = made.isfinite().all(-1).all(-1)
    root.copy_(made if bool(usable.all()) else torch.where(usable[:, None, None], made, root))


def power_step(
    factor: Float[Tensor, "batch n n"], basis: Float[Tensor, "batch n n"], *, sort: bool = True
) -> tuple[Float[Tensor, "batch n n"], Tensor]:
    r"""Return the basis after one step of orthogonal iteration, $\mathrm{qr}(L Q P)$, and the order of its columns.

    $P$ sorts the columns by their Rayleigh quotients $q_j^\top L q_j$, largest first.

    Args:
        factor: $L$, symmetric.
        basis: $Q$, orthogonal.
        sort: Whether to sort; without, $P$ is the identity.

    Returns:
        The new basis, and for each column its place in the old one. Both are the old where the factor is not finite.
    """
    product = factor @ basis
    quotients = torch.linalg.vecdot(basis, product, dim=-2)
    usable = quotients.isfinite().all(-1)
    order = torch.arange(basis.shape[-1], device=basis.device).expand_as(quotients)
    if sort:
        order = torch.where(usable[:, None], quotients.argsort(dim=-1, descending=True, stable=True), order)
        product = permuted(product, order, -1)
    if bool(usable.all()):
        return _orthonormal(product), order
    safe = torch.where(usable[:, None, None], product, basis)
    return torch.where(usable[:, None, None], _orthonormal(safe), basis), order


def _orthonormal(x: Tensor) -> Tensor:
    """The first factor of the QR decomposition, without the price of the second."""
    return torch.linalg.householder_product(*torch.geqrf(x))


def permuted(x: Float[Tensor, "batch m n"], order: Tensor, dim: int) -> Float[Tensor, "batch m n"]:
    """Return each matrix with its rows (dim -2) or columns (dim -1) in an order of its own.

    Args:
        x: Matrices.
        order: Places in the old order, (batch, m) or (batch, n).
        dim: Which dimension.
    """
    return torch.stack([one.index_select(dim, own) for one, own in zip(x, order, strict=True)])
