# SPDX-License-Identifier: Apache-2.0
"""Device functions in float32 built on e^-|x|: sigmoid, tanh, softplus, SiLU and the tanh form of GELU.

sigmoid, SiLU and GELU's tanh form divide by 1 + e^-u. With e^-u = 2^n (1 + t p(t)) that is (1 + 2^n) + 2^n t p(t): one
fused step, so the exponential is never rounded by itself. The divisor carries a factor 2^-32, which keeps it finite
wherever the quotient is not 0, and the quotient's own 2^-32 comes last, so that subnormal results round once.
"""

import numpy as np

from steepest.kernels import _coefficients as k
from steepest.kernels._exp import exp_pair_f32, expm1_pair_f32
from steepest.kernels._llvm import (
    copysign,
    fabs,
    fma,
    horner,
    max_or_second,
    min_or_second,
    power_of_low_bits,
    scale,
    select,
)
from steepest.kernels._log import log1p_f32
from steepest.kernels._registry import device

F32 = np.float32
_ZERO, _ONE = F32(0), F32(1)
_FARTHEST, _TANH_IS_ONE = F32(130), F32(10)
#: A divisor's factor, and what rounds n so that its low bits are n's biased exponent with that factor.
SHIFT, ROUNDER = F32(2.0**-32), F32(1.5 * 2**23 + 127 - 32)
_LOG2E, _LN2_HI, _LN2_LO, _EXP = k.LOG2E, k.LN2_HI, k.LN2_LO, k.EXP.coefficients[1:]
# Below the first the result rounds to 0; above the second 1 + e^-u is 1.
_SIGMOID_LOWEST, _SILU_LOWEST, _HIGHEST = F32(-105), F32(-109), F32(60)
_RATIO, _RATIO_LOW, _GELU_LN2, _GELU_LN2_LOW = k.GELU_RATIO, k.GELU_RATIO_LOW, k.GELU_LN2, k.GELU_LN2_LOW
_GELU_LOG2E, _GELU_UNIT = F32(1 / 9.714091028023696), F32(1 / 0.07135481627260025)
# e^(GELU_CUBIC t) has the coefficients of e^t times powers of GELU_CUBIC.
_GELU_EXP = tuple(F32(float(c) * 0.07135481627260025**i) for i, c in enumerate(_EXP, 1))
_GELU_LOWEST, _GELU_HIGHEST = F32(-10.8125), F32(8)


@device
def _divide(high, low, divisor, divisor_low):
    """Return (high + low) / (divisor + divisor_low) rounded almost once."""
    inverse = _ONE / divisor
    quotient = high * inverse
    return fma(fma(-quotient, divisor, high) + fma(-quotient, divisor_low, low), inverse, quotient)


@device
def _divisor(power, t, unit, p):
    """Return 2^-32 (1 + e^-u) for power = 2^(n - 32) and e^-u = 2^n (1 + t p), unit = 1 / p(0)."""
    both = power + SHIFT
    # From n = 24 on the sum loses its 1: give it to t p, which is as good as exact because p is nearly 1 / unit.
    return fma(fma(power, t, (SHIFT - (both - power)) * unit), p, both)


@device
def reduce_negated(x):
    """Return (2^(n - 32), t) with e^-x = 2^n e^t, for x in [-109, 60] or NaN."""
    rounded = fma(x, -_LOG2E, ROUNDER)
    n = rounded - ROUNDER
    return power_of_low_bits(rounded), fma(n, -_LN2_LO, fma(n, -_LN2_HI, -x))


@device
def sigmoid_f32(x):
    """Return 1 / (1 + e^-x) within 1.6 ulp for every float32, subnormal results included."""
    power, t = reduce_negated(min_or_second(_HIGHEST, max_or_second(_SIGMOID_LOWEST, x)))
    return (_ONE / _divisor(power, t, _ONE, horner(t, _EXP))) * SHIFT


@device
def silu_f32(x):
    """Return x / (1 + e^-x) within 1.6 ulp for every float32, subnormal results included; -0 at -inf."""
    near = min_or_second(_HIGHEST, max_or_second(_SILU_LOWEST, x))
    power, t = reduce_negated(near)
    return select(x > _HIGHEST, x, (near / _divisor(power, t, _ONE, horner(t, _EXP))) * SHIFT)


@device
def gelu_tanh_f32(x):
    """Return x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 within 1.9 ulp for every float32; -0 at -inf."""
    near = min_or_second(_GELU_HIGHEST, max_or_second(_GELU_LOWEST, x))
    total = fma(near, near, _RATIO)
    total_low = fma(near, near, _RATIO - total) + _RATIO_LOW
    u = near * total  # in units of GELU_CUBIC, as is t
    u_low = fma(near, total_low, fma(near, total, -u))
    rounded = fma(u, -_GELU_LOG2E, ROUNDER)
    n = rounded - ROUNDER
    t = fma(n, -_GELU_LN2, -u) - fma(n, _GELU_LN2_LOW, u_low)
    divisor = _divisor(power_of_low_bits(rounded), t, _GELU_UNIT, horner(t, _GELU_EXP))
    return select(x > _GELU_HIGHEST, x, (near / divisor) * SHIFT)


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
