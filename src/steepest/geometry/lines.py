# SPDX-License-Identifier: Apache-2.0
"""Norms that take the largest row or the largest column of a matrix."""

import abc
import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from ._inputs import l2_length, one_where_zero
from .norm import Norm


class _LargestLine(Norm):
    """`max over lines of l2 / radius`; a line runs along `_dim`, and the radius may depend on the shape."""

    @property
    @abc.abstractmethod
    def _dim(self) -> int: ...

    @abc.abstractmethod
    def _radius(self, x: Tensor) -> float: ...

    def _norm(self, x: Tensor) -> Tensor:
        return l2_length(x, self._dim).amax((-2, -1)) / self._radius(x)

    def _dual(self, g: Tensor) -> Tensor:
        return l2_length(g, self._dim).sum((-2, -1)) * self._radius(g)

    def _lmo(self, g: Tensor) -> Tensor:
        return g / one_where_zero(l2_length(g, self._dim)) * -self._radius(g)

    def _project(self, x: Tensor) -> Tensor:
        length, radius = l2_length(x, self._dim), self._radius(x)
        return torch.where(length <= radius, x, x / one_where_zero(length) * radius)


@final
@dataclasses.dataclass(frozen=True)
class RowNorm(_LargestLine):
    r"""The largest row length, $\|x\| = \max_i \|x_{i:}\|_2$ (the l2-to-l-infinity operator norm).

    The dual is the sum of the row lengths. The LMO scales every row to length one, or with `rms=True`, where the norm
    is the largest row RMS $\max_i \|x_{i:}\|_2 / \sqrt n$, to length $\sqrt n$ (the row step of SinkGD).

    Args:
        rms: Measure a row by its RMS in place of its length.

    Example:
        >>> import torch
        >>> RowNorm().lmo(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[-0.6000, -0.8000],
                [-0.0000, -0.0000]])
    """

    rms: bool = False

    @property
    def _dim(self) -> int:
        return -1

    def _radius(self, x: Tensor) -> float:
        return math.sqrt(x.shape[-1]) if self.rms else 1.0


@final
@dataclasses.dataclass(frozen=True)
class ColumnNorm(_LargestLine):
    r"""The largest column length, $\|x\| = \max_j \|x_{:j}\|_2$ (the l1-to-l2 operator norm).

    The dual is the sum of the column lengths. The LMO scales every column to length one, or with `rms=True`, where the
    norm is the largest column RMS, to length $\sqrt m$ (the column step of SinkGD, and `L1ToRMS`).

    Args:
        rms: Measure a column by its RMS in place of its length.

    Example:
        >>> import torch
        >>> ColumnNorm().norm(torch.tensor([[3.0, 1.0], [4.0, 0.0]]))
        tensor(5.)
    """

    rms: bool = False

    @property
    def _dim(self) -> int:
        return -2

    def _radius(self, x: Tensor) -> float:
        return math.sqrt(x.shape[-2]) if self.rms else 1.0


@final
@dataclasses.dataclass(frozen=True)
class L1ToRMS(_LargestLine):
    r"""The l1-to-RMS operator norm, $\|x\| = \max_j \mathrm{RMS}(x_{:j}) = \max_j \|x_{:j}\|_2 / \sqrt m$.

    The norm of an embedding: its input is one-hot (l1 norm one), its output a vector measured by RMS. Columns are the
    tokens of a $(m, n)$ = (dim, vocabulary) matrix; for `torch.nn.Embedding.weight`, stored the other way round, use
    `Transposed(L1ToRMS())`. The LMO scales each column to RMS one, and leaves tokens without a gradient alone. Equal
    to `ColumnNorm(rms=True)`.

    Example:
        >>> import torch
        >>> L1ToRMS().lmo(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
        tensor([[-0.8485, -0.0000],
                [-1.1314, -0.0000]])

    References:
        Large et al. (2024), arXiv 2405.14813. Pethick et al. (2025), arXiv 2502.07529 (`ColNorm`).
    """

    @property
    def _dim(self) -> int:
        return -2

    def _radius(self, x: Tensor) -> float:
        return math.sqrt(x.shape[-2])


@final
@dataclasses.dataclass(frozen=True)
class RMSToInf(_LargestLine):
    r"""The RMS-to-l-infinity operator norm, $\|x\| = \max_i \sqrt n \, \|x_{i:}\|_2$ for an $(m, n)$ matrix.

    The norm of an output head whose logits are bounded one by one. The LMO scales each row to length $1 / \sqrt n$;
    the dual is $\frac{1}{\sqrt n} \sum_i \|g_{i:}\|_2$.

    Example:
        >>> import torch
        >>> RMSToInf().lmo(torch.tensor([[3.0, 4.0]]))
        tensor([[-0.4243, -0.5657]])

    References:
        Pethick et al. (2025), arXiv 2502.07529 (`RowNorm`, normalized).
    """

    @property
    def _dim(self) -> int:
        return -1

    def _radius(self, x: Tensor) -> float:
        return 1 / math.sqrt(x.shape[-1])
