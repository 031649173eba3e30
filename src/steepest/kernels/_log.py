# SPDX-License-Identifier: Apache-2.0
"""Device functions in float32: log, log1p."""

import numpy as np

from steepest.kernels import _coefficients as k
from steepest.kernels._llvm import bits_f32, copysign, f32_bits, fma, horner, min_or_second, power_of_two, select
from steepest.kernels._registry import device

F32, I32 = np.float32, np.int32
_LOG = k.LOG.coefficients
_LN2_SHORT, _LN2_REST = k.LN2_SHORT, k.LN2_REST
_ZERO, _ONE, _HALF = F32(0), F32(1), F32(0.5)
_TINY, _TWO25, _25 = F32(2.0**-126), F32(2.0**25), F32(25)
_SQRT_HALF_BITS, _MANTISSA, _SHIFT = I32(0x3F3504F3), I32(0x7FFFFF), I32(23)
_INF, _NAN, _MAX_EXPONENT = F32(np.inf), F32(np.nan), F32(120)


@device
def _split(x):
    """Return (e, f) with x = 2^e (1 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1), for a normal positive x."""
    offset = I32(bits_f32(x) - _SQRT_HALF_BITS)
    e = offset >> _SHIFT
    mantissa = I32(I32(offset & _MANTISSA) + _SQRT_HALF_BITS)
    return F32(I32(e)), f32_bits(mantissa) - _ONE


@device
def _log_of(e, f, rest):
    """Return e ln 2 + ln(1 + f + rest) for |rest| <= ulp(f)."""
    total = fma(e, _LN2_SHORT, f)
    lost = f - (total - e * _LN2_SHORT)
    small = fma(e, _LN2_REST, lost + fma(rest, -f, rest))
    return total + fma(f * f, fma(f, horner(f, _LOG), -_HALF), small)


@device
def log_f32(x):
    """Return ln x within 1 ulp for every float32; -inf at 0, NaN below."""
    subnormal = x < _TINY
    e, f = _split(select(subnormal, x * _TWO25, x))
    value = _log_of(select(subnormal, e - _25, e), f, _ZERO)
    value = select(x < _INF, value, x)  # inf and NaN
    return select(x > _ZERO, value, select(x == _ZERO, -_INF, _NAN))


@device
def log1p_f32(x):
    """Return ln(1 + x) within 1 ulp for every float32; -inf at -1, NaN below."""
    u = _ONE + x
    part = u - _ONE
    lost = (_ONE - (u - part)) + (x - part)  # 1 + x = u + lost exactly
    e, f = _split(u)
    lost = lost * power_of_two(-min_or_second(_MAX_EXPONENT, e))
    near = f + lost
    value = copysign(_log_of(e, near, lost - (near - f)), x)
    value = select(x < _INF, value, x)
    return select(u > _ZERO, value, select(u == _ZERO, -_INF, _NAN))
