# SPDX-License-Identifier: Apache-2.0
"""Swish with a learnable slope."""

import numpy as np
from torch import Tensor

from steepest.kernels._gates import plain_swish, sigmoid_parts
from steepest.kernels._llvm import copysign, fabs, fma, min_or_second, select
from steepest.kernels._registry import device
from steepest.kernels._with_parameter import WithParameter

__all__ = ["swish"]

_ZERO, _FARTHEST = np.float32(0), np.float32(130)


@device
def _swish(x, beta, unused):
    inside = copysign(min_or_second(_FARTHEST, fabs(beta * x)), beta * x)
    s, _ = sigmoid_parts(inside)
    return select(s == _ZERO, copysign(s, x), x * s)


@device
def _swish_slope(x, beta, unused):
    inside = copysign(min_or_second(_FARTHEST, fabs(beta * x)), beta * x)
    s, rest = sigmoid_parts(inside)
    both = s * rest
    pull = select(both == _ZERO, both, x * both)
    return fma(inside, both, s), select(both == _ZERO, both, x * pull)


_SWISH = WithParameter(
    "swish", value=_swish, slope=_swish_slope, plain=lambda x, beta, _: plain_swish(x, beta), parameter="beta"
)


def swish(x: Tensor, beta: Tensor | float = 1.0) -> Tensor:
    r"""Return $x \, \sigma(\beta x)$ with a learnable $\beta$.

    Args:
        x: Floating-point tensor (..., features).
        beta: A number, a tensor without dimensions, or one of shape (features,).

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If beta's shape or device does not fit.

    Numerics:
        The rounding of beta x adds |beta x| / 2 ulp for negative beta x; otherwise within 4 ulp in float32. beta's
        gradient is added in float32 over blocks and in float64 across them, the same bits for any number of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import swish
        >>> swish(torch.tensor([-1.0, 0.0, 2.0]), torch.tensor(2.0))
        tensor([-0.1192,  0.0000,  1.9640])

    References:
        Ramachandran, Zoph and Le (2017), Searching for activation functions, arXiv 1710.05941.
    """
    return _SWISH(x, beta, 0.0)
