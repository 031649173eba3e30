# SPDX-License-Identifier: Apache-2.0
"""ReLU, SiLU and both forms of GELU, forward and backward in one sweep each.

16-bit tensors are computed in float32 and rounded once; autocast changes nothing; float64 and other devices take the
same mathematics in torch. The backward pass keeps the input alone.
"""

from typing import Literal

import torch
from torch import Tensor

from steepest.kernels import _gates
from steepest.kernels._elementwise import Elementwise
from steepest.kernels._erf import gelu_f32
from steepest.kernels._llvm import select
from steepest.kernels._registry import device

__all__ = ["gelu", "relu", "silu"]


@device
def _relu_gradient(grad, x):
    return select(x > _gates.F32(0), grad, _gates.F32(0))


@device
def _silu_gradient(grad, x):
    return grad * _gates.silu_slope(x)[1]


@device
def _gelu_gradient(grad, x):
    return grad * _gates.gelu_slope(x)[1]


@device
def _gelu_tanh_gradient(grad, x):
    return grad * _gates.gelu_tanh_slope(x)[1]


_RELU = Elementwise(
    "relu",
    value=_gates.relu,
    gradient=_relu_gradient,
    plain=torch.relu,
    plain_slope=lambda x: (x > 0).to(x.dtype),
)
_SILU = Elementwise(
    "silu",
    value=_gates.silu,
    gradient=_silu_gradient,
    plain=_gates.plain_silu,
    plain_slope=_gates.plain_silu_slope,
)
_GELU = Elementwise(
    "gelu",
    value=gelu_f32,
    gradient=_gelu_gradient,
    plain=_gates.plain_gelu,
    plain_slope=_gates.plain_gelu_slope,
)
_GELU_TANH = Elementwise(
    "gelu_tanh",
    value=_gates.gelu_tanh,
    gradient=_gelu_tanh_gradient,
    plain=_gates.plain_gelu_tanh,
    plain_slope=_gates.plain_gelu_tanh_slope,
)


def relu(x: Tensor) -> Tensor:
    r"""Return $\max(x, 0)$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Exact. NaN stays NaN. The slope at 0 is 0.

    Example:
        >>> import torch
        >>> from steepest.functional import relu
        >>> relu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0., 0., 2.])
    """
    return _RELU(x)


def silu(x: Tensor) -> Tensor:
    r"""Return $x / (1 + e^{-x})$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 2 ulp of the exact value for every float32 x, tails and subnormal results included; -0 at -inf.

    Example:
        >>> import torch
        >>> from steepest.functional import silu
        >>> silu(torch.tensor([-100.0, 0.0, 1.0]))
        tensor([-3.7835e-42,  0.0000e+00,  7.3106e-01])
    """
    return _SILU(x)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    r"""Return $x \, \Phi(x)$, or its tanh form $x (1 + \tanh(\sqrt{2 / \pi} (x + 0.044715 x^3))) / 2$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.
        approximate: "none" or "tanh".

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.
        ValueError: If approximate is not one of the two.

    Numerics:
        Within 2 ulp of the exact value of either form for every float32 x, tails and subnormal results included: the
        first is computed as $x \, \mathrm{erfc}(-x / \sqrt 2) / 2$, the second as $x$ times a sigmoid. -0 at -inf.

    Example:
        >>> import torch
        >>> from steepest.functional import gelu
        >>> gelu(torch.tensor([-10.0, 0.0, 1.0]))
        tensor([-7.6199e-23,  0.0000e+00,  8.4134e-01])

    References:
        Hendrycks and Gimpel (2016), Gaussian error linear units, arXiv 1606.08415.
    """
    if approximate not in {"none", "tanh"}:
        raise ValueError(f"gelu expects approximate='none' or 'tanh', got {approximate!r}")
    return (_GELU if approximate == "none" else _GELU_TANH)(x)
