# SPDX-License-Identifier: Apache-2.0
"""Norms that see a tensor as a list of numbers: Frobenius, RMS, l-infinity, l1."""

import abc
import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from ._inputs import l2_length, one_where_zero, project_l1_ball, trailing
from .norm import Norm


def _check_dims(dims: int) -> None:
    if not isinstance(dims, int) or dims < 1:
        raise ValueError(f"dims counts the trailing dimensions of one element and must be an int >= 1, got {dims!r}")


def _size(x: Tensor, dims: int) -> int:
    return math.prod(x.shape[x.ndim - dims :])


class _Euclidean(Norm):
    """`l2 / radius`, where the radius may depend on the shape."""

    @abc.abstractmethod
    def _radius(self, x: Tensor) -> float: ...

    def _length(self, x: Tensor) -> Tensor:
        return l2_length(x, trailing(self.element_dims))

    def _norm(self, x: Tensor) -> Tensor:
        return self._length(x).flatten(x.ndim - self.element_dims).squeeze(-1) / self._radius(x)

    def _dual(self, g: Tensor) -> Tensor:
        return self._length(g).flatten(g.ndim - self.element_dims).squeeze(-1) * self._radius(g)

    def _lmo(self, g: Tensor) -> Tensor:
        return g / one_where_zero(self._length(g)) * -self._radius(g)

    def _project(self, x: Tensor) -> Tensor:
        length, radius = self._length(x), self._radius(x)
        return torch.where(length <= radius, x, x / one_where_zero(length) * radius)


@final
@dataclasses.dataclass(frozen=True)
class Frobenius(_Euclidean):
    r"""The l2 norm of all entries, $\|x\| = \sqrt{\sum x_{ij}^2}$; it is its own dual.

    The LMO $-g / \|g\|_F$ gives normalized SGD; `"dual-scaled"` gives plain SGD. On matrices it is Schatten-2.

    Args:
        dims: How many trailing dimensions form one element (1 for a bias, 2 for a matrix).

    Example:
        >>> import torch
        >>> Frobenius().lmo(torch.tensor([[3.0, -4.0]]))
        tensor([[-0.6000,  0.8000]])
    """

    dims: int = 2

    def __post_init__(self) -> None:
        _check_dims(self.dims)

    @property
    def element_dims(self) -> int:
        """The field `dims`."""
        return self.dims

    def _radius(self, x: Tensor) -> float:
        return 1.0


@final
@dataclasses.dataclass(frozen=True)
class RMS(_Euclidean):
    r"""The root mean square of all $N$ entries, $\|x\| = \|x\|_2 / \sqrt N$; the dual is $\sqrt N \|g\|_2$.

    The LMO is $-g / \mathrm{RMS}(g)$: every update has RMS one.

    Args:
        dims: How many trailing dimensions form one element.

    Example:
        >>> import torch
        >>> RMS(dims=1).lmo(torch.tensor([3.0, -4.0]))
        tensor([-0.8485,  1.1314])
    """

    dims: int = 2

    def __post_init__(self) -> None:
        _check_dims(self.dims)

    @property
    def element_dims(self) -> int:
        """The field `dims`."""
        return self.dims

    def _radius(self, x: Tensor) -> float:
        return math.sqrt(_size(x, self.dims))


@final
@dataclasses.dataclass(frozen=True)
class BiasRMS(_Euclidean):
    r"""The root mean square of a bias or gain vector (the last dimension); equal to `RMS(dims=1)`.

    This is the name the norm has in Scion. A bias is the RMS-to-RMS operator of a constant input of one.

    Example:
        >>> import torch
        >>> BiasRMS().norm(torch.tensor([3.0, -4.0]))
        tensor(3.5355)

    References:
        Pethick et al. (2025), arXiv 2502.07529, table of norms.
    """

    @property
    def element_dims(self) -> int:
        """One: a vector."""
        return 1

    def _radius(self, x: Tensor) -> float:
        return math.sqrt(x.shape[-1])


class _MaxAbs(Norm):
    """`scale * max |x|`, where the scale may depend on the shape."""

    @abc.abstractmethod
    def _scale(self, x: Tensor) -> float: ...

    def _norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, float("inf"), dim=trailing(self.element_dims)) * self._scale(x)

    def _dual(self, g: Tensor) -> Tensor:
        return torch.linalg.vector_norm(g, 1, dim=trailing(self.element_dims)) / self._scale(g)

    def _lmo(self, g: Tensor) -> Tensor:
        # torch.sign(nan) is zero, which would hide it.
        return torch.where(g.isnan(), g, -g.sign() / self._scale(g))

    def _project(self, x: Tensor) -> Tensor:
        radius = 1 / self._scale(x)
        return x.clamp(-radius, radius)


@final
@dataclasses.dataclass(frozen=True)
class Sign(_MaxAbs):
    r"""The l-infinity norm over all entries, $\|x\| = \max |x_{ij}|$; the dual is the sum of $|g_{ij}|$.

    The LMO $-\operatorname{sign}(g)$ gives sign descent (Adam without its averages, Lion). On a matrix it is the
    l1-to-l-infinity operator norm.

    Args:
        dims: How many trailing dimensions form one element. The LMO does not depend on it.

    Example:
        >>> import torch
        >>> Sign().lmo(torch.tensor([[3.0, 0.0, -4.0]]))
        tensor([[-1., -0.,  1.]])
    """

    dims: int = 2

    def __post_init__(self) -> None:
        _check_dims(self.dims)

    @property
    def element_dims(self) -> int:
        """The field `dims`."""
        return self.dims

    def _scale(self, x: Tensor) -> float:
        return 1.0


@final
@dataclasses.dataclass(frozen=True)
class MaxEntry(_MaxAbs):
    r"""The max-entry norm scaled by the fan-in, $\|x\| = n \max |x_{ij}|$ for an $(m, n)$ matrix.

    It bounds $\max_i |(Wx)_i|$ over inputs of RMS one, since $|\sum_j w_{ij} x_j| \le \max|w| \, n \, \mathrm{RMS}(x)$,
    which makes its LMO $-\operatorname{sign}(g) / n$ the choice for an output head whose step transfers over width.
    The dual is $\frac1n \sum |g_{ij}|$.

    Example:
        >>> import torch
        >>> MaxEntry().lmo(torch.tensor([[3.0, -4.0]]))
        tensor([[-0.5000,  0.5000]])

    References:
        Pethick et al. (2025), arXiv 2502.07529 (`Sign`, normalized).
    """

    def _scale(self, x: Tensor) -> float:
        return float(x.shape[-1])


@final
@dataclasses.dataclass(frozen=True)
class L1(Norm):
    r"""The sum of absolute values, $\|x\| = \sum |x_{ij}|$; the dual is $\max |g_{ij}|$.

    The LMO moves the one entry with the largest gradient (greedy coordinate descent); of equal ones, the first.

    Args:
        dims: How many trailing dimensions form one element.

    Example:
        >>> import torch
        >>> L1().lmo(torch.tensor([[3.0, -4.0]]))
        tensor([[0., 1.]])
    """

    dims: int = 2

    def __post_init__(self) -> None:
        _check_dims(self.dims)

    @property
    def element_dims(self) -> int:
        """The field `dims`."""
        return self.dims

    def _norm(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, 1, dim=trailing(self.dims))

    def _dual(self, g: Tensor) -> Tensor:
        return torch.linalg.vector_norm(g, float("inf"), dim=trailing(self.dims))

    def _lmo(self, g: Tensor) -> Tensor:
        flat = g.flatten(g.ndim - self.dims)
        # argmax counts NaN as the largest, so a NaN is chosen and copied.
        index = flat.abs().argmax(-1, keepdim=True)
        best = flat.gather(-1, index)
        vertex = torch.where(best.isnan(), best, -best.sign())
        return torch.zeros_like(flat).scatter(-1, index, vertex).reshape(g.shape)

    def _project(self, x: Tensor) -> Tensor:
        return project_l1_ball(x.flatten(x.ndim - self.dims)).reshape(x.shape)
