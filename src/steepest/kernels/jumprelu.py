# SPDX-License-Identifier: Apache-2.0
"""JumpReLU with a learnable threshold."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._llvm import fabs, select
from steepest.kernels._registry import device
from steepest.kernels._with_parameter import WithParameter

__all__ = ["jumprelu"]

_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)


@device
def _jump(x, threshold, unused):
    # NaN is not above the threshold, but it must not be hidden.
    return select(x <= threshold, _ZERO, x)


@device
def _jump_slope(x, threshold, bandwidth):
    near = fabs(x - threshold) < _HALF * bandwidth
    return (
        select(x > threshold, _ONE, _ZERO),
        select(near, -threshold / bandwidth, _ZERO),
    )


class _PlainJump(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return torch.where(x <= threshold, torch.zeros_like(x), x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.bandwidth = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, threshold = ctx.saved_tensors
        by_x, by_threshold = _plain_jump_slopes(x, threshold, ctx.bandwidth)
        return grad * by_x, (grad * by_threshold).sum_to_size(threshold.shape), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, threshold = ctx.saved_tensors
        slopes = _plain_jump_slopes(x, threshold, ctx.bandwidth)
        return sum((s * t for s, t in zip(slopes, tangents, strict=False) if t is not None), torch.zeros_like(x))


def _plain_jump_slopes(x: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    near = ((x - threshold).abs() < 0.5 * bandwidth).to(x.dtype)
    return (x > threshold).to(x.dtype), near * (-threshold / bandwidth)


_JUMPRELU = WithParameter("jumprelu", value=_jump, slope=_jump_slope, plain=_PlainJump.apply, parameter="threshold")


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
    if not 0 < bandwidth < float("inf"):
        raise ValueError(f"jumprelu expects a positive finite bandwidth, got {bandwidth}")
    return _JUMPRELU(x, threshold, float(bandwidth))
