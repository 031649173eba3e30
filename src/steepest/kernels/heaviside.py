# SPDX-License-Identifier: Apache-2.0
"""The step function with a learnable threshold: how many features are active, with a gradient."""

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._llvm import select
from steepest.kernels._registry import device
from steepest.kernels._threshold import Thresholded, in_window, plain_window

__all__ = ["heaviside"]

_ZERO, _ONE = np.float32(0), np.float32(1)


@device
def _step(x, threshold, unused):
    # NaN is not above the threshold, but it must not be hidden.
    return select(x <= threshold, _ZERO, select(x > threshold, _ONE, x))


@device
def _step_slope(x, threshold, bandwidth):
    return _ZERO, select(in_window(x, threshold, bandwidth), -_ONE / bandwidth, _ZERO)


def _plain_step(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x <= threshold, 0.0, torch.where(x > threshold, 1.0, x))


def _plain_slope(x: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(x), plain_window(x, threshold, bandwidth) * (-1 / bandwidth)


_HEAVISIDE = Thresholded("heaviside", value=_step, slope=_step_slope, plain_value=_plain_step, plain_slope=_plain_slope)


def heaviside(x: Tensor, threshold: Tensor | float, bandwidth: float = 1e-3) -> Tensor:
    r"""Return 1 where $x > \theta$ and 0 elsewhere, with a straight-through gradient for the threshold.

    The true derivatives are 0 almost everywhere. What is returned for the threshold is the derivative of the expected
    value estimated with a rectangle kernel: $-\frac{1}{\varepsilon} 1[|x - \theta| < \varepsilon / 2]$, from both sides
    of the threshold. So x must be the value before any activation: one that is cut off at the threshold shows half of
    the window. The gradient by x is 0.

    Args:
        x: Floating-point tensor (..., features).
        threshold: $\theta$, a number, a tensor without dimensions, or one of shape (features,).
        bandwidth: Width $\varepsilon$ of the rectangle, positive. Narrow: little bias, much variance.

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If the threshold's shape or device does not fit, or the bandwidth is not positive and finite.

    Numerics:
        Exact; NaN stays NaN. x equal to the threshold gives 0. The threshold's gradient is added in float32 over blocks
        and in float64 across them, the same bits for any number of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import heaviside
        >>> heaviside(torch.tensor([-1.0, 0.5, 2.0]), 0.5)
        tensor([0., 0., 1.])

    References:
        Rajamanoharan et al. (2024), Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders,
        arXiv 2407.14435, eq. 12.
    """
    return _HEAVISIDE(x, threshold, bandwidth)
