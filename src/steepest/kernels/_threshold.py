# SPDX-License-Identifier: Apache-2.0
"""Functions with a learnable threshold, whose gradient is estimated in a window around it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._llvm import fabs
from steepest.kernels._registry import device
from steepest.kernels._with_parameter import WithParameter

_HALF = np.float32(0.5)


@device
def in_window(x, threshold, bandwidth):
    """Return whether x is less than half a bandwidth from the threshold."""
    return fabs(x - threshold) < _HALF * bandwidth


def plain_window(x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Return 1 where x is less than half a bandwidth from the threshold, 0 elsewhere, in torch."""
    return ((x - threshold).abs() < 0.5 * bandwidth).to(x.dtype)


class Thresholded:
    """An elementwise function of x, a learnable threshold and a bandwidth, on every route.

    Args:
        name: Public name.
        value: Device function (x, threshold, bandwidth) -> value.
        slope: Device function (x, threshold, bandwidth) -> (derivative by x, straight-through one by the threshold).
        plain_value: (x, threshold) -> value, in torch.
        plain_slope: (x, threshold, bandwidth) -> both derivatives, in torch.
    """

    def __init__(
        self, name: str, *, value: Any, slope: Any,
        plain_value: Callable[[Tensor, Tensor], Tensor],
        plain_slope: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
    ) -> None:  # fmt: skip
        self.name = name
        plain = _straight_through(plain_value, plain_slope)
        self._function = WithParameter(name, value=value, slope=slope, plain=plain, parameter="threshold")

    def __call__(self, x: Tensor, threshold: Tensor | float, bandwidth: float) -> Tensor:
        """Return the function, after checking its operands."""
        if not 0 < bandwidth < float("inf"):
            raise ValueError(f"{self.name} expects a positive finite bandwidth, got {bandwidth}")
        return self._function(x, threshold, float(bandwidth))


def _straight_through(
    value: Callable[[Tensor, Tensor], Tensor], slope: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
) -> Callable[..., Any]:
    class Plain(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
            return value(x, threshold)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            ctx.save_for_backward(*inputs[:2])
            ctx.save_for_forward(*inputs[:2])
            ctx.bandwidth = inputs[2]

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            x, threshold = ctx.saved_tensors
            by_x, by_threshold = slope(x, threshold, ctx.bandwidth)
            return grad * by_x, (grad * by_threshold).sum_to_size(threshold.shape), None

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            x, threshold = ctx.saved_tensors
            pairs = zip(slope(x, threshold, ctx.bandwidth), tangents, strict=False)
            return sum((s * t for s, t in pairs if t is not None), torch.zeros_like(x))

    return Plain.apply
