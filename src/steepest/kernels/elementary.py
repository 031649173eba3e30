# SPDX-License-Identifier: Apache-2.0
"""exp, exp2, log, log1p, expm1, sigmoid, tanh, erf and softplus, right to a stated number of ulps everywhere.

What holds for all of them. float32, bfloat16 and float16 tensors on the CPU go to kernels, the 16-bit ones computed in
float32 and rounded once (fewer than 2048 elements to torch's own function where that keeps the same bound); float64 and
other devices take the same mathematics in torch. The result is a new tensor of the input's dtype and layout; autocast
changes nothing. Gradients of every order, forward mode, `torch.func` and `torch.compile(fullgraph=True)` work. The
input is what is kept for the backward pass. The bounds hold over all 2^32 float32 inputs, subnormal results included,
and were measured on every one of them.
"""

import math

import torch
from torch import Tensor

from steepest.kernels import _erf, _exp, _gradients, _log, _sigmoid
from steepest.kernels._elementwise import Elementwise
from steepest.kernels._op import check_floating

__all__ = ["erf", "exp", "exp2", "expm1", "log", "log1p", "sigmoid", "softplus", "tanh"]


def _plain_sigmoid(x: Tensor) -> Tensor:
    z = torch.exp(-x.abs())
    return torch.where(x >= 0, 1 / (1 + z), z / (1 + z))


def _plain_sigmoid_slope(x: Tensor) -> Tensor:
    return _plain_sigmoid(x) * _plain_sigmoid(-x)


def _plain_softplus(x: Tensor) -> Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


_EXP = Elementwise(
    "exp",
    value=_exp.exp_f32,
    gradient=_gradients.exp_gradient,
    plain=torch.exp,
    plain_slope=torch.exp,
    small=torch.exp,
    small_gradient=torch.exp,
)
_EXP2 = Elementwise(
    "exp2",
    value=_exp.exp2_f32,
    gradient=_gradients.exp2_gradient,
    plain=torch.exp2,
    plain_slope=lambda x: torch.exp2(x) * math.log(2),
    small=torch.exp2,
    small_gradient=torch.exp2,
)
_EXPM1 = Elementwise(
    "expm1",
    value=_exp.expm1_f32,
    gradient=_gradients.exp_gradient,
    plain=torch.expm1,
    plain_slope=torch.exp,
    small=torch.expm1,
)
_LOG = Elementwise(
    "log",
    value=_log.log_f32,
    gradient=_gradients.log_gradient,
    plain=torch.log,
    plain_slope=torch.reciprocal,
    small=torch.log,
    small_gradient=torch.log,
)
_LOG1P = Elementwise(
    "log1p",
    value=_log.log1p_f32,
    gradient=_gradients.log1p_gradient,
    plain=torch.log1p,
    plain_slope=lambda x: 1 / (1 + x),
    small_gradient=torch.log1p,
)
_SIGMOID = Elementwise(
    "sigmoid",
    value=_sigmoid.sigmoid_f32,
    gradient=_gradients.sigmoid_gradient,
    plain=_plain_sigmoid,
    plain_slope=_plain_sigmoid_slope,
)
_TANH = Elementwise(
    "tanh",
    value=_sigmoid.tanh_f32,
    gradient=_gradients.tanh_gradient,
    plain=torch.tanh,
    plain_slope=lambda x: 4 * _plain_sigmoid_slope(2 * x),
    small=torch.tanh,
)


def _plain_erf(x: Tensor) -> Tensor:
    """Return erf x; torch's own of 16-bit tensors has no correct digit for small x."""
    return torch.erf(x.float()).to(x.dtype) if x.dtype.itemsize == 2 else torch.erf(x)


_ERF = Elementwise(
    "erf",
    value=_erf.erf_f32,
    gradient=_gradients.erf_gradient,
    plain=_plain_erf,
    plain_slope=lambda x: (2 / math.sqrt(math.pi)) * torch.exp(-x * x),
    small=_plain_erf,
)
_SOFTPLUS = Elementwise(
    "softplus",
    value=_sigmoid.softplus_f32,
    gradient=_gradients.softplus_gradient,
    plain=_plain_softplus,
    plain_slope=_plain_sigmoid,
)


def exp(x: Tensor) -> Tensor:
    r"""Return $e^x$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 0.90 ulp of the exact value for every float32 x; 0 below -103.98, inf above 88.72.

    Example:
        >>> import torch
        >>> from steepest.functional import exp
        >>> exp(torch.tensor([-100.0, 0.0, 1.0]))
        tensor([3.7835e-44, 1.0000e+00, 2.7183e+00])
    """
    return _EXP(x)


def exp2(x: Tensor) -> Tensor:
    r"""Return $2^x$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 0.88 ulp of the exact value for every float32 x; integers are exact.

    Example:
        >>> import torch
        >>> from steepest.functional import exp2
        >>> exp2(torch.tensor([-149.0, 0.5, 10.0]))
        tensor([1.4013e-45, 1.4142e+00, 1.0240e+03])
    """
    return _EXP2(x)


def log(x: Tensor) -> Tensor:
    r"""Return $\ln x$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 0.83 ulp of the exact value for every float32 x; -inf at 0, NaN below, subnormal x included.

    Example:
        >>> import torch
        >>> from steepest.functional import log
        >>> log(torch.tensor([0.0, 1.0, 2.0]))
        tensor([  -inf, 0.0000, 0.6931])
    """
    return _LOG(x)


def log1p(x: Tensor) -> Tensor:
    r"""Return $\ln(1 + x)$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 0.84 ulp of the exact value for every float32 x; -inf at -1, NaN below; -0 stays -0.

    Example:
        >>> import torch
        >>> from steepest.functional import log1p
        >>> log1p(torch.tensor([-1.0, 1e-10, 1.0]))
        tensor([      -inf, 1.0000e-10, 6.9315e-01])
    """
    return _LOG1P(x)


def expm1(x: Tensor) -> Tensor:
    r"""Return $e^x - 1$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 0.89 ulp of the exact value for every float32 x; -0 stays -0.

    Example:
        >>> import torch
        >>> from steepest.functional import expm1
        >>> expm1(torch.tensor([-100.0, 1e-10, 1.0]))
        tensor([-1.0000e+00,  1.0000e-10,  1.7183e+00])
    """
    return _EXPM1(x)


def sigmoid(x: Tensor) -> Tensor:
    r"""Return $1 / (1 + e^{-x})$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 1.7 ulp of the exact value for every float32 x, also where the result is
        tiny: it reaches 0 only below -103.97. The gradient, $z / (1 + z)^2$ with $z = e^{-|x|}$, does not
        cancel on either side.

    Example:
        >>> import torch
        >>> from steepest.functional import sigmoid
        >>> sigmoid(torch.tensor([-100.0, 0.0, 1.0]))
        tensor([3.7835e-44, 5.0000e-01, 7.3106e-01])
    """
    return _SIGMOID(x)


def tanh(x: Tensor) -> Tensor:
    r"""Return $\tanh x$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 0.77 ulp of the exact value for every float32 x; -0 stays -0. The gradient, $1 / \cosh^2 x$, does
        not cancel for large |x|.

    Example:
        >>> import torch
        >>> from steepest.functional import tanh
        >>> tanh(torch.tensor([-20.0, 1e-10, 1.0]))
        tensor([-1.0000e+00,  1.0000e-10,  7.6159e-01])
    """
    return _TANH(x)


def erf(x: Tensor) -> Tensor:
    r"""Return the error function $\frac{2}{\sqrt\pi} \int_0^x e^{-t^2} dt$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 1.01 ulp of the exact value for every float32 x; -0 stays -0.

    Example:
        >>> import torch
        >>> from steepest.functional import erf
        >>> erf(torch.tensor([-5.0, 1e-10, 1.0]))
        tensor([-1.0000e+00,  1.1284e-10,  8.4270e-01])
    """
    return _ERF(x)


def softplus(x: Tensor, beta: float = 1.0) -> Tensor:
    r"""Return $\ln(1 + e^{\beta x}) / \beta$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.
        beta: Sharpness, positive.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.
        ValueError: If beta is not positive and finite.

    Numerics:
        Within 1.55 ulp of the exact value for every float32 x when beta is 1, the tail included, so it
        needs no threshold beyond which it would be linear. With another beta, the rounding of beta x adds
        |beta x| / 2 ulp for negative x.

    Example:
        >>> import torch
        >>> from steepest.functional import softplus
        >>> softplus(torch.tensor([-100.0, 0.0, 30.0]))
        tensor([3.7835e-44, 6.9315e-01, 3.0000e+01])
    """
    if beta == 1:
        return _SOFTPLUS(x)
    if not 0 < beta < math.inf:
        raise ValueError(f"softplus expects a positive finite beta, got {beta}")
    check_floating(x, "softplus")
    return _SOFTPLUS(x * beta) / beta
