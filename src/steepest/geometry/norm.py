# SPDX-License-Identifier: Apache-2.0
"""The contract of a norm, its two combinators, and the direction of steepest descent under it."""

import abc
import dataclasses
import math
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ._inputs import compute_tensor, trailing


class Norm(abc.ABC):
    r"""A norm on tensors, with its dual and its linear minimization oracle.

    Everything works on the last `element_dims` dimensions (two for a matrix, one for a bias vector) and is batched
    over the ones before them. With $\langle g, x \rangle = \sum_{ij} g_{ij} x_{ij}$:

    - `norm(x)` is $\|x\|$,
    - `dual(g)` is $\|g\|_* = \max_{\|x\| \le 1} \langle g, x \rangle$,
    - `lmo(g)` is a minimizer of $\langle g, x \rangle$ over the unit ball, so $\langle g, \mathrm{lmo}(g) \rangle =
      -\|g\|_*$; it is zero for $g = 0$,
    - `project(x)` is the point of the unit ball nearest to `x` in the Frobenius norm, where we have a formula for it.

    Shapes in the documentation are those of `torch.nn.Linear.weight`: $(m, n)$ = (d_out, d_in).

    Numerics:
        Half precision is computed in float32; `norm` and `dual` return float32 for it, `lmo` and `project` return the
        input dtype. Lengths are scaled before they are squared, so they neither overflow nor underflow.
        NaN propagates: an element with a NaN has a NaN norm and dual and a NaN in its `lmo` and `project`; the other
        elements of the batch are unaffected. An infinite entry gives an infinite norm, and an `lmo` that is NaN
        wherever it would be inf/inf.

    A subclass is a frozen dataclass marked final and implements the four underscored methods, which receive checked
    tensors in the compute dtype.
    """

    @property
    def element_dims(self) -> int:
        """How many trailing dimensions form one element: 2 for a matrix, 1 for a vector, 4 for a 2-D convolution."""
        return 2

    @final
    def norm(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return the norm of each element of the batch.

        Raises:
            TypeError: The dtype is not a real floating one.
            ValueError: Too few dimensions, or an empty element.
        """
        return self._norm(self._checked(x, "norm"))

    @final
    def dual(self, g: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Return the dual norm of each element of the batch; raises as `norm` does."""
        return self._dual(self._checked(g, "dual"))

    @final
    def lmo(self, g: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return a minimizer of the inner product with `g` over the unit ball; raises as `norm` does."""
        return self._lmo(self._checked(g, "lmo")).to(g.dtype)

    @final
    def project(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the nearest point of the unit ball in the Frobenius norm.

        Raises:
            NotImplementedError: No closed form is known to us for this norm.
            TypeError: The dtype is not a real floating one.
            ValueError: Too few dimensions, or an empty element.
        """
        return self._project(self._checked(x, "project")).to(x.dtype)

    def _checked(self, x: Tensor, method: str) -> Tensor:
        return compute_tensor(x, self.element_dims, f"{type(self).__name__}.{method}")

    @abc.abstractmethod
    def _norm(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _dual(self, g: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _lmo(self, g: Tensor) -> Tensor: ...

    def _project(self, x: Tensor) -> Tensor:
        raise NotImplementedError(
            f"{self} has no closed-form projection onto its ball; use lmo with a Frank-Wolfe step to stay inside it"
        )


@final
@dataclasses.dataclass(frozen=True)
class Scaled(Norm):
    r"""The norm whose unit ball is the ball of the given radius: $\|x\| = \|x\|_{\text{inner}} / \text{radius}$.

    The LMO is the inner one times `radius`; this is how the per-layer radii of Scion are written.

    Args:
        inner: The norm to rescale.
        radius: Positive and finite.

    Example:
        >>> import torch
        >>> from steepest.geometry import Scaled, Sign
        >>> Scaled(Sign(), 3.0).lmo(torch.tensor([[1.0, -2.0]]))
        tensor([[-3.,  3.]])
    """

    inner: Norm
    radius: float

    def __post_init__(self) -> None:
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise ValueError(f"radius must be positive and finite, got {self.radius}")

    @property
    def element_dims(self) -> int:
        """As many trailing dimensions as the inner norm takes."""
        return self.inner.element_dims

    def _norm(self, x: Tensor) -> Tensor:
        return self.inner.norm(x) / self.radius

    def _dual(self, g: Tensor) -> Tensor:
        return self.inner.dual(g) * self.radius

    def _lmo(self, g: Tensor) -> Tensor:
        return self.inner.lmo(g) * self.radius

    def _project(self, x: Tensor) -> Tensor:
        # A point inside comes back bit for bit, which dividing and multiplying would not give.
        inside = (self.inner.norm(x / self.radius) <= 1).reshape(*x.shape[: x.ndim - self.element_dims], *self._ones)
        return torch.where(inside, x, self.inner.project(x / self.radius) * self.radius)

    @property
    def _ones(self) -> tuple[int, ...]:
        return (1,) * self.element_dims


@final
@dataclasses.dataclass(frozen=True)
class Transposed(Norm):
    r"""The inner norm of $X^\top$, for weights stored as (d_in, d_out).

    `torch.nn.Embedding.weight` has shape (vocabulary, dim): `Transposed(L1ToRMS())` is its embedding norm.

    Args:
        inner: A norm on matrices.

    Example:
        >>> import torch
        >>> from steepest.geometry import L1ToRMS, Transposed
        >>> Transposed(L1ToRMS()).norm(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
        tensor(3.5355)
    """

    inner: Norm

    def __post_init__(self) -> None:
        if self.inner.element_dims != 2:
            raise ValueError(f"Transposed needs a norm on matrices, got {self.inner} on {self.inner.element_dims} dims")

    def _norm(self, x: Tensor) -> Tensor:
        return self.inner.norm(x.mT)

    def _dual(self, g: Tensor) -> Tensor:
        return self.inner.dual(g.mT)

    def _lmo(self, g: Tensor) -> Tensor:
        return self.inner.lmo(g.mT).mT

    def _project(self, x: Tensor) -> Tensor:
        return self.inner.project(x.mT).mT


Mode = Literal["lmo", "dual-scaled", "frank-wolfe"]


def steepest_direction(
    g: Float[Tensor, "*shape"], norm: Norm, mode: Mode = "lmo", *, x: Float[Tensor, "*shape"] | None = None
) -> Float[Tensor, "*shape"]:
    r"""Return the direction of steepest descent for the gradient `g` under a norm; the step is `x + lr * direction`.

    - `"lmo"`: $d = \mathrm{lmo}(g)$, of norm one whatever the size of the gradient (normalized steepest descent).
    - `"dual-scaled"`: $d = \|g\|_* \, \mathrm{lmo}(g)$, the minimizer of $\langle g, d \rangle + \tfrac12 \|d\|^2$.
      Under the Frobenius norm this is $-g$.
    - `"frank-wolfe"`: $d = \mathrm{lmo}(g) - x$, which keeps `x` in the unit ball for `0 <= lr <= 1`.

    Args:
        g: Gradient, any shape the norm takes.
        norm: The norm; wrap it in `Scaled` to give its ball a radius.
        mode: One of the three above.
        x: The current point, same shape as `g`; required by `"frank-wolfe"` and refused by the others.

    Returns:
        Same shape and dtype as `g`.

    Raises:
        ValueError: Unknown mode, or `x` missing, not wanted, or of another shape.

    Numerics:
        `"dual-scaled"` takes the dual norm from the LMO itself, $-\langle g, \mathrm{lmo}(g) \rangle$. This equals
        `norm.dual(g)` for an exact LMO and stays consistent with an approximate one (`Spectral(polar=...)`).

    Example:
        >>> import torch
        >>> from steepest.geometry import Sign
        >>> steepest_direction(torch.tensor([[0.5, -2.0]]), Sign())
        tensor([[-1.,  1.]])

    References:
        Bernstein and Newhouse (2024), Old optimizer, new norm, arXiv 2409.20325. Pethick et al. (2025), Training deep
        learning models with norm-constrained LMOs, arXiv 2502.07529.
    """
    if (x is not None) != (mode == "frank-wolfe"):
        raise ValueError(f"x, the current point, is for mode='frank-wolfe' and only for it; got mode={mode!r}")
    if x is not None and x.shape != g.shape:
        raise ValueError(f"x and g must have the same shape, got {tuple(x.shape)} and {tuple(g.shape)}")
    step = norm.lmo(g)
    if mode == "lmo":
        return step
    if x is not None:
        return step - x
    if mode == "dual-scaled":
        dims = norm.element_dims
        work = compute_tensor(g, dims, "steepest_direction")
        direction = step.to(work.dtype)
        return (-(work * direction).sum(trailing(dims), keepdim=True) * direction).to(g.dtype)
    raise ValueError(f"mode must be 'lmo', 'dual-scaled' or 'frank-wolfe', got {mode!r}")
