# SPDX-License-Identifier: Apache-2.0
"""Low-rank subspaces of the row space of a matrix: choose, project, lift, and keep the error for the next step."""

import abc
import dataclasses
import functools
from typing import Literal, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ._inputs import check_input, compute_tensor
from .dct import dct, dct_matrix


class Projection(NamedTuple):
    r"""A matrix in a subspace of its rows: $A \approx S B^\top$ with orthonormal columns in $B$.

    Args:
        coefficients: $S = A B$, shape `(*batch, m, r)`.
        basis: $B$, shape `(*batch, n, r)`.
        indices: Which columns of a fixed basis were taken, ascending, shape `(*batch, r)`; None for a computed basis.
    """

    coefficients: Float[Tensor, "*batch m r"]
    basis: Float[Tensor, "*batch n r"]
    indices: Int[Tensor, "*batch r"] | None = None

    def lift(self, coefficients: Float[Tensor, "*batch m r"] | None = None) -> Float[Tensor, "*batch m n"]:
        r"""Return $S B^\top$ for the given coefficients (an update computed in the subspace), or for its own."""
        return (self.coefficients if coefficients is None else coefficients) @ self.basis.mT


class Subspace(abc.ABC):
    """A way to choose an r-dimensional subspace of the row space of $(m, n)$ matrices.

    The long side stays, the last dimension is compressed; transpose a matrix whose rows are the side to compress.
    """

    @final
    def project(
        self, a: Float[Tensor, "*batch m n"], rank: int, *, generator: torch.Generator | None = None
    ) -> Projection:
        """Choose a subspace for each matrix and return the matrix's coefficients in it.

        Args:
            a: Matrices, shape `(*batch, m, n)`.
            rank: Dimension of the subspace, 1 to n.
            generator: Source of the random subspaces' numbers (torch's global one by default); refused by the others.

        Returns:
            A `Projection` in float32 for half-precision input, in its own dtype otherwise. A matrix with NaN or inf
            gets NaN coefficients; the other matrices of the batch are unaffected.

        Raises:
            TypeError: The dtype is not a real floating one.
            ValueError: An empty matrix, a rank outside 1 to n, or a generator where nothing is random.
        """
        work = compute_tensor(a, 2, f"{type(self).__name__}.project")
        if not isinstance(rank, int) or not 1 <= rank <= work.shape[-1]:
            raise ValueError(f"rank must be an int from 1 to n={work.shape[-1]}, got {rank!r}")
        if generator is not None and not self._random:
            raise ValueError(f"{type(self).__name__} is deterministic and takes no generator")
        finite = work.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        found = self._project(torch.where(finite, work, 0.0), rank, generator)
        return found._replace(coefficients=torch.where(finite, found.coefficients, torch.nan))

    @property
    def _random(self) -> bool:
        return False

    @abc.abstractmethod
    def _project(self, a: Tensor, rank: int, generator: torch.Generator | None) -> Projection: ...


@final
@dataclasses.dataclass(frozen=True)
class DCTSubspace(Subspace):
    r"""The `rank` cosines on which the matrix has the largest coefficients: a fixed basis, no decomposition.

    Args:
        order: Size of a column of coefficients: its l1 norm (1, the choice of Trion and DCT-AdamW) or its l2 norm (2,
            which minimizes the Frobenius error).
        method: `"matrix"` multiplies by the cosines, `"fft"` uses `dct`; the same basis and the same result up to
            rounding. `"auto"` takes the FFT from n = 1024.

    Numerics:
        Equal columns are ordered by index, so the choice is deterministic.

    Example:
        >>> import torch
        >>> DCTSubspace().project(torch.ones(2, 4), 1).coefficients
        tensor([[2.],
                [2.]])

    References:
        Modoranu et al. (2025), arXiv 2505.17967.
    """

    order: Literal[1, 2] = 1
    method: Literal["auto", "matrix", "fft"] = "auto"

    def __post_init__(self) -> None:
        if self.method not in ("auto", "matrix", "fft"):
            raise ValueError(f"method must be 'auto', 'matrix' or 'fft', got {self.method!r}")
        _check_order(self.order)

    def at(self, a: Float[Tensor, "*batch m n"], indices: Int[Tensor, "*batch r"]) -> Projection:
        """Return the coefficients of matrices in cosines that were chosen before.

        Args:
            a: Matrices, shape `(*batch, m, n)`.
            indices: As an earlier `Projection` has them.

        Example:
            >>> import torch
            >>> DCTSubspace().at(torch.ones(2, 4), torch.tensor([0])).coefficients
            tensor([[2.],
                    [2.]])
        """
        work = compute_tensor(a, 2, "DCTSubspace.at")
        basis = _cosines(work.shape[-1], work.dtype, work.device).mT[indices].mT
        return Projection(work @ basis, basis, indices)

    def _project(self, a: Tensor, rank: int, generator: torch.Generator | None) -> Projection:
        n = a.shape[-1]
        cosines = _cosines(n, a.dtype, a.device)
        fast = self.method == "fft" or (self.method == "auto" and n >= 1024)
        spectrum = dct(a) if fast else a @ cosines
        indices = select_top(spectrum, rank, order=self.order)
        coefficients = spectrum.gather(-1, indices.unsqueeze(-2).expand(*spectrum.shape[:-1], rank))
        return Projection(coefficients, cosines.mT[indices].mT, indices)


@final
@dataclasses.dataclass(frozen=True)
class SVDSubspace(Subspace):
    """The leading right singular vectors: the smallest possible Frobenius error (GaLore's choice).

    Example:
        >>> import torch
        >>> SVDSubspace().project(torch.diag(torch.tensor([1.0, 3.0])), 1).lift() + 0.0
        tensor([[0., 0.],
                [0., 3.]])
    """

    def _project(self, a: Tensor, rank: int, generator: torch.Generator | None) -> Projection:
        # Rank may exceed the number of rows; only then are the null-space vectors needed.
        right = torch.linalg.svd(a, full_matrices=rank > a.shape[-2]).Vh[..., :rank, :].mT
        return Projection(a @ right, right)


@final
@dataclasses.dataclass(frozen=True)
class RandomizedSubspace(Subspace):
    r"""An approximation to the leading right singular vectors from a random sketch of the rows.

    The range of $(A^\top A)^p A^\top \Omega$ for a Gaussian $\Omega$ with `rank + oversample` columns,
    re-orthogonalized at each power, then the leading vectors of $A$ inside it.

    Args:
        oversample: Extra columns of the sketch, at least 0.
        powers: Power iterations $p$, at least 0; each sharpens a slowly decaying spectrum.

    References:
        Halko, Martinsson and Tropp (2011), Finding structure with randomness, arXiv 0909.4061.
    """

    oversample: int = 8
    powers: int = 1

    def __post_init__(self) -> None:
        if self.oversample < 0 or self.powers < 0:
            raise ValueError(f"oversample and powers must be at least 0, got {self.oversample} and {self.powers}")

    @property
    def _random(self) -> bool:
        return True

    def _project(self, a: Tensor, rank: int, generator: torch.Generator | None) -> Projection:
        m, n = a.shape[-2:]
        width = min(rank + self.oversample, n)
        sketch = _gaussian((*a.shape[:-2], m, width), a, generator)
        # Householder QR returns an orthonormal frame even where the sketch lacks rank.
        frame = torch.linalg.qr(a.mT @ sketch).Q
        for _ in range(self.powers):
            frame = torch.linalg.qr(a.mT @ (a @ frame)).Q
        inner = torch.linalg.svd(a @ frame, full_matrices=rank > m).Vh[..., :rank, :].mT
        basis = frame @ inner
        return Projection(a @ basis, basis)


@final
@dataclasses.dataclass(frozen=True)
class RandomSubspace(Subspace):
    """A uniformly random subspace, the same for every matrix of the batch; unbiased after scaling by n / rank."""

    @property
    def _random(self) -> bool:
        return True

    def _project(self, a: Tensor, rank: int, generator: torch.Generator | None) -> Projection:
        gaussian = _gaussian((a.shape[-1], rank), a, generator)
        frame, triangle = torch.linalg.qr(gaussian)
        # With a positive diagonal in the triangle the factor is uniform over all frames.
        frame = frame * torch.where(triangle.diagonal() < 0, -1.0, 1.0).to(frame.dtype)
        return Projection(a @ frame, frame.expand(*a.shape[:-2], *frame.shape))


def select_top(s: Float[Tensor, "*batch m n"], rank: int, *, order: Literal[1, 2] = 1) -> Int[Tensor, "*batch r"]:
    """Return the indices of the `rank` largest columns by l1 or l2 norm, ascending.

    Args:
        s: Coefficients, shape `(*batch, m, n)`.
        rank: 1 to n.
        order: 1 or 2.

    Raises:
        ValueError: An empty matrix, a rank outside 1 to n, another order.

    Numerics:
        Of columns with equal norms the ones with the lower index are taken.

    Example:
        >>> import torch
        >>> select_top(torch.tensor([[1.0, -5.0, 0.0, 2.0]]), 2)
        tensor([1, 3])
    """
    check_input(s, 2, "select_top")
    _check_order(order)
    if not 1 <= rank <= s.shape[-1]:
        raise ValueError(f"rank must be from 1 to n={s.shape[-1]}, got {rank}")
    size = torch.linalg.vector_norm(s, order, dim=-2)
    return size.sort(dim=-1, descending=True, stable=True).indices[..., :rank].sort(dim=-1).values


def compress_with_feedback(
    g: Float[Tensor, "*batch m n"],
    error: Float[Tensor, "*batch m n"],
    subspace: Subspace,
    rank: int,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Projection, Float[Tensor, "*batch m n"]]:
    r"""Project $A = G + E$ into a subspace and return the projection and what it left out, $E' = A - \mathrm{lift}$.

    Carrying $E'$ into the next call loses nothing: the lifted matrices of all calls and the last error add up to the
    sum of all gradients.

    Args:
        g: Gradient.
        error: What earlier calls left out, zeros at first; float32 is advised for half-precision gradients.
        subspace: How the subspace is chosen.
        rank: Its dimension.
        generator: For the random subspaces.

    Returns:
        The projection of `g + error`, and the new error in the dtype of `error`. No argument is changed.

    Raises:
        ValueError: `g` and `error` differ in shape; and as `Subspace.project`.

    Example:
        >>> import torch
        >>> g = torch.tensor([[1.0, 3.0]])
        >>> kept, error = compress_with_feedback(g, torch.zeros_like(g), SVDSubspace(), 1)
        >>> torch.allclose(kept.lift() + error, g)
        True
    """
    if g.shape != error.shape:
        raise ValueError(f"g and error must have the same shape, got {tuple(g.shape)} and {tuple(error.shape)}")
    total = g.to(torch.promote_types(g.dtype, error.dtype)) + error
    projection = subspace.project(total, rank, generator=generator)
    return projection, (total - projection.lift()).to(error.dtype)


def change_of_basis(previous: Projection, current: Projection) -> Float[Tensor, "*batch r s"]:
    r"""Return $R = B_{\text{previous}}^\top B_{\text{current}}$; moments kept in the old subspace become `moment @ R`.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1.0, 3.0]])
        >>> first = DCTSubspace().project(a, 2)
        >>> torch.allclose(change_of_basis(first, first), torch.eye(2), atol=1e-6)
        True
    """
    return previous.basis.mT @ current.basis


@functools.lru_cache(maxsize=4)
def _cosines(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    # Float64 cosines cost as much as projecting a square matrix does.
    return dct_matrix(n, dtype=dtype, device=device)


def _gaussian(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, device=like.device, generator=generator)


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 (l1 norm of a column) or 2 (l2 norm), got {order!r}")
