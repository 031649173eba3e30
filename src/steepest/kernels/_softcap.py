# SPDX-License-Identifier: Apache-2.0
"""Device functions in float32: the softcap of logits, c tanh(x / c), its slope, and both where there is none."""

import numpy as np

from steepest.kernels._exp import extexp_f32
from steepest.kernels._llvm import fabs, scale, select
from steepest.kernels._registry import device
from steepest.kernels._sigmoid import tanh_f32

F32 = np.float32
_ONE, _FOUR = F32(1), F32(4)
_FARTHEST = F32(60)


@device
def uncapped(x, cap):
    return x


@device
def softcapped(x, cap):
    return cap * tanh_f32(x / cap)


@device
def uncapped_slope(x, cap):
    return _ONE


@device
def softcapped_slope(x, cap):
    """Return 1 / cosh^2(x / cap), without the cancellation of 1 - tanh^2."""
    size = fabs(x / cap)
    size = select(size > _FARTHEST, _FARTHEST, size)
    m, n = extexp_f32(-(size + size))
    z = scale(m, n)
    divisor = _ONE + z
    return _FOUR * (z / (divisor * divisor))
