# SPDX-License-Identifier: Apache-2.0
"""Sets of weights with a fixed norm or orthonormal columns: nearest point, tangent space, retraction."""

import abc
import dataclasses
import math
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ._exact import _scaled_finite, exact_polar, largest_singular_value, leading_pair, map_singular_values
from ._inputs import compute_tensor, l2_length, one_where_zero, trailing


class Manifold(abc.ABC):
    """A set of matrices to stay on: `x = manifold.retract(x, step)` after projecting the step on the tangent space.

    Works on the last two dimensions, batched over the others. Half precision is computed in float32; NaN propagates.
    All methods raise `TypeError` for dtypes that are not real floating ones and `ValueError` for empty matrices.
    """

    @final
    def project(self, x: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
        """Return the nearest point of the manifold in the Frobenius norm; what has no direction (zero) stays zero."""
        return self._project(compute_tensor(x, 2, f"{type(self).__name__}.project")).to(x.dtype)

    @final
    def tangent(self, x: Float[Tensor, "*batch m n"], v: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
        """Return the orthogonal projection of `v` onto the tangent space at `x`, a point of the manifold."""
        point, move = self._pair(x, v, "tangent")
        return self._tangent(point, move).to(v.dtype)

    @final
    def retract(self, x: Float[Tensor, "*batch m n"], v: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
        """Return a point of the manifold near `x + v`: exact for `v = 0`, to first order for a tangent `v`."""
        point, move = self._pair(x, v, "retract")
        return self._retract(point + move).to(x.dtype)

    def _pair(self, x: Tensor, v: Tensor, method: str) -> tuple[Tensor, Tensor]:
        if x.shape != v.shape:
            raise ValueError(f"x and v must have the same shape, got {tuple(x.shape)} and {tuple(v.shape)}")
        name = f"{type(self).__name__}.{method}"
        return compute_tensor(x, 2, name), compute_tensor(v, 2, name)

    @abc.abstractmethod
    def _project(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _tangent(self, x: Tensor, v: Tensor) -> Tensor: ...

    def _retract(self, moved: Tensor) -> Tensor:
        return self._project(moved)


class _Spheres(Manifold):
    """Lengths along `_dims` fixed to `radius`."""

    radius: float

    def __post_init__(self) -> None:
        _check_radius(self.radius)

    @property
    @abc.abstractmethod
    def _dims(self) -> tuple[int, ...]: ...

    def _project(self, x: Tensor) -> Tensor:
        return x / one_where_zero(l2_length(x, self._dims)) * self.radius

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        unit = x / one_where_zero(l2_length(x, self._dims))
        return v - unit * (unit * v).sum(self._dims, keepdim=True)


@final
@dataclasses.dataclass(frozen=True)
class Sphere(_Spheres):
    r"""Matrices of fixed Frobenius norm, $\|x\|_F = \text{radius}$: the constraint of Hyperball.

    Hyperball takes `radius` from the initial weight and gives the update that norm too:
    $W \leftarrow \mathrm{retract}(W, -\eta R\, u / \|u\|_F)$.

    Args:
        radius: Positive and finite.

    Example:
        >>> import torch
        >>> Sphere().retract(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([[0.7071, 0.7071]])

    References:
        Wen et al. (2026), Hyperball optimization, arXiv 2606.16899.
    """

    radius: float = 1.0

    @property
    def _dims(self) -> tuple[int, ...]:
        return trailing(2)


@final
@dataclasses.dataclass(frozen=True)
class RowSphere(_Spheres):
    """Matrices whose rows all have length `radius` (nGPT's weights along the embedding dimension).

    Args:
        radius: Positive and finite.

    Example:
        >>> import torch
        >>> RowSphere().project(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])
    """

    radius: float = 1.0

    @property
    def _dims(self) -> tuple[int, ...]:
        return (-1,)


@final
@dataclasses.dataclass(frozen=True)
class Oblique(_Spheres):
    """The oblique manifold: matrices whose columns all have length `radius`.

    Args:
        radius: Positive and finite.

    Example:
        >>> import torch
        >>> Oblique().project(torch.tensor([[3.0, 0.0], [4.0, 2.0]]))
        tensor([[0.6000, 0.0000],
                [0.8000, 1.0000]])
    """

    radius: float = 1.0

    @property
    def _dims(self) -> tuple[int, ...]:
        return (-2,)


@final
@dataclasses.dataclass(frozen=True)
class Stiefel(Manifold):
    r"""Matrices with orthonormal columns times a factor, $X^\top X = \text{scale}^2 I$; orthonormal rows for wide ones.

    Args:
        scale: Positive and finite: all singular values.
        retraction: `"polar"` (the nearest point, second order) or `"qr"` (cheaper, first order).

    Example:
        >>> import torch
        >>> Stiefel().project(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
        tensor([[1., 0.],
                [0., 1.]])

    References:
        Edelman, Arias and Smith (1998), The geometry of algorithms with orthogonality constraints.
    """

    scale: float = 1.0
    retraction: Literal["polar", "qr"] = "polar"

    def __post_init__(self) -> None:
        _check_radius(self.scale)
        if self.retraction not in ("polar", "qr"):
            raise ValueError(f"retraction must be 'polar' or 'qr', got {self.retraction!r}")

    def _project(self, x: Tensor) -> Tensor:
        return exact_polar(x) * self.scale

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        if x.shape[-2] < x.shape[-1]:
            return self._tangent(x.mT, v.mT).mT
        inner = x.mT @ v / self.scale**2
        return v - x @ ((inner + inner.mT) / 2)

    def _retract(self, moved: Tensor) -> Tensor:
        if self.retraction == "polar":
            return self._project(moved)
        if moved.shape[-2] < moved.shape[-1]:
            return self._retract(moved.mT).mT
        scaled, finite, _ = _scaled_finite(moved)
        frame, triangle = torch.linalg.qr(scaled)
        # A positive diagonal makes the factor unique, so a zero step returns the point itself.
        signs = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(frame.dtype)
        return torch.where(finite, frame * signs.unsqueeze(-2) * self.scale, torch.nan)


@final
@dataclasses.dataclass(frozen=True)
class SpectralSphere(Manifold):
    r"""Matrices of fixed spectral norm, $\sigma_{\max}(x) = \text{radius}$.

    `project` clips singular values above `radius` and, when none reaches it, raises the largest. `retract` rescales the
    whole matrix, $x \leftarrow \text{radius} \cdot x / \sigma_{\max}(x)$, which costs one eigenvalue. The set is smooth
    where the largest singular value is simple; `tangent` removes the component along $u_1 v_1^\top$.

    Args:
        radius: Positive and finite.

    Example:
        >>> import torch
        >>> SpectralSphere(2.0).retract(torch.eye(2), torch.zeros(2, 2))
        tensor([[2., 0.],
                [0., 2.]])
    """

    radius: float = 1.0

    def __post_init__(self) -> None:
        _check_radius(self.radius)

    def _project(self, x: Tensor) -> Tensor:
        return map_singular_values(x, self._onto)

    def _onto(self, s: Tensor, unit: Tensor) -> Tensor:
        values = torch.minimum(s * unit, torch.full_like(s, self.radius))
        return torch.cat([torch.where(s[..., :1] > 0, self.radius, values[..., :1]), values[..., 1:]], dim=-1)

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        pair = leading_pair(x)
        return v - pair * (pair * v).sum((-2, -1), keepdim=True)

    def _retract(self, moved: Tensor) -> Tensor:
        return moved / one_where_zero(largest_singular_value(moved))[..., None, None] * self.radius


def _check_radius(radius: float) -> None:
    if not (radius > 0 and math.isfinite(radius)):
        raise ValueError(f"radius must be positive and finite, got {radius}")
