# SPDX-License-Identifier: Apache-2.0
"""Device functions in float32 of the normal distribution: erf, erfc, its distribution function and GELU."""

import math

import numpy as np

from steepest.kernels import _coefficients as k
from steepest.kernels._exp import exp_pair_f32, extexp_f32
from steepest.kernels._llvm import (
    copysign,
    fabs,
    fma,
    horner,
    max_or_second,
    min_or_second,
    power_of_low_bits,
    power_of_two,
    scale,
    select,
)
from steepest.kernels._registry import device

F32 = np.float32
_ZERO, _HALF, _ONE, _TWO, _THREE, _SIX = (F32(v) for v in (0, 0.5, 1, 2, 3, 6))
_SMALL, _LARGE = k.ERF_SMALL.coefficients, k.ERF_LARGE.coefficients
_PHI0, _PHI0_LOW, _PHI = k.PHI.coefficients[0], k.PHI_LOW, k.PHI.coefficients[1:]
_SQRT2, _SQRT2_LOW = k.SQRT2, k.SQRT2_LOW
_ERF_SPLIT, _ERF_IS_ONE = F32(0.925), F32(3.95)
_DENSITY_AT_0 = F32(1 / math.sqrt(2 * math.pi))
_PHI_IS_ZERO, _ERFC_IS_ZERO = F32(16), F32(11)
# GELU's exponential: everything in units of 1 / 2; the power of two carries 2^32, which comes off last.
_GELU_FARTHEST, _MINUS_ZERO = F32(14.75), F32(-0.0)
_SHIFT, _ROUNDER = F32(2.0**-32), F32(1.5 * 2**23 + 127 + 32)
_HALF_LOG2E, _TWO_LN2_HI, _TWO_LN2_LO = _HALF * k.LOG2E, _TWO * k.LN2_HI, _TWO * k.LN2_LO
_HALF_EXP = tuple(F32(c * F32(0.5**i)) for i, c in enumerate(k.EXP.coefficients) if i > 1)
_PHI_ALL, _FALLING, _CURVED = k.PHI.coefficients, F32(-1.6), F32(0.6)


@device
def erf_f32(x):
    """Return erf x within 2 ulp for every float32."""
    size = fabs(x)
    near = fma(size, horner(size * size, _SMALL), size)
    t = min_or_second(_ERF_IS_ONE, size)
    m, n = extexp_f32(fma(t, horner(t, _LARGE), -t))
    far = fma(-m, power_of_two(n), _ONE)
    return copysign(select(size > _ERF_SPLIT, far, near), x)


@device
def _mills(a):
    """Return (w, rest) with Phi(-a) = (w + rest) e^(-a^2 / 2), for a in [0, 16]."""
    d = a + _THREE
    part = d - a
    d_low = (a - (d - part)) + (_THREE - part)
    r = _ONE / d
    r_error = fma(-r, d_low, fma(-r, d, _ONE))  # the true reciprocal is r (1 + r_error)
    slope = horner(fma(-_SIX, r, _ONE), _PHI)
    q = fma(-_SIX, r, _ONE)
    g = fma(q, slope, _PHI0)
    g_low = fma(q, slope, _PHI0 - g) + _PHI0_LOW
    w = r * g
    return w, fma(r, g, -w) + r * (g_low + r_error * fma(-_SIX * r, slope, g))


@device
def _times_gaussian(factor, w, w_low, square, square_low):
    """Return factor (w + w_low) e^(-(square + square_low) / 2), within about 0.8 ulp, the power of two last."""
    n, m, m_low = exp_pair_f32(-_HALF * square, -_HALF * square_low)
    product = factor * w
    product_low = fma(factor, w, -product) + factor * w_low
    value = product * m
    value_low = fma(product, m, -value) + fma(product, m_low, product_low * m)
    return scale(value + value_low, n)


@device
def normal_cdf_f32(x):
    """Return Phi(x), the standard normal distribution function, within 2 ulp, subnormal results included."""
    a = min_or_second(_PHI_IS_ZERO, fabs(x))
    square = a * a
    w, w_low = _mills(a)
    tail = _times_gaussian(_ONE, w, w_low, square, fma(a, a, -square))
    return select(x > _ZERO, _ONE - tail, tail)


@device
def half_square_exp(a):
    """Return (2^(n + 32), t, t_low, p, p_low), e^(-a^2 / 2) being 2^n (1 + (t + t_low) (p + p_low)); a <= 14.75."""
    square = a * a
    rounded = fma(square, -_HALF_LOG2E, _ROUNDER)
    n = rounded - _ROUNDER
    # t is in units of 1 / 2, so that the square need not be halved; `near` is exact.
    near, rest = fma(n, -_TWO_LN2_HI, -square), fma(n, _TWO_LN2_LO, fma(a, a, -square))
    t = near - rest
    inner = horner(t, _HALF_EXP)
    p = fma(t, inner, _HALF)
    return power_of_low_bits(rounded), t, (near - t) - rest, p, fma(t, inner, _HALF - p)


@device
def gelu_f32(x):
    """Return x Phi(x) within 2 ulp for every float32, tails and subnormal results included; -0 at -inf."""
    a = min_or_second(_GELU_FARTHEST, fabs(x))
    power, t, t_low, p, p_low = half_square_exp(a)
    # a (w + rest) of `_mills` as b g(2 b - 1), b = a / (a + 3).
    d = a + _THREE
    r = _ONE / d
    b = a * r
    b_low = fma(-b, a - (d - _THREE), fma(-b, d, a)) * r
    q = fma(_TWO, b, -_ONE)
    slope = horner(q, _PHI)
    g = fma(q, slope, _PHI0)
    g_low = fma(q, slope, _PHI0 - g) + _PHI0_LOW
    high = b * g
    # d ln(b g) / d ln(b) is 1 - 1.6 b + 0.6 b^2 to 0.1.
    low = fma(b_low * g, fma(b, fma(b, _CURVED, _FALLING), _ONE), fma(b, g_low, fma(b, g, -high)))
    step = high * t
    small = fma(step, p, fma(fma(high, t_low, fma(high, t, -step)), p, fma(step, p_low, low)))
    tail = ((high + small) * power) * _SHIFT
    return max_or_second(_MINUS_ZERO, x) - tail


@device
def quick_gelu_f32(x):
    """Return x Phi(x) as `gelu_f32` does but without second words: within 3.6 ulp for every float32."""
    a = min_or_second(_GELU_FARTHEST, fabs(x))
    power, t, _, p, _ = half_square_exp(a)
    b = a / (a + _THREE)
    high = b * horner(fma(_TWO, b, -_ONE), _PHI_ALL)
    return max_or_second(_MINUS_ZERO, x) - (fma(high * t, p, high) * power) * _SHIFT


@device
def erfc_f32(x):
    """Return 1 - erf x within 2 ulp, subnormal results included."""
    y = min_or_second(_ERFC_IS_ZERO, fabs(x))
    square = y * y
    # Phi's argument is sqrt(2) y, but the exponential takes y^2 itself and loses nothing.
    a = y * _SQRT2
    a_low = fma(y, _SQRT2, -a) + y * _SQRT2_LOW
    w, w_low = _mills(a)
    # The slope of Phi(-a) e^(a^2 / 2) is a times itself less the density at 0.
    w_low += a_low * fma(a, w, -_DENSITY_AT_0)
    tail = _times_gaussian(_TWO, w, w_low, _TWO * square, _TWO * fma(y, y, -square))
    return select(x < _ZERO, _TWO - tail, tail)
