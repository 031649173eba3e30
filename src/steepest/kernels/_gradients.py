# SPDX-License-Identifier: Apache-2.0
"""Device functions (grad, x) -> grad * f'(x), in float32, for the elementary functions."""

import numpy as np

from steepest.kernels import _coefficients as k
from steepest.kernels._exp import exp2_f32, exp_f32, extexp_f32
from steepest.kernels._llvm import fabs, fma, min_or_second, scale
from steepest.kernels._registry import device
from steepest.kernels._sigmoid import sigmoid_f32

F32 = np.float32
_ONE, _TWO, _FOUR, _FARTHEST, _ERF_FARTHEST = F32(1), F32(2), F32(4), F32(60), F32(12)
_LN2, _TWO_OVER_SQRT_PI = F32(0.6931471805599453), k.TWO_OVER_SQRT_PI


@device
def exp_gradient(grad, x):
    """Return grad e^x; also the gradient of expm1."""
    return grad * exp_f32(x)


@device
def exp2_gradient(grad, x):
    """Return grad 2^x ln 2."""
    return grad * (exp2_f32(x) * _LN2)


@device
def log_gradient(grad, x):
    """Return grad / x."""
    return grad / x


@device
def log1p_gradient(grad, x):
    """Return grad / (1 + x)."""
    return grad / (_ONE + x)


@device
def sigmoid_gradient(grad, x):
    """Return grad z / (1 + z)^2 with z = e^-|x|: no cancellation on either side."""
    m, n = extexp_f32(-min_or_second(F32(105), fabs(x)))
    z = scale(m, n)
    d = _ONE + z
    return grad * (z / (d * d))


@device
def tanh_gradient(grad, x):
    """Return grad / cosh^2 x = grad 4 z / (1 + z)^2 with z = e^-2|x|: no cancellation for large |x|."""
    size = min_or_second(_FARTHEST, fabs(x))
    m, n = extexp_f32(-(size + size))
    z = scale(m, n)
    d = _ONE + z
    return grad * (_FOUR * (z / (d * d)))


@device
def erf_gradient(grad, x):
    """Return grad 2 / sqrt(pi) e^(-x^2), the square carried in two floats."""
    size = min_or_second(_ERF_FARTHEST, fabs(x))
    square = size * size
    m, n = extexp_f32(-square)
    return grad * scale(_TWO_OVER_SQRT_PI * fma(m, -fma(size, size, -square), m), n)


@device
def softplus_gradient(grad, x):
    """Return grad sigmoid(x)."""
    return grad * sigmoid_f32(x)
