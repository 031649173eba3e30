# SPDX-License-Identifier: Apache-2.0
"""Operator norms for convolution weights of shape (out, in / groups, *kernel), with the kernel-size factor."""

import abc
import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from ._exact import exact_polar, largest_singular_value, singular_values
from .norm import Norm
from .spectral import PolarFactor, clip_singular_values


class _ConvNorm(Norm):
    """`max over a stack of matrices of sigma_max / radius`; the subclass says how the weight becomes a stack."""

    kernel_dims: int
    groups: int
    polar: PolarFactor

    def __post_init__(self) -> None:
        if self.kernel_dims not in (1, 2, 3):
            raise ValueError(f"kernel_dims must be 1, 2 or 3, got {self.kernel_dims!r}")
        if not isinstance(self.groups, int) or self.groups < 1:
            raise ValueError(f"groups must be an int >= 1, got {self.groups!r}")

    @property
    def element_dims(self) -> int:
        """Two for the channels and `kernel_dims` for the kernel."""
        return 2 + self.kernel_dims

    @abc.abstractmethod
    def _stack(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _unstack(self, stack: Tensor, shape: torch.Size) -> Tensor: ...

    def _grouped(self, x: Tensor) -> Tensor:
        """Return the weight as (*batch, groups, out / groups, in / groups, taps)."""
        out = x.shape[-self.element_dims]
        if out % self.groups:
            raise ValueError(f"{type(self).__name__}: {out} output channels are not divisible by groups={self.groups}")
        taps = x.flatten(-self.kernel_dims)
        return taps.unflatten(-3, (self.groups, out // self.groups))

    def _radius(self, x: Tensor) -> float:
        out, fan_in = x.shape[-self.element_dims] // self.groups, x.shape[1 - self.element_dims]
        return math.sqrt(out / fan_in) / math.prod(x.shape[-self.kernel_dims :])

    def _norm(self, x: Tensor) -> Tensor:
        return largest_singular_value(self._stack(x)).amax(-1) / self._radius(x)

    def _dual(self, g: Tensor) -> Tensor:
        return singular_values(self._stack(g)).sum((-2, -1)) * self._radius(g)

    def _lmo(self, g: Tensor) -> Tensor:
        return self._unstack(self.polar(self._stack(g)) * -self._radius(g), g.shape)

    def _project(self, x: Tensor) -> Tensor:
        return self._unstack(clip_singular_values(self._stack(x), self._radius(x)), x.shape)


@final
@dataclasses.dataclass(frozen=True)
class SpectralConv(_ConvNorm):
    r"""The RMS-to-RMS norm of a convolution from its flattened weight, with a factor for the kernel size.

    For a weight $(m, n, k_1, ..)$ with $K = k_1 \cdots$ taps, flattened to the $(m, nK)$ matrix $W$:
    $\|x\| = K \sqrt{n / m} \, \sigma_{\max}(W)$, and the LMO is $-\frac{1}{K} \sqrt{m / n} \, U V^\top$ of the
    flattened gradient ($K = k^2$ for a $k \times k$ kernel, $k$ for a 1-D one). It bounds the RMS-to-RMS norm of the
    convolution operator from above. With `groups`, $m$ and $n$ are per group and the largest group counts.

    Args:
        kernel_dims: 1, 2 or 3.
        groups: As in `torch.nn.Conv2d`; a depthwise convolution has as many groups as channels.
        polar: The polar factor to use in the LMO, as in `Spectral`.

    Raises:
        ValueError: In the methods, when the output channels are not divisible by `groups`.

    Example:
        >>> import torch
        >>> SpectralConv().norm(torch.ones(1, 1, 3, 3))
        tensor(27.)

    References:
        Pethick et al. (2025), arXiv 2502.07529 (`SpectralConv`).
    """

    kernel_dims: int = 2
    groups: int = 1
    polar: PolarFactor = exact_polar

    def _stack(self, x: Tensor) -> Tensor:
        return self._grouped(x).flatten(-2)

    def _unstack(self, stack: Tensor, shape: torch.Size) -> Tensor:
        return stack.reshape(shape)


@final
@dataclasses.dataclass(frozen=True)
class TapConv(_ConvNorm):
    r"""The RMS-to-RMS norm of a convolution, one tap of the kernel at a time.

    For a weight with $K$ taps $W_t$, each an $(m, n)$ matrix: $\|x\| = K \sqrt{n / m} \, \max_t \sigma_{\max}(W_t)$,
    and the LMO makes each tap $-\frac{1}{K} \sqrt{m / n} \, U_t V_t^\top$. The triangle inequality over taps makes it a
    bound on the RMS-to-RMS norm of the convolution operator.

    Args:
        kernel_dims: 1, 2 or 3.
        groups: As in `torch.nn.Conv2d`.
        polar: The polar factor to use in the LMO, as in `Spectral`.

    Raises:
        ValueError: In the methods, when the output channels are not divisible by `groups`.

    Example:
        >>> import torch
        >>> TapConv().norm(torch.ones(1, 1, 3, 3))
        tensor(9.)

    References:
        Large et al. (2024), arXiv 2405.14813 (`Conv2D` of modula).
    """

    kernel_dims: int = 2
    groups: int = 1
    polar: PolarFactor = exact_polar

    def _stack(self, x: Tensor) -> Tensor:
        return self._grouped(x).movedim(-1, -3).flatten(-4, -3)

    def _unstack(self, stack: Tensor, shape: torch.Size) -> Tensor:
        taps = stack.unflatten(-3, (self.groups, -1)).movedim(-3, -1)
        return taps.reshape(shape)
