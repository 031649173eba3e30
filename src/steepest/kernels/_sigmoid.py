# SPDX-License-Identifier: Apache-2.0
"""Device functions in float32 built on e^-|x|: sigmoid, tanh, softplus, SiLU and the tanh form of GELU."""

import numpy as np

from steepest.kernels import _coefficients as k
from steepest.kernels._exp import exp_pair_f32, expm1_pair_f32
from steepest.kernels._llvm import copysign, fabs, fma, max_or_second, min_or_second, scale, select
from steepest.kernels._log import log1p_f32
from steepest.kernels._registry import device

F32 = np.float32
_ZERO, _ONE = F32(0), F32(1)
_FARTHEST, _TANH_IS_ONE, _GELU_IS_LINEAR = F32(130), F32(10), F32(12)
_LINEAR, _LINEAR_LOW, _CUBIC, _CUBIC_LOW = k.GELU_LINEAR, k.GELU_LINEAR_LOW, k.GELU_CUBIC, k.GELU_CUBIC_LOW


@device
def _divide(high, low, divisor, divisor_low):
    """Return (high + low) / (divisor + divisor_low) rounded almost once."""
    inverse = _ONE / divisor
    quotient = high * inverse
    return fma(fma(-quotient, divisor, high) + fma(-quotient, divisor_low, low), inverse, quotient)


@device
def _times_sigmoid(factor, positive, high, low):
    """Return factor times sigmoid(+-(high + low)) for high + low >= 0, the sign + where `positive`.

    The power of two comes last, so the product keeps its bits where the sigmoid alone would be subnormal.
    """
    n, m, m_low = exp_pair_f32(-high, -low)
    z = scale(m, n)
    divisor = _ONE + z
    product = factor * m
    top = select(positive, factor, product)
    top_low = select(positive, _ZERO, fma(factor, m, -product) + factor * m_low)
    return scale(_divide(top, top_low, divisor, (_ONE - divisor) + z), select(positive, _ZERO, n))


@device
def sigmoid_f32(x):
    """Return 1 / (1 + e^-x) within 2 ulp for every float32, subnormal results included."""
    return _times_sigmoid(_ONE, x >= _ZERO, min_or_second(_FARTHEST, fabs(x)), _ZERO)


@device
def silu_f32(x):
    """Return x / (1 + e^-x) within 2 ulp for every float32; -0 at -inf."""
    near = min_or_second(_FARTHEST, fabs(x))
    value = copysign(_times_sigmoid(near, x >= _ZERO, near, _ZERO), x)
    return select(x > _FARTHEST, x, value)


@device
def gelu_tanh_f32(x):
    """Return x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 within 2 ulp for every float32; -0 at -inf."""
    near = min_or_second(_GELU_IS_LINEAR, fabs(x))
    square = near * near
    square_low = fma(near, near, -square)
    term = _CUBIC * square
    term_low = fma(_CUBIC, square, -term) + fma(_CUBIC, square_low, _CUBIC_LOW * square)
    slope = _LINEAR + term
    part = slope - _LINEAR
    slope_low = ((_LINEAR - (slope - part)) + (term - part)) + (_LINEAR_LOW + term_low)
    argument = near * slope
    argument_low = fma(near, slope, -argument) + near * slope_low
    value = copysign(_times_sigmoid(near, x >= _ZERO, argument, argument_low), x)
    return select(x > _GELU_IS_LINEAR, x, value)


@device
def tanh_f32(x):
    """Return tanh x within 1 ulp for every float32."""
    size = min_or_second(_TANH_IS_ONE, fabs(x))
    half, rest = expm1_pair_f32(size + size)
    divisor = half + _ONE
    part = divisor - half
    lost = (half - (divisor - part)) + (_ONE - part)
    # A product of subnormals in the division would lose bits; x itself is right there.
    value = _divide(half, rest, divisor, lost + rest)
    return copysign(select(fabs(x) < _SMALL, fabs(x), value), x)


@device
def softplus_f32(x):
    """Return ln(1 + e^x) within 2 ulp for every float32, subnormal results included."""
    n, m, _ = exp_pair_f32(-min_or_second(_FARTHEST, fabs(x)), _ZERO)
    return max_or_second(_ZERO, x) + log1p_f32(scale(m, n))


_SMALL = F32(2.0**-13)
