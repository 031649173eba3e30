# SPDX-License-Identifier: Apache-2.0
"""JumpReLU with a learnable threshold."""

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._llvm import select
from steepest.kernels._registry import device
from steepest.kernels._threshold import Thresholded, in_window, plain_window

__all__ = ["jumprelu"]

_ZERO, _ONE = np.float32(0), np.float32(1)


@device
def _jump(x, threshold, unused):
    # NaN is not above the threshold, but it must not be hidden.
    return select(x <= threshold, _ZERO, x)


@device
def _jump_slope(x, threshold, bandwidth):
    near = in_window(x, threshold, bandwidth)
    return select(x > threshold, _ONE, _ZERO), select(near, -threshold / bandwidth, _ZERO)


def _plain_jump(x: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(x <= threshold, torch.zeros_like(x), x)


def _plain_slope(x: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    return (x > threshold).to(x.dtype), plain_window(x, threshold, bandwidth) * (-threshold / bandwidth)


_JUMPRELU = Thresholded("jumprelu", value=_jump, slope=_jump_slope, plain_value=_plain_jump, plain_slope=_plain_slope)


def jumprelu(x: Tensor, threshold: Tensor | float, bandwidth: float = 1e-3) -> Tensor:
    r"""Return x where $x > \theta$ and 0 elsewhere, with a straight-through gradient for the threshold.

    The true derivative by the threshold is 0 almost everywhere. What is returned for it is the derivative of the
    expected loss estimated with a rectangle kernel: $-\frac{\theta}{\varepsilon} 1[|x - \theta| < \varepsilon / 2]$.

    Args:
        x: Floating-point tensor (..., features).
        threshold: $\theta$, a number, a tensor without dimensions, or one of shape (features,).
        bandwidth: Width $\varepsilon$ of the rectangle, positive.

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If the threshold's shape or device does not fit, or the bandwidth is not positive and finite.

    Numerics:
        Exact; NaN stays NaN. x equal to the threshold gives 0. The threshold is read as float32 for 16-bit x; its
        gradient is added in float32 over blocks and in float64 across them, the same bits for any number of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import jumprelu
        >>> jumprelu(torch.tensor([-1.0, 0.5, 2.0]), 0.5)
        tensor([0., 0., 2.])

    References:
        Rajamanoharan et al. (2024), Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders,
        arXiv 2407.14435, eq. 11.
    """
    return _JUMPRELU(x, threshold, bandwidth)
