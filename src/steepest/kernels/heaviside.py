# SPDX-License-Identifier: Apache-2.0
"""The step function with a learnable threshold: how many features are active, with a gradient."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._llvm import fabs, select
from steepest.kernels._registry import device
from steepest.kernels._with_parameter import WithParameter

__all__ = ["heaviside"]

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


@device
def _step(x, threshold, unused):
    # NaN is not above the threshold, but it must not be hidden.
    return select(x <= threshold, _ZERO, select(x > threshold, _ONE, x))


@device
def _step_slope(x, threshold, bandwidth):
    near = fabs(x - threshold) < _HALF * bandwidth
    return _ZERO, select(near, -_ONE / bandwidth, _ZERO)


class _PlainStep(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return torch.where(x <= threshold, 0.0, torch.where(x > threshold, 1.0, x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.bandwidth = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, threshold = ctx.saved_tensors
        by_threshold = _plain_slope(x, threshold, ctx.bandwidth)
        return torch.zeros_like(grad), (grad * by_threshold).sum_to_size(threshold.shape), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, threshold = ctx.saved_tensors
        slope = _plain_slope(x, threshold, ctx.bandwidth)
        return torch.zeros_like(x) if tangents[1] is None else slope * tangents[1]


def _plain_slope(x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    return ((x - threshold).abs() < 0.5 * bandwidth).to(x.dtype) * (-1 / bandwidth)


_HEAVISIDE = WithParameter("heaviside", value=_step, slope=_step_slope, plain=_PlainStep.apply, parameter="threshold")


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
    if not 0 < bandwidth < float("inf"):
        raise ValueError(f"heaviside expects a positive finite bandwidth, got {bandwidth}")
    return _HEAVISIDE(x, threshold, float(bandwidth))
