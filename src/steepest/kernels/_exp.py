# SPDX-License-Identifier: Apache-2.0
"""Device functions in float32: the extended exponential, exp, exp2, expm1.

`extexp` gives e^x as m 2^n with n an integral float32, so sums and quotients of exponentials need no maximum taken off
first (Dukhan and Ablavatski 2020, arXiv 2001.04438). All of them keep NaN.
"""

import numpy as np

from steepest.kernels import _coefficients as k
from steepest.kernels._llvm import (
    fabs,
    fma,
    horner,
    max_or_second,
    min_or_second,
    power_of_two,
    rint,
    scale_rounded,
    select,
)
from steepest.kernels._registry import device

F32 = np.float32
_LOG2E, _LN2_HI, _LN2_LO = k.LOG2E, k.LN2_HI, k.LN2_LO
_EXP, _EXP2, _EXPM1 = (p.coefficients for p in (k.EXP, k.EXP2, k.EXPM1))
_ONE, _HALF, _TWO = F32(1), F32(0.5), F32(2)
# Below the first, e^x rounds to 0; above the second it overflows.
_EXP_LOWEST, _EXP_HIGHEST = F32(-105), F32(89)
_EXP2_LOWEST, _EXP2_HIGHEST = F32(-151), F32(130)
_EXPM1_LOWEST, _LAST_WITH_ONE, _LINEAR = F32(-40), F32(23), F32(2.0**-25)
_ZERO = F32(0)
# Added to a number, rounds it to an integer and leaves that in the low bits.
_ROUNDER = F32(1.5 * 2.0**23)


@device
def extexp_f32(x):
    """Return (m, n) with e^x = m 2^n, m in [0.70, 1.42]; x finite and |x| < 1e6, or NaN. Error of m 0.9 ulp."""
    n = rint(x * _LOG2E)
    t = fma(n, -_LN2_HI, x)
    t = fma(n, -_LN2_LO, t)
    return horner(t, _EXP), n


@device
def exp_f32(x):
    """Return e^x within 0.9 ulp for every float32, subnormal results included."""
    x = min_or_second(_EXP_HIGHEST, max_or_second(_EXP_LOWEST, x))
    k = fma(x, _LOG2E, _ROUNDER)
    n = k - _ROUNDER
    t = fma(n, -_LN2_HI, x)
    t = fma(n, -_LN2_LO, t)
    return scale_rounded(horner(t, _EXP), k)


@device
def exp2_f32(x):
    """Return 2^x within 0.9 ulp for every float32, subnormal results included."""
    x = min_or_second(_EXP2_HIGHEST, max_or_second(_EXP2_LOWEST, x))
    k = x + _ROUNDER
    return scale_rounded(horner(x - (k - _ROUNDER), _EXP2), k)


@device
def reduce_f32(high, low):
    """Return (n, t, rest) with high + low = n ln 2 + t + rest, |rest| <= ulp(t): for e^(high + low) beyond float32."""
    n = rint(high * _LOG2E)
    near = fma(n, -_LN2_HI, high)
    low = fma(n, -_LN2_LO, low)
    t = near + low
    return n, t, (near - t) + low


@device
def exp_pair_f32(high, low):
    """Return (n, m, rest) with e^(high + low) = (m + rest) 2^n to about 2^-28; |high| < 200."""
    n, t, rest = reduce_f32(high, low)
    near = _ONE + t
    small = ((_ONE - near) + t) + fma(t * t, horner(t, _EXPM1), rest)
    m = near + small
    return n, m, (near - m) + small


@device
def expm1_pair_f32(x):
    """Return (sum, rest) with (e^x - 1) / 2 = sum + rest, |rest| <= ulp(sum), x clamped into [-40, 89]."""
    n, t, rest = reduce_f32(min_or_second(_EXP_HIGHEST, max_or_second(_EXPM1_LOWEST, x)), _ZERO)
    # Half of everything, because 2^128 is not a float32.
    half = power_of_two(n - _ONE)
    keeps_one = n <= _LAST_WITH_ONE
    base = select(keeps_one, half - _HALF, half)
    total = fma(half, t, base)
    lost = fma(half, t, base - total) - select(keeps_one, _ZERO, _HALF)
    low = fma(half, fma(t * t, horner(t, _EXPM1), rest), lost)
    value = total + low
    return value, (total - value) + low


@device
def expm1_f32(x):
    """Return e^x - 1 within 1 ulp for every float32."""
    half, _ = expm1_pair_f32(x)
    return select(fabs(x) < _LINEAR, x, _TWO * half)
