# SPDX-License-Identifier: Apache-2.0
"""Norms of the singular values: spectral, RMS-to-RMS, nuclear, Schatten-p."""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from ._exact import (
    exact_polar,
    kept_directions,
    largest_singular_value,
    leading_pair,
    map_singular_values,
    singular_values,
)
from ._inputs import l2_length, one_where_zero, project_l1_ball
from .norm import Norm

PolarFactor = Callable[[Tensor], Tensor]
"""A map from a batch of matrices to their orthogonal polar factors, same shape and dtype."""


def clip_singular_values(x: Tensor, radius: float) -> Tensor:
    """Return the nearest matrix whose singular values are at most `radius`; `x` itself where they already are."""
    clipped = map_singular_values(x, lambda s, unit: torch.minimum(s * unit, torch.full_like(s, radius)))
    return torch.where(largest_singular_value(x)[..., None, None] <= radius, x, clipped)


class _LargestSingularValue(Norm):
    """`sigma_max / radius`, where the radius may depend on the shape."""

    polar: PolarFactor

    @abc.abstractmethod
    def _radius(self, x: Tensor) -> float: ...

    def _norm(self, x: Tensor) -> Tensor:
        return largest_singular_value(x) / self._radius(x)

    def _dual(self, g: Tensor) -> Tensor:
        return singular_values(g).sum(-1) * self._radius(g)

    def _lmo(self, g: Tensor) -> Tensor:
        return self.polar(g) * -self._radius(g)

    def _project(self, x: Tensor) -> Tensor:
        return clip_singular_values(x, self._radius(x))


@final
@dataclasses.dataclass(frozen=True)
class Spectral(_LargestSingularValue):
    r"""The largest singular value, $\|x\| = \sigma_{\max}(x)$; the dual is the nuclear norm $\sum_i \sigma_i(g)$.

    The LMO is $-U V^\top$ for $g = U \Sigma V^\top$: Muon without its shape factor. No scaling by the shape; for the
    one that transfers over width see `RMSToRMS`.

    Args:
        polar: The polar factor to use in the LMO, a callable Tensor -> Tensor. The default is exact (by SVD). With an
            approximate one $\langle g, \mathrm{lmo}(g) \rangle$ falls short of $-\|g\|_*$ by the error of the
            iteration; `norm`, `dual` and `project` are exact in any case.

    Example:
        >>> import torch
        >>> Spectral().lmo(torch.tensor([[0.0, 2.0], [5.0, 0.0]]))
        tensor([[-0., -1.],
                [-1., -0.]])

    References:
        Jordan et al. (2024), Muon. Bernstein and Newhouse (2024), arXiv 2409.20325.
    """

    polar: PolarFactor = exact_polar

    def _radius(self, x: Tensor) -> float:
        return 1.0


@final
@dataclasses.dataclass(frozen=True)
class RMSToRMS(_LargestSingularValue):
    r"""The RMS-to-RMS operator norm of an $(m, n)$ = (d_out, d_in) matrix, $\|x\| = \sqrt{n / m} \, \sigma_{\max}(x)$.

    It is the largest RMS of $Wx$ over inputs of RMS one. The LMO is $-\sqrt{m / n} \, U V^\top$, the dual
    $\sqrt{m / n} \sum_i \sigma_i(g)$. A weight stored as (d_in, d_out) needs `Transposed(RMSToRMS())`.

    Args:
        polar: The polar factor to use in the LMO, as in `Spectral`.

    Example:
        >>> import torch
        >>> RMSToRMS().norm(torch.eye(2, 8))
        tensor(2.)

    References:
        Yang, Simon and Bernstein (2023), arXiv 2310.17813. Large et al. (2024), arXiv 2405.14813.
    """

    polar: PolarFactor = exact_polar

    def _radius(self, x: Tensor) -> float:
        return math.sqrt(x.shape[-2] / x.shape[-1])


@final
@dataclasses.dataclass(frozen=True)
class Nuclear(Norm):
    r"""The sum of the singular values, $\|x\| = \sum_i \sigma_i(x)$; the dual is $\sigma_{\max}(g)$.

    The LMO is the rank-one $-u_1 v_1^\top$ of the largest singular value; if that value is repeated, one of its pairs.
    Equal to `Schatten(1)`.

    Example:
        >>> import torch
        >>> Nuclear().lmo(torch.tensor([[2.0, 0.0], [0.0, -5.0]])) + 0.0
        tensor([[0., 0.],
                [0., 1.]])
    """

    def _norm(self, x: Tensor) -> Tensor:
        return singular_values(x).sum(-1)

    def _dual(self, g: Tensor) -> Tensor:
        return largest_singular_value(g)

    def _lmo(self, g: Tensor) -> Tensor:
        return -leading_pair(g)

    def _project(self, x: Tensor) -> Tensor:
        shrunk = map_singular_values(x, lambda s, unit: project_l1_ball(s * unit))
        return torch.where(self._norm(x)[..., None, None] <= 1, x, shrunk)


@final
@dataclasses.dataclass(frozen=True)
class Schatten(Norm):
    r"""The $l_p$ norm of the singular values, $\|x\| = (\sum_i \sigma_i^p)^{1/p}$ for $1 \le p \le \infty$.

    With $1/p + 1/q = 1$ the dual is Schatten-q and the LMO is $-U \, (\Sigma / \|\sigma\|_q)^{q-1} V^\top$. It runs
    from the leading singular pair (`p = 1`) over normalized SGD (`p = 2`) to the polar factor (`p = inf`), by SVD.
    `project` exists for `p` in {1, 2, inf}.

    Args:
        p: At least 1; `math.inf` is allowed.

    Numerics:
        Singular values at most `eps * max(m, n)` times the largest count as zero in the LMO.

    Example:
        >>> import torch
        >>> Schatten(4.0).norm(torch.diag(torch.tensor([1.0, 2.0])))
        tensor(2.0305)
    """

    p: float

    def __post_init__(self) -> None:
        if not self.p >= 1:
            raise ValueError(f"p must be at least 1 (math.inf is allowed), got {self.p}")

    @property
    def _q(self) -> float:
        if self.p == 1:
            return math.inf
        return 1.0 if math.isinf(self.p) else self.p / (self.p - 1)

    def _norm(self, x: Tensor) -> Tensor:
        return _power_norm(x, self.p)

    def _dual(self, g: Tensor) -> Tensor:
        return _power_norm(g, self._q)

    def _lmo(self, g: Tensor) -> Tensor:
        q = self._q
        if math.isinf(q):
            return -leading_pair(g)
        if q == 1:
            return -exact_polar(g)
        return -map_singular_values(g, lambda s, _: _dual_weights(s, q) * kept_directions(s, g.shape[-2:]))

    def _project(self, x: Tensor) -> Tensor:
        if self.p == 1:
            return Nuclear().project(x)
        if self.p == 2:
            length = l2_length(x, (-2, -1))
            return torch.where(length <= 1, x, x / one_where_zero(length))
        return clip_singular_values(x, 1.0) if math.isinf(self.p) else super()._project(x)


def _power_norm(x: Tensor, p: float) -> Tensor:
    if math.isinf(p):
        return largest_singular_value(x)
    if p == 2:
        return l2_length(x, (-2, -1))[..., 0, 0]
    s = singular_values(x)
    top = torch.where(s[..., :1].isfinite(), one_where_zero(s[..., :1]), torch.ones_like(s[..., :1]))
    return top[..., 0] * (s / top).pow(p).sum(-1).pow(1 / p)


def _dual_weights(s: Tensor, q: float) -> Tensor:
    relative = s / one_where_zero(s[..., :1])
    length = relative.pow(q).sum(-1, keepdim=True).pow(1 / q)
    return (relative / one_where_zero(length)).pow(q - 1)
